package compressexport.app;

import android.content.ContentResolver;
import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.net.Uri;
import compressexport.core.Files;
import compressexport.core.Pixels;
import compressexport.core.Resize;
import java.io.File;
import java.io.IOException;
import java.io.InputStream;
import java.nio.FloatBuffer;
import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/** A picked picture as an image file that a plan can name. */
final class Picture {
    /** No network here looks at more; a photograph of 50 megapixels would not fit the app's memory. */
    private static final int LARGEST = 2048;

    private Picture() {}

    /** The picture, no larger than the app can hold. IOException if it is none. */
    static Bitmap open(ContentResolver resolver, Uri document) throws IOException {
        BitmapFactory.Options options = new BitmapFactory.Options();
        options.inJustDecodeBounds = true;
        decode(resolver, document, options);
        options.inJustDecodeBounds = false;
        options.inSampleSize = Math.max(1, Math.max(options.outWidth, options.outHeight) / LARGEST);
        Bitmap picture = decode(resolver, document, options);
        if (picture == null) {
            throw new IOException("the picked file is no picture that Android reads");
        }
        return picture;
    }

    /** Writes the picture as the network takes it: 1 x C x H x W floats, normalized as network.json says. */
    static void write(Bitmap picture, JSONObject network, File file) throws IOException, JSONException {
        JSONArray input = network.getJSONArray("input");
        long[] shape = {1, input.getLong(0), input.getLong(1), input.getLong(2)};
        int[] pixels = new int[picture.getWidth() * picture.getHeight()];
        picture.getPixels(pixels, 0, picture.getWidth(), 0, 0, picture.getWidth(), picture.getHeight());
        double[] mean = numbers(network.getJSONArray("mean"));
        double[] std = numbers(network.getJSONArray("std"));
        FloatBuffer image = Pixels.image(pixels, picture.getWidth(), shape, mean, std, Resize.of(network, shape));
        float[] values = new float[image.remaining()];
        image.get(values);
        Files.writeFloats(file, new float[][] {values});
    }

    private static Bitmap decode(ContentResolver resolver, Uri document, BitmapFactory.Options options)
            throws IOException {
        try (InputStream source = resolver.openInputStream(document)) {
            return BitmapFactory.decodeStream(source, null, options);
        }
    }

    private static double[] numbers(JSONArray values) throws JSONException {
        double[] found = new double[values.length()];
        for (int place = 0; place < found.length; place++) {
            found[place] = values.getDouble(place);
        }
        return found;
    }
}
