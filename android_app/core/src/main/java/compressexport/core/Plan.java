package compressexport.core;

import java.io.File;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * One file to measure in this process, as {@code bench.phone.app} writes it. Paths are relative to the plan's folder.
 *
 * <p>What the row must repeat ({@code device}, {@code schedule}, {@code session}) is carried as it came.
 */
public final class Plan {
    public static final int SCHEMA = 1;

    public final String name;
    public final String network;
    public final String format;
    public final File file;
    public final String sha256;
    public final long bytes;
    public final long[] inputShape;
    public final List<File> images;
    public final String runtime;
    /** Hexadecimal mask of the cores to run on; null leaves them to the system. */
    public final String cores;
    /** What the file answers elsewhere, float32; null where nothing is to be compared. */
    public final File golden;
    /** Where the answers go; null where nobody wants them. */
    public final File answers;

    public final Schedule schedule;
    public final JSONObject scheduleFields;
    public final JSONObject device;
    public final String session;
    public final int turn;
    public final String measuredAt;
    /** What a reader of the row must know of how it was made; empty where there is nothing. */
    public final String note;

    private final JSONObject fields;
    private final File folder;

    /** The plan in this file. BenchException if it is none, or of another version of compress-export. */
    public static Plan read(File path) throws BenchException {
        try {
            JSONObject fields = new JSONObject(Files.text(path));
            if (fields.getInt("schema") != SCHEMA) {
                throw new BenchException(
                        "this app reads plans of schema " + SCHEMA + ", and " + path.getName() + " has "
                                + fields.getInt("schema") + "; install the app and compress-export of one release");
            }
            return new Plan(fields, path.getAbsoluteFile().getParentFile());
        } catch (JSONException | IOException broken) {
            throw new BenchException(
                    path.getName() + " is no plan: " + broken.getMessage() + "; `compress-export bench` writes one",
                    broken);
        }
    }

    /** The plan of these fields, whose paths lie in {@code folder}. */
    public Plan(JSONObject fields, File folder) throws JSONException {
        this.fields = fields;
        this.folder = folder;
        name = fields.getString("name");
        network = fields.getString("network");
        format = fields.getString("format");
        file = inside(folder, fields.getString("file"));
        sha256 = fields.getString("sha256");
        bytes = fields.getLong("bytes");
        inputShape = longs(fields.getJSONArray("input_shape"));
        images = files(folder, fields.getJSONArray("images"));
        runtime = fields.getString("runtime");
        cores = fields.isNull("cores") ? null : fields.getString("cores");
        golden = fields.isNull("golden") ? null : inside(folder, fields.getString("golden"));
        answers = fields.isNull("answers") ? null : inside(folder, fields.getString("answers"));
        scheduleFields = fields.getJSONObject("schedule");
        schedule = new Schedule(scheduleFields);
        device = fields.getJSONObject("device");
        session = fields.getString("session");
        turn = fields.getInt("turn");
        measuredAt = fields.getString("measured_at");
        note = fields.optString("note");
    }

    /** The same plan, whose answers go to this file. */
    public Plan answering(File place) throws JSONException {
        return new Plan(new JSONObject(fields.toString()).put("answers", place.getPath()), folder);
    }

    /** How many numbers an image has. */
    long imageSize() {
        long size = 1;
        for (long side : inputShape) {
            size = Math.multiplyExact(size, side);
        }
        return size;
    }

    private static File inside(File folder, String path) {
        File place = new File(path);
        return place.isAbsolute() ? place : new File(folder, path);
    }

    private static long[] longs(JSONArray values) throws JSONException {
        long[] numbers = new long[values.length()];
        for (int place = 0; place < numbers.length; place++) {
            numbers[place] = values.getLong(place);
        }
        return numbers;
    }

    private static List<File> files(File folder, JSONArray names) throws JSONException {
        List<File> found = new ArrayList<>();
        for (int place = 0; place < names.length(); place++) {
            found.add(inside(folder, names.getString(place)));
        }
        return found;
    }
}
