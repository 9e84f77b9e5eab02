package compressexport.app;

import android.app.Activity;
import android.os.Bundle;
import android.view.WindowManager;
import android.widget.ScrollView;
import android.widget.TextView;
import compressexport.core.Files;
import compressexport.core.Main;
import compressexport.core.Rows;
import java.io.File;
import java.io.IOException;

/**
 * The headless entry: {@code am start -n PACKAGE/compressexport.app.RunActivity --es plan files/bench/plan.json}.
 *
 * <p>The plan lies in the app's own folder, where {@code run-as} put it; the row is written beside it as result.json,
 * and shown. A fresh process measures one file.
 */
public final class RunActivity extends Activity {
    static final String PLAN = "plan";
    static final String RESULT = "result.json";

    private Thread work;
    private TextView screen;

    @Override
    protected void onCreate(Bundle state) {
        super.onCreate(state);
        getWindow().addFlags(WindowManager.LayoutParams.FLAG_KEEP_SCREEN_ON);
        screen = new TextView(this);
        ScrollView scroll = new ScrollView(this);
        scroll.addView(screen);
        setContentView(scroll);
        String plan = getIntent().getStringExtra(PLAN);
        if (plan == null) {
            screen.setText("no plan: start this with --es plan files/bench/plan.json");
            return;
        }
        screen.setText("measuring by " + plan + " ...");
        File home = getFilesDir().getParentFile();
        work = new Thread(() -> show(measured(home, plan)), "bench");
        work.start();
    }

    /** Waits until the row is written; for tests. */
    void join() throws InterruptedException {
        work.join();
    }

    private String measured(File home, String plan) {
        try {
            File place = new File(home, plan).getCanonicalFile();
            if (!place.getPath().startsWith(home.getCanonicalPath() + File.separator)) {
                return Rows.error("a plan lies in the app's own folder, and " + plan + " does not").toString();
            }
            File result = new File(place.getParentFile(), RESULT);
            Main.run(place, result);
            new History(getFilesDir()).add(Files.text(result));
            return Files.text(result);
        } catch (IOException | RuntimeException broken) {
            // Nobody can be told but the one who looks: the folder itself cannot be written.
            return Rows.error(String.valueOf(broken.getMessage())).toString();
        }
    }

    private void show(String row) {
        runOnUiThread(() -> screen.setText(RowText.of(row)));
    }
}
