package compressexport.app;

import android.content.Context;
import android.widget.LinearLayout;
import android.widget.TextView;
import java.util.Map;

/** What each network says of the picture, a column for each: the original's beside the compressed one's. */
final class Columns extends LinearLayout {
    Columns(Context context) {
        super(context);
        setOrientation(HORIZONTAL);
    }

    /** The texts by network, in their order from the left. */
    void show(Map<String, String> texts) {
        removeAllViews();
        for (Map.Entry<String, String> each : texts.entrySet()) {
            TextView column = new TextView(getContext());
            column.setText(each.getKey() + "\n" + each.getValue());
            addView(column, new LayoutParams(0, LayoutParams.WRAP_CONTENT, 1));
        }
    }
}
