package compressexport.core;

import java.util.LinkedHashMap;
import java.util.Map;

/** Which class runs which format. A build carries some of them; what it does not carry is said when it is wanted. */
public final class Engines {
    /** Class names by format: names, so that no runtime is loaded before its file is to be measured. */
    public static final Map<String, String> CLASSES = new LinkedHashMap<>();

    /** What Python's FORMATS calls the runtimes. */
    public static final Map<String, String> RUNTIMES = new LinkedHashMap<>();

    static {
        add("pte", "compressexport.engines.ExecutorchEngine", "ExecuTorch, XNNPACK delegate");
        add("onnx", "compressexport.engines.OnnxEngine", "ONNX Runtime");
        add("ptl", "compressexport.engines.TorchscriptEngine", "PyTorch lite interpreter");
    }

    private Engines() {}

    private static void add(String format, String engine, String runtime) {
        CLASSES.put(format, engine);
        RUNTIMES.put(format, runtime);
    }

    /** A fresh engine for the format. BenchException if this build has none. */
    static Engine create(String format) throws BenchException {
        if (!CLASSES.containsKey(format)) {
            throw new BenchException("no engine here runs ." + format + " files; there are " + CLASSES.keySet());
        }
        try {
            return (Engine) Class.forName(CLASSES.get(format)).getDeclaredConstructor().newInstance();
        } catch (ClassNotFoundException absent) {
            throw new BenchException(
                    "this build of the app has no engine for ." + format
                            + " files; docs/android.md says which builds have which",
                    absent);
        } catch (ReflectiveOperationException broken) {
            Throwable cause = broken.getCause() == null ? broken : broken.getCause();
            if (cause instanceof LinkageError) {
                throw (LinkageError) cause;
            }
            throw new BenchException("the engine for ." + format + " files does not start: " + cause, broken);
        }
    }
}
