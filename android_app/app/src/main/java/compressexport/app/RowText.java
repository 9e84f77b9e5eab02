package compressexport.app;

import compressexport.core.Statistics;
import java.util.Locale;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** A row as a person reads it. */
final class RowText {
    private static final double KB_PER_MB = 1000;

    private RowText() {}

    /** Median, p90, memory and agreement of a measurement; the reason where there is none. */
    static String of(String line) {
        try {
            JSONObject row = new JSONObject(line);
            if (row.has("error")) {
                return "not measured: " + row.getString("error");
            }
            String name = row.getString("network") + "." + row.getString("format");
            if (row.has("reason")) {
                return name + ": not measured: " + row.getString("reason");
            }
            return name + "\n" + times(row) + memory(row.getJSONObject("memory")) + agreement(row) + note(row);
        } catch (JSONException broken) {
            return "no row of a measurement: " + broken.getMessage();
        }
    }

    private static String times(JSONObject row) throws JSONException {
        JSONArray listed = row.getJSONArray("blocks").getJSONObject(0).getJSONArray("samples_ms");
        double[] samples = new double[listed.length()];
        for (int place = 0; place < samples.length; place++) {
            samples[place] = listed.getDouble(place);
        }
        Statistics figures = new Statistics(row.getDouble("first_ms"), samples);
        return String.format(
                Locale.ROOT, "median %.2f ms, p90 %.2f ms (%d runs), first %.2f ms, load %.1f ms\n%s %s, %d thread(s)",
                figures.p50, figures.p90, figures.runs, figures.first, row.getDouble("load_ms"),
                row.getString("runtime"), row.getString("runtime_version"), row.getInt("threads"));
    }

    private static String memory(JSONObject phases) throws JSONException {
        JSONObject start = phases.getJSONObject("start");
        JSONObject end = phases.getJSONObject("end");
        if (start.isNull("resident") || end.isNull("peak")) {
            return "\nmemory: this phone does not tell";
        }
        double own = end.getLong("peak") - start.getLong("resident");
        return String.format(Locale.ROOT, "\nmemory: %.1f MB more than before it was loaded", own / KB_PER_MB);
    }

    private static String agreement(JSONObject row) throws JSONException {
        if (row.isNull("parity")) {
            return "\nno golden outputs to compare with";
        }
        JSONObject parity = row.getJSONObject("parity");
        return String.format(
                Locale.ROOT, "\ngolden outputs: same class for %.0f %% of %d images, largest error %.1e, cosine %.6f",
                100 * parity.getDouble("top1_agreement"), parity.getInt("images"), parity.getDouble("max_error"),
                parity.getDouble("cosine"));
    }

    private static String note(JSONObject row) throws JSONException {
        return row.getString("note").isEmpty() ? "" : "\n" + row.getString("note");
    }
}
