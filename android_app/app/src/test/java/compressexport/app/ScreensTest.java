package compressexport.app;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertSame;
import static org.junit.Assert.assertTrue;

import android.app.Activity;
import android.content.Intent;
import android.content.res.Configuration;
import compressexport.core.Files;
import java.io.File;
import java.io.IOException;
import java.util.Arrays;
import java.util.Collections;
import org.json.JSONObject;
import org.junit.Before;
import org.junit.Test;
import org.junit.runner.RunWith;
import org.robolectric.Robolectric;
import org.robolectric.RobolectricTestRunner;
import org.robolectric.RuntimeEnvironment;
import org.robolectric.android.controller.ActivityController;
import org.robolectric.annotation.Config;
import org.robolectric.annotation.GraphicsMode;
import org.robolectric.shadow.api.Shadow;
import org.robolectric.shadows.ShadowActivity;
import org.robolectric.shadows.ShadowLooper;

/** What the screens say, on the framework of the oldest Android that they run on and on that of Android 15. */
@RunWith(RobolectricTestRunner.class)
@Config(sdk = {24, 35})
@GraphicsMode(GraphicsMode.Mode.NATIVE)
public final class ScreensTest {
    private static final String FIRST = "Pick artifacts.json, network.json and the files of a run's folder, then a picture.";
    private static final String NETWORK = "{\"input\": [3, 2, 2], \"mean\": [0, 0, 0], \"std\": [1, 1, 1]}";

    private File home;
    private File desk;

    @Before
    public void begin() throws IOException {
        Robolectric.setupContentProvider(Folder.class, Folder.AUTHORITY);
        home = RuntimeEnvironment.getApplication().getFilesDir();
        desk = java.nio.file.Files.createTempDirectory("desk").toFile();
    }

    @Test
    public void aTurnedPhoneKeepsTheScreenAndWhatItIsAt() {
        ActivityController<RunActivity> run = Robolectric.buildActivity(RunActivity.class).setup();
        ActivityController<MainActivity> pick = Robolectric.buildActivity(MainActivity.class).setup();
        for (ActivityController<?> each : Arrays.asList(run, pick)) {
            Activity before = each.get();
            Configuration turned = new Configuration(before.getResources().getConfiguration());
            turned.orientation = Configuration.ORIENTATION_LANDSCAPE;
            turned.screenWidthDp = 2 * turned.screenHeightDp;
            each.configurationChange(turned);
            assertSame(before, each.get());
        }
    }

    @Test
    public void theFirstScreenSaysWhatToPick() {
        MainActivity activity = main();
        Screen screen = new Screen(activity);
        assertEquals(Collections.singletonList(FIRST), screen.texts());
        assertEquals(Collections.singletonList("no runs yet"), screen.listed());
        screen.button("Pick artifacts").performClick();
        ShadowActivity system = Shadow.extract(activity);
        Intent wish = system.getNextStartedActivity();
        assertEquals(Intent.ACTION_OPEN_DOCUMENT, wish.getAction());
        assertTrue(wish.getBooleanExtra(Intent.EXTRA_ALLOW_MULTIPLE, false));
        screen.button("Pick a picture").performClick();
        assertEquals("image/*", system.getNextStartedActivity().getType());
    }

    @Test
    public void whatIsNotPickedIsAskedForInWords() throws Exception {
        Screen screen = new Screen(main());
        screen.pick("Pick artifacts", file("network.json", NETWORK));
        assertEquals("pick artifacts.json of the run's folder as well: it says what the files are", said(screen));
        screen.pick("Pick artifacts", file("artifacts.json", artifacts("original", "compressed")));
        assertEquals(
                "none of the files is here that artifacts.json names: pick [original.onnx, compressed.onnx]",
                said(screen));
        screen.pick("Pick artifacts", file("original.onnx", "a"), file("other.onnx", "b"));
        assertEquals(
                "1 files to measure; not picked: [compressed.onnx]; not named in artifacts.json, so left out: "
                        + "[other.onnx]",
                said(screen));
    }

    @Test
    public void runWithoutAPictureSaysSoAndCanBePressedAgain() throws Exception {
        MainActivity activity = main();
        Screen screen = new Screen(activity);
        press(activity);
        assertEquals("pick a picture first: the files are measured on it", said(screen));
        assertTrue(screen.button("Run").isEnabled());
    }

    @Test
    public void whatIsGoneOrNoJsonIsSaid() throws Exception {
        Screen screen = new Screen(main());
        screen.pick("Pick artifacts", new File(desk, "gone.onnx"));
        assertTrue(said(screen), said(screen).contains("gone.onnx"));
        screen.pick("Pick artifacts", file("artifacts.json", "no JSON"));
        assertTrue(said(screen), said(screen).contains("cannot be converted to JSONArray"));
        screen.pick("Pick artifacts", file("artifacts.json", "[{}]"));
        assertEquals("No value for path", said(screen));
    }

    @Test
    public void aPlanThatCannotBeMeasuredIsSaidInTheRowAndOnTheScreen() throws Exception {
        File folder = new File(home, "bench");
        assertTrue(folder.mkdirs());
        Files.writeWhole(new File(folder, "plan.json"), "{\"schema\": 7}");
        String screen = run(home.getName() + "/bench/plan.json");
        String words = "this app reads plans of schema 1, and plan.json has 7; install the app and compress-export of";
        JSONObject row = new JSONObject(Files.text(new File(folder, "result.json")));
        assertTrue(row.getString("error").startsWith(words));
        assertTrue(screen, screen.startsWith("not measured: " + words));
        assertEquals(1, new History(home).rows().size());
        assertTrue(new Screen(main()).listed().get(0).startsWith("not measured: " + words));
    }

    @Test
    public void aPlanElsewhereIsRefused() throws Exception {
        String words = "not measured: a plan lies in the app's own folder, and ../../etc/plan.json does not";
        assertEquals(words, run("../../etc/plan.json"));
        String gone = run(home.getName() + "/nowhere/plan.json");
        assertTrue(gone, gone.startsWith("not measured: ") && gone.contains("nowhere/result.json.partial"));
        assertFalse(new File(home, "nowhere").exists());
    }

    @Test
    public void withoutAPlanTheScreenSaysHowToStart() {
        RunActivity activity = Robolectric.buildActivity(RunActivity.class, new Intent()).setup().get();
        assertEquals("no plan: start this with --es plan files/bench/plan.json", said(new Screen(activity)));
    }

    @Test
    public void labelsAreTheLikeliestClassesFirst() {
        String[] lines = Labels.of(new float[] {0, 5, 1, 2}).split("\n");
        assertEquals("  class 1  93.0 %", lines[0]);
        assertEquals("  class 3  4.6 %", lines[1]);
        assertEquals(3, lines.length);
    }

    private static MainActivity main() {
        return Robolectric.buildActivity(MainActivity.class).setup().get();
    }

    private static void press(MainActivity activity) throws InterruptedException {
        new Screen(activity).button("Run").performClick();
        activity.join();
        ShadowLooper.idleMainLooper();
    }

    private static String run(String plan) throws InterruptedException {
        Intent order = new Intent().putExtra(RunActivity.PLAN, plan);
        RunActivity activity = Robolectric.buildActivity(RunActivity.class, order).setup().get();
        activity.join();
        ShadowLooper.idleMainLooper();
        return said(new Screen(activity));
    }

    private static String said(Screen screen) {
        return screen.texts().get(0);
    }

    private static String artifacts(String... networks) {
        StringBuilder rows = new StringBuilder();
        for (String network : networks) {
            rows.append(rows.length() == 0 ? "" : ", ");
            rows.append("{\"path\": \"artifacts/" + network + ".onnx\", \"network\": \"" + network + "\"}");
        }
        return "[" + rows + "]";
    }

    private File file(String name, String text) throws IOException {
        File file = new File(desk, name);
        Files.writeWhole(file, text);
        return file;
    }
}
