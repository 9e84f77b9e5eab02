package compressexport.app;

import compressexport.core.Parity;
import java.util.Locale;

/** What a network says of a picture: its likeliest classes. */
final class Labels {
    private static final int SHOWN = 3;

    private Labels() {}

    /** The likeliest classes with their shares (softmax of the logits), a line each. */
    static String of(float[] logits) {
        double[] shares = softmax(logits);
        StringBuilder text = new StringBuilder();
        for (int rank = 0; rank < Math.min(SHOWN, shares.length); rank++) {
            int best = Parity.largest(shares);
            text.append(String.format(Locale.ROOT, "  class %d  %.1f %%%n", best, 100 * shares[best]));
            shares[best] = -1;
        }
        return text.toString();
    }

    private static double[] softmax(float[] logits) {
        double largest = Double.NEGATIVE_INFINITY;
        for (float logit : logits) {
            largest = Math.max(largest, logit);
        }
        double[] shares = new double[logits.length];
        double sum = 0;
        for (int place = 0; place < shares.length; place++) {
            shares[place] = Math.exp(logits[place] - largest);
            sum += shares[place];
        }
        for (int place = 0; place < shares.length; place++) {
            shares[place] /= sum;
        }
        return shares;
    }
}
