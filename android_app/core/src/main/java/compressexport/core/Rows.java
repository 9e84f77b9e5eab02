package compressexport.core;

import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** The rows of {@code bench.measurement}, key by key. */
public final class Rows {
    public static final String MEASURED = "measured";
    public static final String NOT_MEASURED = "not measured";

    private Rows() {}

    /** A measurement of one block, made by this process. */
    static JSONObject measured(Plan plan, Run run, Parity parity) throws JSONException {
        JSONObject row = head(plan, MEASURED);
        row.put("bytes", plan.bytes);
        row.put("runtime", plan.runtime);
        row.put("runtime_version", run.version);
        row.put("schedule", plan.scheduleFields);
        row.put("threads", plan.schedule.threads);
        row.put("pinned_cores", orNull(run.cores));
        row.put("input_shape", array(plan.inputShape));
        row.put("images", plan.images.size());
        row.put("load_ms", run.loadMs);
        row.put("first_ms", run.firstMs);
        row.put("blocks", new JSONArray().put(block(plan.turn, run.samplesMs)));
        row.put("memory", memory(run));
        row.put("session", plan.session);
        row.put("measured_at", plan.measuredAt);
        row.put("mhz_before", orNull(run.mhzBefore));
        row.put("mhz_after", orNull(run.mhzAfter));
        row.put("preemptions", orNull(run.preemptions));
        row.put("load_average", JSONObject.NULL);
        row.put("note", plan.cores != null && run.cores == null ? "not pinned: the system did not allow it" : plan.note);
        row.put("processes", new JSONArray());
        row.put("invalid", "");
        row.put("parity", parity == null ? JSONObject.NULL : parity.toJson());
        return row;
    }

    /** The file could not be measured, and why. */
    static JSONObject notMeasured(Plan plan, String reason) throws JSONException {
        return head(plan, NOT_MEASURED).put("reason", reason);
    }

    /** There is not even a plan: the words alone, as the other lane's runner has it. */
    public static JSONObject error(String words) {
        try {
            return new JSONObject().put("error", words);
        } catch (JSONException impossible) {
            throw new AssertionError(impossible);
        }
    }

    private static JSONObject head(Plan plan, String verdict) throws JSONException {
        JSONObject row = new JSONObject();
        row.put("verdict", verdict);
        row.put("network", plan.network);
        row.put("format", plan.format);
        row.put("sha256", plan.sha256);
        row.put("device", plan.device);
        return row;
    }

    private static JSONObject block(int turn, double[] samplesMs) throws JSONException {
        JSONArray samples = new JSONArray();
        for (double sample : samplesMs) {
            samples.put(sample);
        }
        return new JSONObject().put("turn", turn).put("samples_ms", samples);
    }

    private static JSONObject memory(Run run) throws JSONException {
        JSONObject phases = new JSONObject();
        phases.put("start", run.start);
        phases.put("loaded", run.loaded);
        phases.put("first", run.first);
        phases.put("end", run.end);
        return phases;
    }

    private static JSONArray array(long[] values) {
        JSONArray numbers = new JSONArray();
        for (long value : values) {
            numbers.put(value);
        }
        return numbers;
    }

    private static Object orNull(Object value) {
        return value == null ? JSONObject.NULL : value;
    }
}
