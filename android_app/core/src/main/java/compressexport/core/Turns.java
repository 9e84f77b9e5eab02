package compressexport.core;

import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.List;

/** Images in turn through an engine, and how long each run took. */
final class Turns {
    private static final double NANOSECONDS = 1e6;

    private final Engine engine;
    private final List<FloatBuffer> images;
    private int place;

    Turns(Engine engine, List<FloatBuffer> images) {
        this.engine = engine;
        this.images = images;
    }

    /** At least so many runs and seconds; once {@code cap} seconds are over, no further run. */
    double[] repeat(int runs, double seconds, double cap) throws Exception {
        double[] samples = new double[Math.max(64, runs)];
        int made = 0;
        long begin = System.nanoTime();
        for (double elapsed = 0;
                (made < runs || elapsed < seconds) && (made == 0 || elapsed < cap);
                elapsed = since(begin) / 1000) {
            if (made == samples.length) {
                samples = Arrays.copyOf(samples, 2 * made);
            }
            samples[made++] = next();
        }
        return Arrays.copyOf(samples, made);
    }

    static double since(long begin) {
        return (System.nanoTime() - begin) / NANOSECONDS;
    }

    private double next() throws Exception {
        FloatBuffer image = images.get(place++ % images.size());
        long begin = System.nanoTime();
        engine.run(image);
        return since(begin);
    }
}
