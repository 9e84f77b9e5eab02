package compressexport.core;

import org.json.JSONArray;
import org.json.JSONException;
import org.json.JSONObject;

/**
 * How a picture is resized before its centre is cropped to the network's size, as network.json says ("resize").
 *
 * <p>With {@code keepRatio} it gets the smallest size of its own ratio that covers {@code high} x {@code wide}, else
 * exactly that size.
 */
public final class Resize {
    private final int high;
    private final int wide;
    private final boolean keepRatio;
    /** How far the filter reaches, in pixels of the smaller picture. */
    final double reach;

    private Resize(int high, int wide, boolean keepRatio, boolean bicubic) {
        this.high = high;
        this.wide = wide;
        this.keepRatio = keepRatio;
        reach = bicubic ? 2 : 1;
    }

    /** What network.json says; without a word of it exactly the size of {@code shape} (1, C, H, W), bilinear. */
    public static Resize of(JSONObject network, long[] shape) throws JSONException {
        JSONObject told = network.optJSONObject("resize");
        if (told == null) {
            return new Resize((int) shape[2], (int) shape[3], false, false);
        }
        JSONArray sides = told.getJSONArray("sides");
        String filter = told.getString("interpolation");
        if (!filter.equals("bilinear") && !filter.equals("bicubic")) {
            throw new JSONException("network.json: pictures are resized bilinear or bicubic here, not " + filter);
        }
        return new Resize(
                sides.getInt(0), sides.getInt(1), told.getBoolean("keep_ratio"), filter.equals("bicubic"));
    }

    /** Height of a picture of {@code height} x {@code width} after resizing; the longer side is rounded down. */
    int height(int height, int width) {
        boolean exact = !keepRatio || (long) high * width >= (long) wide * height;
        return exact ? high : (int) ((long) height * wide / width);
    }

    /** Its width. */
    int width(int height, int width) {
        boolean exact = !keepRatio || (long) high * width < (long) wide * height;
        return exact ? wide : (int) ((long) width * high / height);
    }

    /** The filter at that distance from its centre: a triangle, or Keys' cubic with a = -0.5, as Pillow has it. */
    double filter(double distance) {
        double x = Math.abs(distance);
        if (reach == 1) {
            return Math.max(0, 1 - x);
        }
        return x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
    }
}
