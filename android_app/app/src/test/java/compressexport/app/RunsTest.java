package compressexport.app;

import static org.junit.Assert.assertTrue;
import static org.junit.Assume.assumeNotNull;

import android.content.Intent;
import compressexport.core.Files;
import java.io.File;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import org.json.JSONArray;
import org.json.JSONObject;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.annotation.Config;
import org.robolectric.annotation.GraphicsMode;
import org.robolectric.shadows.ShadowLooper;

/**
 * Real files through the screens, with real pixels: what they show is left in a folder for the Python tests to judge.
 *
 * <p>{@code screens.files} holds a run's files, a picture and plans; {@code screens.told} is where the answers go;
 * without them nothing is run.
 */
@RunWith(RobolectricTestRunner.class)
@Config(sdk = 35, qualifiers = "w360dp-h760dp-xhdpi")
@GraphicsMode(GraphicsMode.Mode.NATIVE)
public final class RunsTest {
    private File files;
    private File told;
    private File home;

    @Before
    public void begin() {
        assumeNotNull(System.getProperty("screens.files"));
        files = new File(System.getProperty("screens.files"));
        told = new File(System.getProperty("screens.told"));
        Robolectric.setupContentProvider(Folder.class, Folder.AUTHORITY);
        home = RuntimeEnvironment.getApplication().getFilesDir();
    }

    @Test
    public void plansAreMeasuredWithoutAHand() throws Exception {
        JSONObject screens = new JSONObject();
        for (File each : new File(files, "plans").listFiles()) {
            File folder = new File(home, each.getName());
            assertTrue(folder.mkdirs());
            Files.writeWhole(new File(folder, "plan.json"), Files.text(new File(each, "plan.json")));
            Screen screen = run(home.getName() + "/" + each.getName() + "/plan.json");
            JSONObject row = new JSONObject(Files.text(new File(folder, RunActivity.RESULT)));
            screens.put(each.getName(), new JSONObject().put("row", row).put("screen", screen.texts().get(0)));
        }
        screens.put("list", new JSONArray(new Screen(main()).listed()));
        Files.writeWhole(new File(told, "plans.json"), screens.toString());
    }

    @Test
    public void aPictureIsClassifiedByOriginalAndCompressed() throws Exception {
        MainActivity activity = main();
        Screen screen = new Screen(activity);
        List<File> run = new ArrayList<>(Arrays.asList(new File(files, "run").listFiles()));
        screen.pick("Pick artifacts", run.toArray(new File[0]));
        screen.pick("Pick a picture", new File(files, "picture.png"));
        JSONObject shown = new JSONObject().put("picked", screen.texts().get(0));
        screen.button("Run").performClick();
        activity.join();
        ShadowLooper.idleMainLooper();
        shown.put("texts", new JSONArray(screen.texts())).put("list", new JSONArray(screen.listed()));
        Files.writeWhole(new File(told, "picture.json"), shown.toString());
        screen.draw(new File(told, "picture.png"));
    }

    @Test
    public void aPictureThatIsNoneOrDoesNotFitIsSaid() throws Exception {
        Screen screen = new Screen(main());
        screen.pick("Pick artifacts", new File(files, "run").listFiles());
        screen.pick("Pick a picture", new File(files, "run/artifacts.json"));
        JSONObject shown = new JSONObject().put("none", screen.texts().get(0));
        screen.pick("Pick artifacts", new File(files, "huge/network.json"));
        screen.pick("Pick a picture", new File(files, "picture.png"));
        shown.put("huge", screen.texts().get(0));
        Files.writeWhole(new File(told, "refused.json"), shown.toString());
    }

    private static MainActivity main() {
        return Robolectric.buildActivity(MainActivity.class).setup().get();
    }

    private static Screen run(String plan) throws InterruptedException {
        Intent order = new Intent().putExtra(RunActivity.PLAN, plan);
        RunActivity activity = Robolectric.buildActivity(RunActivity.class, order).setup().get();
        activity.join();
        ShadowLooper.idleMainLooper();
        return new Screen(activity);
    }
}
