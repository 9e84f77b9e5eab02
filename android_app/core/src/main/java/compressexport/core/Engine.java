package compressexport.core;

import java.io.Closeable;
import java.io.File;
import java.nio.FloatBuffer;

/** One runtime with one file loaded. Methods throw whatever the runtime throws; {@link Bench} says it in words. */
public interface Engine extends Closeable {
    /** The release of the runtime that is loaded. */
    String version() throws BenchException;

    /** Loads the file, memory-mapped where the runtime can, for so many threads. {@code shape} is an image's. */
    void load(File file, long[] shape, int threads) throws Exception;

    /** The logits of one image (NCHW, a direct buffer of {@code shape}). */
    float[] run(FloatBuffer image) throws Exception;
}
