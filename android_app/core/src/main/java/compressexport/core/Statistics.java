package compressexport.core;

import java.util.Arrays;
import org.json.JSONException;
import org.json.JSONObject;

/** Figures of one file's runs, those of {@code bench.statistics.summarize}; null where they need more runs. */
public final class Statistics {
    private static final int P99_NEEDS = 1000;
    private static final int DRIFT_NEEDS = 20;

    public final int runs;
    public final double first;
    public final double min;
    public final double p10;
    public final double p50;
    public final double p90;
    public final Double p99;
    public final double mean;
    public final Double sd;
    public final Double drift;

    /** The figures of these samples, in ms. IllegalArgumentException if there are none. */
    public Statistics(double firstMs, double[] samplesMs) {
        if (samplesMs.length == 0) {
            throw new IllegalArgumentException("statistics need a run or more");
        }
        double[] ordered = samplesMs.clone();
        Arrays.sort(ordered);
        runs = ordered.length;
        first = firstMs;
        min = ordered[0];
        p10 = quantile(ordered, 0.10);
        p50 = quantile(ordered, 0.50);
        p90 = quantile(ordered, 0.90);
        p99 = runs >= P99_NEEDS ? (Double) quantile(ordered, 0.99) : null;
        mean = sum(samplesMs) / runs;
        sd = runs > 1 ? (Double) (length(centered(samplesMs)) / Math.sqrt(runs - 1)) : null;
        drift = drift(samplesMs);
    }

    /** The figures under the names that Python gives them. */
    public JSONObject toJson() throws JSONException {
        JSONObject fields = new JSONObject();
        fields.put("runs", runs);
        fields.put("first", first);
        fields.put("min", min);
        fields.put("p10", p10);
        fields.put("p50", p50);
        fields.put("p90", p90);
        fields.put("p99", p99 == null ? JSONObject.NULL : p99);
        fields.put("mean", mean);
        fields.put("sd", sd == null ? JSONObject.NULL : sd);
        fields.put("drift", drift == null ? JSONObject.NULL : drift);
        return fields;
    }

    /** The value below which {@code share} of the sorted samples lie, linear between two (type 7). */
    static double quantile(double[] ordered, double share) {
        double place = (ordered.length - 1) * share;
        int below = (int) Math.floor(place);
        int above = Math.min(below + 1, ordered.length - 1);
        return ordered[below] + (ordered[above] - ordered[below]) * (place - below);
    }

    /** The last tenth's median over the first tenth's, minus 1; null below 20 runs. */
    static Double drift(double[] samples) {
        int tenth = samples.length / 10;
        if (samples.length < DRIFT_NEEDS) {
            return null;
        }
        double[] last = Arrays.copyOfRange(samples, samples.length - tenth, samples.length);
        return median(last) / median(Arrays.copyOf(samples, tenth)) - 1;
    }

    /** The sum, its rounding errors carried along (Neumaier), because Python's is exact. */
    static double sum(double[] values) {
        double sum = 0;
        double lost = 0;
        for (double value : values) {
            double next = sum + value;
            lost += Math.abs(sum) >= Math.abs(value) ? sum - next + value : value - next + sum;
            sum = next;
        }
        return sum + lost;
    }

    private static double median(double[] values) {
        Arrays.sort(values);
        return quantile(values, 0.5);
    }

    /** The values moved by their mean to a mean of 0. */
    static double[] centered(double[] values) {
        double mean = sum(values) / values.length;
        double[] moved = values.clone();
        for (int place = 0; place < moved.length; place++) {
            moved[place] -= mean;
        }
        return moved;
    }

    /** The sum of the products of each value with the other's. */
    static double dot(double[] values, double[] others) {
        double[] products = values.clone();
        for (int place = 0; place < products.length; place++) {
            products[place] *= others[place];
        }
        return sum(products);
    }

    static double length(double[] values) {
        return Math.sqrt(dot(values, values));
    }
}
