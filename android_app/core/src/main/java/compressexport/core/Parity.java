package compressexport.core;

import java.nio.FloatBuffer;
import org.json.JSONException;
import org.json.JSONObject;

/** How near a file's logits are to those that it is held against: the measures of {@code exporters.parity.compare}. */
public final class Parity {
    private static final double LEAST_SPREAD = 1e-30;
    private static final double TIE = 1e-4;

    public final int images;
    public final double maxError;
    public final double relativeError;
    public final double rmsError;
    public final double cosine;
    public final double top1Agreement;

    private Parity(int images, double maxError, double rms, double spread, double cosine, double top1Agreement) {
        this.images = images;
        this.maxError = maxError;
        this.relativeError = maxError / Math.max(spread, LEAST_SPREAD);
        this.rmsError = rms / Math.max(spread, LEAST_SPREAD);
        this.cosine = cosine;
        this.top1Agreement = top1Agreement;
    }

    /** The measures of {@code given}, a row for each image. BenchException if they cannot be compared. */
    public static Parity of(float[][] given, FloatBuffer golden) throws BenchException {
        int count = given.length;
        int classes = count == 0 ? 0 : given[0].length;
        if (classes == 0 || golden.remaining() != count * classes) {
            throw new BenchException("answers to compare have one shape; the file gave " + count + " x " + classes
                    + " numbers, and " + golden.remaining() + " are to be compared with; measure the same images");
        }
        double[] wanted = new double[count * classes];
        for (int place = 0; place < wanted.length; place++) {
            wanted[place] = golden.get(golden.position() + place);
        }
        double error = 0;
        double squares = 0;
        double cosine = Double.POSITIVE_INFINITY;
        int same = 0;
        double tie = TIE * spread(wanted);
        for (int row = 0; row < count; row++) {
            double[] ours = finite(given[row], row);
            double[] theirs = java.util.Arrays.copyOfRange(wanted, row * classes, (row + 1) * classes);
            for (int place = 0; place < classes; place++) {
                double difference = ours[place] - theirs[place];
                error = Math.max(error, Math.abs(difference));
                squares += difference * difference;
            }
            cosine = Math.min(cosine, cosine(Statistics.centered(ours), Statistics.centered(theirs)));
            // Logits that differ by no more than a float32 file may are a tie.
            same += theirs[largest(theirs)] - theirs[largest(ours)] <= tie ? 1 : 0;
        }
        double rms = Math.sqrt(squares / wanted.length);
        return new Parity(count, error, rms, spread(wanted), cosine, (double) same / count);
    }

    /** As {@code exporters.artifact.Parity} has it. */
    JSONObject toJson() throws JSONException {
        JSONObject fields = new JSONObject();
        fields.put("executed", true);
        fields.put("images", images);
        fields.put("max_error", maxError);
        fields.put("relative_error", relativeError);
        fields.put("cosine", cosine);
        fields.put("top1_agreement", top1Agreement);
        fields.put("note", "");
        fields.put("rms_error", rmsError);
        return fields;
    }

    /** The place of the largest logit, the first one if there are several. */
    public static int largest(double[] logits) {
        int best = 0;
        for (int place = 1; place < logits.length; place++) {
            best = logits[place] > logits[best] ? place : best;
        }
        return best;
    }

    private static double[] finite(float[] logits, int row) throws BenchException {
        double[] values = new double[logits.length];
        for (int place = 0; place < logits.length; place++) {
            values[place] = logits[place];
            if (Float.isNaN(logits[place]) || Float.isInfinite(logits[place])) {
                throw new BenchException("the file gives logits that are not finite (image " + row
                        + "); look for weights that overflow before you export");
            }
        }
        return values;
    }

    private static double cosine(double[] ours, double[] theirs) {
        double lengths = Statistics.length(ours) * Statistics.length(theirs);
        if (Statistics.length(ours) == 0 && Statistics.length(theirs) == 0) {
            return 1;
        }
        return Statistics.dot(ours, theirs) / (lengths == 0 ? 1 : lengths);
    }

    private static double spread(double[] values) {
        return Statistics.length(Statistics.centered(values)) / Math.sqrt(values.length);
    }
}
