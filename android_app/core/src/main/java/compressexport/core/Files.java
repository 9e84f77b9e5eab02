package compressexport.core;

import java.io.ByteArrayOutputStream;
import java.io.File;
import java.io.FileInputStream;
import java.io.FileOutputStream;
import java.io.IOException;
import java.io.InputStream;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.charset.StandardCharsets;
import java.security.MessageDigest;
import java.security.NoSuchAlgorithmException;
import java.util.Locale;

/** Files as text, hashes and floats, with nothing that Android 7 lacks (its java.nio.file came with Android 8). */
public final class Files {
    private static final int PIECE = 64 * 1024;

    private Files() {}

    /** What a small file says; also one of /proc, whose length the kernel calls 0. */
    public static String text(File file) throws IOException {
        ByteArrayOutputStream content = new ByteArrayOutputStream();
        try (InputStream source = new FileInputStream(file)) {
            byte[] piece = new byte[PIECE];
            for (int count = source.read(piece); count >= 0; count = source.read(piece)) {
                content.write(piece, 0, count);
            }
        }
        return content.toString("UTF-8");
    }

    /** Writes a temporary name and renames it: a file that exists is whole. */
    public static void writeWhole(File file, String text) throws IOException {
        File partial = new File(file.getPath() + ".partial");
        try (FileOutputStream target = new FileOutputStream(partial)) {
            target.write(text.getBytes(StandardCharsets.UTF_8));
        }
        if (!partial.renameTo(file)) {
            throw new IOException("cannot write " + file + "; look whether its folder is there and has room");
        }
    }

    /** The file's sha256 in hexadecimal. */
    public static String sha256(File file) throws IOException {
        try (InputStream source = new FileInputStream(file)) {
            MessageDigest digest = MessageDigest.getInstance("SHA-256");
            byte[] piece = new byte[PIECE];
            for (int count = source.read(piece); count >= 0; count = source.read(piece)) {
                digest.update(piece, 0, count);
            }
            StringBuilder hexadecimal = new StringBuilder();
            for (byte each : digest.digest()) {
                hexadecimal.append(String.format(Locale.ROOT, "%02x", each));
            }
            return hexadecimal.toString();
        } catch (NoSuchAlgorithmException missing) {
            throw new IOException("this system knows no SHA-256", missing);
        }
    }

    /** The file's numbers (float32, little endian) in a direct buffer, which every runtime takes without a copy. */
    public static FloatBuffer floats(File file) throws IOException {
        ByteBuffer bytes = ByteBuffer.allocateDirect(Math.toIntExact(file.length())).order(ByteOrder.LITTLE_ENDIAN);
        try (FileInputStream source = new FileInputStream(file)) {
            while (bytes.hasRemaining() && source.getChannel().read(bytes) >= 0) {
                // the channel takes as much as it likes
            }
        }
        bytes.flip();
        // ARM and x86 are little endian: the runtimes want the machine's own order, and this is it.
        return bytes.order(ByteOrder.nativeOrder()).asFloatBuffer();
    }

    /** Writes rows of numbers one after another, float32 little endian. */
    public static void writeFloats(File file, float[][] rows) throws IOException {
        try (FileOutputStream target = new FileOutputStream(file)) {
            for (float[] row : rows) {
                ByteBuffer bytes = ByteBuffer.allocate(4 * row.length).order(ByteOrder.LITTLE_ENDIAN);
                bytes.asFloatBuffer().put(row);
                target.write(bytes.array());
            }
        }
    }
}
