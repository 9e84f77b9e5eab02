package compressexport.core;

/** A plan, a file or a runtime that gives no measurement; the text names the cure. */
public final class BenchException extends Exception {
    private static final long serialVersionUID = 1L;

    public BenchException(String words) {
        super(words);
    }

    public BenchException(String words, Throwable cause) {
        super(words, cause);
    }
}
