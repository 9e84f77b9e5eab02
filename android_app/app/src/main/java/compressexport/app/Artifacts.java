package compressexport.app;

import android.content.ContentResolver;
import android.database.Cursor;
import android.net.Uri;
import android.os.Build;
import android.provider.OpenableColumns;
import compressexport.core.Engines;
import compressexport.core.Files;
import compressexport.core.Plan;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.OutputStream;
import java.text.SimpleDateFormat;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.Date;
import java.util.List;
import java.util.Locale;
import java.util.Set;
import java.util.TimeZone;
import java.util.TreeSet;
import java.util.UUID;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** The files that were picked: copies in the app's folder, where a runtime can map them into memory. */
final class Artifacts {
    static final String IMAGE = "picture.raw";
    static final String ANSWERS = "answers.raw";
    private static final List<String> OWN = Arrays.asList("artifacts.json", "network.json", IMAGE, ANSWERS);
    private static final int PIECE = 64 * 1024;

    private final File folder;

    Artifacts(File files) throws IOException {
        folder = new File(files, "picked");
        if (!folder.isDirectory() && !folder.mkdirs()) {
            throw new IOException("cannot make " + folder);
        }
    }

    File folder() {
        return folder;
    }

    /** Copies a picked document under its own name. */
    void take(ContentResolver resolver, Uri document) throws IOException {
        try (InputStream source = resolver.openInputStream(document)) {
            if (source == null) {
                throw new IOException("the system does not open " + document);
            }
            write(source, new File(folder, name(resolver, document)));
        }
    }

    /** What artifacts.json says of the files that are here. IOException with the cure where there are none. */
    List<JSONObject> listed() throws IOException, JSONException {
        List<JSONObject> found = new ArrayList<>();
        for (JSONObject row : rows()) {
            if (file(row).isFile()) {
                found.add(row);
            }
        }
        if (found.isEmpty()) {
            throw new IOException("none of the files is here that artifacts.json names: pick " + names(rows()));
        }
        return found;
    }

    /** How many files can be measured, and which names do not fit: named and not picked, picked and not named. */
    String state() throws IOException, JSONException {
        List<JSONObject> here = listed();
        List<String> absent = names(rows());
        absent.removeAll(names(here));
        Set<String> foreign = new TreeSet<>(Arrays.asList(folder.list()));
        foreign.removeAll(names(here));
        foreign.removeAll(OWN);
        return here.size() + " files to measure" + (absent.isEmpty() ? "" : "; not picked: " + absent)
                + (foreign.isEmpty() ? "" : "; not named in artifacts.json, so left out: " + foreign);
    }

    /** The image's size and how it is normalized: network.json. */
    JSONObject network() throws IOException, JSONException {
        return new JSONObject(told("network.json"));
    }

    /** A plan to measure that file on one image, which lies in {@code image}. */
    Plan plan(JSONObject row, File image) throws JSONException {
        JSONObject fields = new JSONObject();
        fields.put("schema", Plan.SCHEMA);
        fields.put("name", file(row).getName());
        for (String name : new String[] {"network", "format", "sha256", "bytes"}) {
            fields.put(name, row.get(name));
        }
        fields.put("file", file(row).getPath());
        fields.put("input_shape", row.getJSONArray("input"));
        fields.put("images", new JSONArray().put(image.getPath()));
        // A format that no engine knows is refused by name when it is to be run.
        fields.put("runtime", String.valueOf(Engines.RUNTIMES.get(row.getString("format"))));
        fields.put("schedule", schedule());
        fields.put("device", device());
        fields.put("session", UUID.randomUUID().toString());
        fields.put("turn", 0);
        fields.put("note", "one process for all picked files: memory that an earlier one gave back is not counted again");
        SimpleDateFormat form = new SimpleDateFormat("yyyy-MM-dd'T'HH:mm:ss'+00:00'", Locale.ROOT);
        form.setTimeZone(TimeZone.getTimeZone("UTC"));
        fields.put("measured_at", form.format(new Date()));
        return new Plan(fields, folder);
    }

    private List<JSONObject> rows() throws IOException, JSONException {
        JSONArray told = new JSONArray(told("artifacts.json"));
        List<JSONObject> rows = new ArrayList<>();
        for (int place = 0; place < told.length(); place++) {
            rows.add(told.getJSONObject(place));
        }
        return rows;
    }

    private List<String> names(List<JSONObject> rows) throws JSONException {
        List<String> names = new ArrayList<>();
        for (JSONObject row : rows) {
            names.add(file(row).getName());
        }
        return names;
    }

    private File file(JSONObject row) throws JSONException {
        return new File(folder, new File(row.getString("path")).getName());
    }

    private String told(String name) throws IOException {
        File file = new File(folder, name);
        if (!file.isFile()) {
            throw new IOException("pick " + name + " of the run's folder as well: it says what the files are");
        }
        return Files.text(file);
    }

    private static JSONObject schedule() throws JSONException {
        JSONObject fields = new JSONObject();
        fields.put("threads", 1).put("warmup_runs", 10).put("warmup_seconds", 0.5).put("runs", 50).put("seconds", 1.0);
        fields.put("rounds", 1).put("settle_runs", 0).put("cap_seconds", 30.0).put("timeout_seconds", 300.0);
        return fields.put("cores", JSONObject.NULL).put("cluster", JSONObject.NULL).put("cool_seconds", 0.0);
    }

    private static JSONObject device() throws JSONException {
        JSONObject fields = new JSONObject();
        fields.put("kind", "phone").put("name", Build.MANUFACTURER + " " + Build.MODEL).put("cpu", Build.HARDWARE);
        fields.put("cores", Runtime.getRuntime().availableProcessors());
        fields.put("os", "Android " + Build.VERSION.RELEASE + " (SDK " + Build.VERSION.SDK_INT + ")");
        fields.put("memory_kb", JSONObject.NULL).put("serial", "").put("page_bytes", JSONObject.NULL);
        return fields.put("process", "app");
    }

    private static String name(ContentResolver resolver, Uri document) throws IOException {
        try (Cursor found = resolver.query(document, new String[] {OpenableColumns.DISPLAY_NAME}, null, null, null)) {
            if (found == null || !found.moveToFirst()) {
                throw new IOException("the system does not name " + document);
            }
            // A name from elsewhere is a name, never a path.
            return new File(found.getString(0)).getName();
        }
    }

    private static void write(InputStream source, File target) throws IOException {
        try (OutputStream copy = new FileOutputStream(target)) {
            byte[] piece = new byte[PIECE];
            for (int count = source.read(piece); count >= 0; count = source.read(piece)) {
                copy.write(piece, 0, count);
            }
        }
    }
}
