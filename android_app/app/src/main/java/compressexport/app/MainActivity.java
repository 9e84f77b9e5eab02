package compressexport.app;

import android.app.Activity;
import android.content.ClipData;
import android.content.Intent;
import android.graphics.Bitmap;
import android.net.Uri;
import android.os.Bundle;
import android.view.View;
import android.widget.ArrayAdapter;
import android.widget.Button;
import android.widget.ImageView;
import android.widget.LinearLayout;
import android.widget.ListView;
import android.widget.TextView;
import compressexport.core.Bench;
import compressexport.core.Files;
import compressexport.core.Plan;
import java.io.File;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.util.ArrayList;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;
import org.json.JSONException;
import org.json.JSONObject;

/** Pick artifacts and a picture, run, and read: what the files say of the picture, and how long each took. */
public final class MainActivity extends Activity {
    static final int FILES = 1;
    static final int PICTURE = 2;
    static final int RUNS = 3;
    private static final float EDGE = 16;
    private static final String NONE_PICKED =
            "Pick artifacts.json, network.json and the files of a run's folder, then a picture.";

    private TextView said;
    private ImageView shown;
    private Columns answers;
    private Button run;
    private ArrayAdapter<String> runs;
    private Artifacts artifacts;
    private Thread work;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        setContentView(page());
        try {
            artifacts = new Artifacts(getFilesDir());
        } catch (IOException broken) {
            said.setText(broken.getMessage());
            run.setEnabled(false);
        }
    }

    /** From the top: buttons, the picture, what is said, a column for each network, all runs. */
    private View page() {
        LinearLayout page = new LinearLayout(this);
        page.setOrientation(LinearLayout.VERTICAL);
        page.setFitsSystemWindows(true);
        page.addView(button("Pick artifacts", view -> pick("*/*", FILES)));
        page.addView(button("Pick a picture", view -> pick("image/*", PICTURE)));
        run = button("Run", view -> start());
        page.addView(run);
        ListView list = new ListView(this);
        list.setId(RUNS);
        list.addHeaderView(head(), null, false);
        runs = new ArrayAdapter<>(this, android.R.layout.simple_list_item_1, new ArrayList<>());
        list.setAdapter(runs);
        page.addView(list);
        return page;
    }

    /** What scrolls away above the runs, however long it is. */
    private View head() {
        LinearLayout head = new LinearLayout(this);
        head.setOrientation(LinearLayout.VERTICAL);
        shown = new ImageView(this);
        head.addView(shown, new LinearLayout.LayoutParams(LinearLayout.LayoutParams.MATCH_PARENT, 300));
        said = new TextView(this);
        said.setText(NONE_PICKED);
        head.addView(said);
        answers = new Columns(this);
        head.addView(answers);
        int edge = Math.round(EDGE * getResources().getDisplayMetrics().density);
        said.setPadding(edge, 0, edge, edge);
        answers.setPadding(edge, 0, edge, 0);
        return head;
    }

    @Override
    protected void onResume() {
        super.onResume();
        list();
    }

    @Override
    protected void onActivityResult(int request, int result, Intent data) {
        if (result != RESULT_OK || data == null) {
            return;
        }
        try {
            if (request == PICTURE) {
                Bitmap picture = Picture.open(getContentResolver(), data.getData());
                shown.setImageBitmap(picture);
                Picture.write(picture, artifacts.network(), new File(artifacts.folder(), Artifacts.IMAGE));
            } else {
                for (Uri each : picked(data)) {
                    artifacts.take(getContentResolver(), each);
                }
            }
            said.setText(artifacts.state());
        } catch (IOException | JSONException | RuntimeException broken) {
            said.setText(String.valueOf(broken.getMessage()));
        } catch (OutOfMemoryError full) {
            said.setText("what was picked does not fit this app's memory: " + full.getMessage()
                    + "; close apps, or pick smaller ones");
        }
    }

    /** Waits until the measurement has ended; for tests. */
    void join() throws InterruptedException {
        work.join();
    }

    private void start() {
        run.setEnabled(false);
        work = new Thread(this::measure, "bench");
        work.start();
    }

    private void measure() {
        Map<String, String> said = new LinkedHashMap<>();
        try {
            File image = new File(artifacts.folder(), Artifacts.IMAGE);
            if (!image.isFile()) {
                throw new IOException("pick a picture first: the files are measured on it");
            }
            for (JSONObject row : artifacts.listed()) {
                tell("measuring " + row.getString("path") + " ...");
                said.merge(row.getString("network"), answer(row, image), (above, below) -> above + below);
            }
            end(artifacts.state(), said);
        } catch (IOException | JSONException | RuntimeException broken) {
            end(String.valueOf(broken.getMessage()), said);
        }
    }

    /** Measures one file, keeps the row, and gives what the file says of the picture. */
    private String answer(JSONObject row, File image) throws IOException, JSONException {
        File said = new File(artifacts.folder(), Artifacts.ANSWERS);
        Plan plan = artifacts.plan(row, image).answering(said);
        JSONObject measured = Bench.row(plan);
        new History(getFilesDir()).add(measured.toString());
        if (measured.has("reason")) {
            return plan.name + ": not measured: " + measured.getString("reason") + "\n";
        }
        FloatBuffer logits = Files.floats(said);
        float[] values = new float[logits.remaining()];
        logits.get(values);
        return plan.name + "\n" + Labels.of(values);
    }

    private void tell(String words) {
        runOnUiThread(() -> said.setText(words));
    }

    private void end(String words, Map<String, String> columns) {
        runOnUiThread(() -> {
            said.setText(words);
            answers.show(columns);
            run.setEnabled(true);
            list();
        });
    }

    private void list() {
        List<String> lines = new ArrayList<>();
        try {
            for (String row : new History(getFilesDir()).rows()) {
                lines.add(RowText.of(row));
            }
        } catch (IOException broken) {
            lines.add(String.valueOf(broken.getMessage()));
        }
        runs.clear();
        runs.addAll(lines);
        if (lines.isEmpty()) {
            runs.add("no runs yet");
        }
    }

    private void pick(String kind, int request) {
        Intent wish = new Intent(Intent.ACTION_OPEN_DOCUMENT);
        wish.addCategory(Intent.CATEGORY_OPENABLE);
        wish.setType(kind);
        wish.putExtra(Intent.EXTRA_ALLOW_MULTIPLE, request == FILES);
        startActivityForResult(wish, request);
    }

    private Button button(String text, View.OnClickListener pressed) {
        Button button = new Button(this);
        button.setText(text);
        button.setOnClickListener(pressed);
        return button;
    }

    private static List<Uri> picked(Intent data) {
        List<Uri> found = new ArrayList<>();
        ClipData several = data.getClipData();
        if (several == null) {
            found.add(data.getData());
        } else {
            for (int place = 0; place < several.getItemCount(); place++) {
                found.add(several.getItemAt(place).getUri());
            }
        }
        return found;
    }
}
