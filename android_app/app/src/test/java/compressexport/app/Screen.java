package compressexport.app;

import android.app.Activity;
import android.content.ClipData;
import android.content.Intent;
import android.graphics.Bitmap;
import android.graphics.Canvas;
import android.view.View;
import android.view.ViewGroup;
import android.widget.Button;
import android.widget.ListView;
import android.widget.TextView;
import java.io.File;
import java.io.FileOutputStream;
import java.io.IOException;
import java.util.ArrayList;
import java.util.List;
import org.robolectric.shadow.api.Shadow;
import org.robolectric.shadows.ShadowActivity;
import org.robolectric.shadows.ShadowLooper;

/** A screen as a person has it: what stands on it, its buttons, what is picked. */
final class Screen {
    private final Activity activity;

    Screen(Activity activity) {
        this.activity = activity;
    }

    /** The texts from the top, without those of buttons and of the list. */
    List<String> texts() {
        List<String> texts = new ArrayList<>();
        for (View each : views(activity.findViewById(android.R.id.content))) {
            if (each instanceof TextView && !(each instanceof Button) && !(each.getParent() instanceof ListView)) {
                texts.add(((TextView) each).getText().toString());
            }
        }
        return texts;
    }

    /** What the list holds, the newest row first. */
    List<String> listed() {
        List<String> rows = new ArrayList<>();
        ListView list = (ListView) activity.findViewById(MainActivity.RUNS);
        for (int place = list.getHeaderViewsCount(); place < list.getAdapter().getCount(); place++) {
            rows.add((String) list.getAdapter().getItem(place));
        }
        return rows;
    }

    Button button(String name) {
        for (View each : views(activity.findViewById(android.R.id.content))) {
            if (each instanceof Button && ((Button) each).getText().toString().equals(name)) {
                return (Button) each;
            }
        }
        throw new AssertionError("no button " + name);
    }

    /** Presses the button and hands these files to the picker that it opens. */
    void pick(String button, File... files) {
        button(button).performClick();
        ShadowActivity system = Shadow.extract(activity);
        Intent wish = system.getNextStartedActivity();
        Intent answer = new Intent();
        if (files.length == 1) {
            answer.setData(Folder.uri(files[0]));
        } else {
            ClipData several = ClipData.newRawUri("files", Folder.uri(files[0]));
            for (int place = 1; place < files.length; place++) {
                several.addItem(new ClipData.Item(Folder.uri(files[place])));
            }
            answer.setClipData(several);
        }
        system.receiveResult(wish, Activity.RESULT_OK, answer);
        ShadowLooper.idleMainLooper();
    }

    /** The screen's pixels as a PNG. */
    void draw(File file) throws IOException {
        ShadowLooper.idleMainLooper();
        View page = activity.getWindow().getDecorView();
        Bitmap pixels = Bitmap.createBitmap(page.getWidth(), page.getHeight(), Bitmap.Config.ARGB_8888);
        page.draw(new Canvas(pixels));
        try (FileOutputStream target = new FileOutputStream(file)) {
            pixels.compress(Bitmap.CompressFormat.PNG, 100, target);
        }
    }

    private static List<View> views(View page) {
        List<View> found = new ArrayList<>();
        found.add(page);
        for (int place = 0; page instanceof ViewGroup && place < ((ViewGroup) page).getChildCount(); place++) {
            found.addAll(views(((ViewGroup) page).getChildAt(place)));
        }
        return found;
    }
}
