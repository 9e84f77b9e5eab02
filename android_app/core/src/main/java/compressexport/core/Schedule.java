package compressexport.core;

import org.json.JSONException;
import org.json.JSONObject;

/** How often a file runs and for how long: the keys of {@code bench.measurement.Schedule} that one process needs. */
public final class Schedule {
    public final int threads;
    public final int warmupRuns;
    public final double warmupSeconds;
    public final int runs;
    public final double seconds;
    public final double capSeconds;

    Schedule(JSONObject fields) throws JSONException {
        threads = fields.getInt("threads");
        warmupRuns = fields.getInt("warmup_runs");
        warmupSeconds = fields.getDouble("warmup_seconds");
        runs = fields.getInt("runs");
        seconds = fields.getDouble("seconds");
        capSeconds = fields.getDouble("cap_seconds");
    }
}
