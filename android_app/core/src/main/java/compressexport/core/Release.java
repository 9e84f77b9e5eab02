package compressexport.core;

import java.io.IOException;
import java.io.InputStream;
import java.util.Properties;

/** The release of a library that does not tell it: the build writes down, beside the engine, which one it took. */
public final class Release {
    private Release() {}

    /** What the file of that name in the engine's own package says. BenchException if this build has none. */
    public static String of(Class<?> engine, String file) throws BenchException {
        Properties told = new Properties();
        try (InputStream source = engine.getResourceAsStream(file)) {
            if (source != null) {
                told.load(source);
            }
        } catch (IOException broken) {
            throw untold(file, broken);
        }
        if (told.getProperty("version") == null) {
            throw untold(file, null);
        }
        return told.getProperty("version");
    }

    private static BenchException untold(String file, IOException cause) {
        return new BenchException(
                "this build of the app does not tell which release it runs: " + file
                        + " names no version; build it anew with `make app`",
                cause);
    }
}
