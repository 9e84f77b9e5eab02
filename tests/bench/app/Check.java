package compressexport.core;

import java.io.File;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.util.Arrays;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** What the Python tests ask of core without a runtime: {@code Check WHAT IN OUT}, JSON both ways. */
public final class Check {
    private Check() {}

    public static void main(String[] words) throws Exception {
        File in = new File(words[1]);
        File out = new File(words[2]);
        switch (words[0]) {
            case "statistics":
                Files.writeWhole(out, statistics(new JSONArray(Files.text(in))).toString());
                break;
            case "row":
                Files.writeWhole(out, row(Plan.read(in)).toString());
                break;
            case "refusal":
                Files.writeWhole(out, Rows.notMeasured(Plan.read(in), "a reason").toString());
                break;
            case "parity":
                Files.writeWhole(out, parity(new JSONObject(Files.text(in))).toString());
                break;
            case "release":
                Files.writeWhole(out, release(Files.text(in).trim()));
                break;
            case "pixels":
                pixels(new JSONObject(Files.text(in)), out);
                break;
            default:
                throw new IllegalArgumentException(words[0]);
        }
    }

    private static String release(String file) {
        try {
            return Release.of(Check.class, file);
        } catch (BenchException refusal) {
            return refusal.getMessage();
        }
    }

    private static JSONArray statistics(JSONArray lists) throws JSONException {
        JSONArray figures = new JSONArray();
        for (int place = 0; place < lists.length(); place++) {
            figures.put(new Statistics(31.25, doubles(lists.getJSONArray(place))).toJson());
        }
        return figures;
    }

    /** A row of figures that no clock decides. */
    private static JSONObject row(Plan plan) throws Exception {
        Run run = new Run();
        run.version = "1.29.0";
        run.loadMs = 120.5;
        run.firstMs = 31.25;
        run.samplesMs = new double[] {12.5, 12.25, 12.75};
        run.start = memory(100_000);
        run.loaded = memory(390_000);
        run.first = memory(390_500);
        run.end = memory(391_000);
        run.cores = new JSONArray().put(6).put(7);
        run.mhzBefore = 2400.0;
        run.preemptions = 3L;
        float[][] answers = {{1, 2, 3}, {4, 0.5f, -1}};
        return Rows.measured(plan, run, Parity.of(answers, FloatBuffer.wrap(new float[] {1, 2, 3.5f, 4, 0.5f, -1})));
    }

    private static JSONObject memory(int peak) throws JSONException {
        JSONObject fields = new JSONObject();
        fields.put("peak", peak).put("resident", peak - 10).put("anonymous", peak - 1000).put("file", 990);
        return fields.put("proportional", JSONObject.NULL);
    }

    private static JSONObject parity(JSONObject asked) throws Exception {
        JSONArray rows = asked.getJSONArray("given");
        float[][] given = new float[rows.length()][];
        for (int place = 0; place < given.length; place++) {
            given[place] = floats(rows.getJSONArray(place));
        }
        try {
            return Parity.of(given, FloatBuffer.wrap(floats(asked.getJSONArray("golden")))).toJson();
        } catch (BenchException refusal) {
            return new JSONObject().put("error", refusal.getMessage());
        }
    }

    private static void pixels(JSONObject asked, File out) throws JSONException, IOException {
        double[] colors = doubles(asked.getJSONArray("pixels"));
        int[] pixels = Arrays.stream(colors).mapToInt(color -> (int) color | 0xff000000).toArray();
        double[] shape = doubles(asked.getJSONArray("shape"));
        long[] sides = Arrays.stream(shape).mapToLong(side -> (long) side).toArray();
        FloatBuffer image = Pixels.image(
                pixels, asked.getInt("width"), sides, doubles(asked.getJSONArray("mean")),
                doubles(asked.getJSONArray("std")), Resize.of(asked, sides));
        float[] values = new float[image.remaining()];
        image.get(values);
        Files.writeFloats(out, new float[][] {values});
    }

    private static double[] doubles(JSONArray values) throws JSONException {
        double[] found = new double[values.length()];
        for (int place = 0; place < found.length; place++) {
            found[place] = values.getDouble(place);
        }
        return found;
    }

    private static float[] floats(JSONArray values) throws JSONException {
        float[] found = new float[values.length()];
        for (int place = 0; place < found.length; place++) {
            found[place] = (float) values.getDouble(place);
        }
        return found;
    }
}
