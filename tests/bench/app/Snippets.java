import java.io.File;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;
import java.nio.file.Files;

/** The snippets of docs/android.md at work: {@code Snippets MODEL PIXELS SIDE MEAN STD TENSOR LOGITS}. */
final class Snippets {
    private Snippets() {}

    public static void main(String[] words) throws Exception {
        int side = Integer.parseInt(words[2]);
        int[] pixels = new int[side * side];
        ByteBuffer.wrap(Files.readAllBytes(new File(words[1]).toPath())).order(ByteOrder.LITTLE_ENDIAN).asIntBuffer()
                .get(pixels);
        FloatBuffer image = Normalized.image(pixels, numbers(words[3]), numbers(words[4]));
        float[] values = new float[image.remaining()];
        image.duplicate().get(values);
        write(words[5], values);
        try (OnnxClassifier classifier = new OnnxClassifier(words[0], 1)) {
            write(words[6], classifier.logits(image, new long[] {1, 3, side, side}));
        }
    }

    private static float[] numbers(String list) {
        String[] words = list.split(",");
        float[] values = new float[words.length];
        for (int place = 0; place < values.length; place++) {
            values[place] = Float.parseFloat(words[place]);
        }
        return values;
    }

    private static void write(String path, float[] values) throws Exception {
        ByteBuffer bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(values);
        Files.write(new File(path).toPath(), bytes.array());
    }
}
