package compressexport.core;

import java.io.File;
import java.io.IOException;
import org.json.JSONException;
import org.json.JSONObject;

/** Plan in, row out: what the app's headless entry, {@code app_process} and a JVM on a desk have in common. */
public final class Main {
    private Main() {}

    /** {@code Main PLAN RESULT}: exit status 0 with a measurement, 1 with the reason why there is none. */
    public static void main(String[] words) throws IOException {
        if (words.length != 2) {
            System.err.println("one plan and one result, not " + words.length + " words: Main PLAN.json RESULT.json");
            System.exit(2);
        }
        System.exit(run(new File(words[0]), new File(words[1])) ? 0 : 1);
    }

    /** Measures what the plan says. Whatever goes wrong stands in the result; true if it was measured. */
    public static boolean run(File plan, File result) throws IOException {
        JSONObject row = row(plan);
        Files.writeWhole(result, row + "\n");
        return Rows.MEASURED.equals(row.optString("verdict"));
    }

    private static JSONObject row(File plan) {
        try {
            return Bench.row(Plan.read(plan));
        } catch (BenchException | JSONException refusal) {
            return Rows.error(refusal.getMessage());
        }
    }
}
