package compressexport.core;

import org.json.JSONArray;
import org.json.JSONObject;

/** What one process found out about one file. Clocks, cores and preemptions are null where the system does not tell. */
final class Run {
    String version;
    double loadMs;
    double firstMs;
    double[] samplesMs;
    float[][] answers;
    JSONObject start;
    JSONObject loaded;
    JSONObject first;
    JSONObject end;
    JSONArray cores;
    Double mhzBefore;
    Double mhzAfter;
    Long preemptions;
}
