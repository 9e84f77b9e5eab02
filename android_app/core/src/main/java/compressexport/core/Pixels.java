package compressexport.core;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.FloatBuffer;

/**
 * A picture as a network takes it: resized, its centre cropped, and (pixel / 255 - mean) / std for each channel, as
 * network.json says.
 *
 * <p>The filter is as wide as a pixel of the smaller picture, what torchvision and Pillow do; without that a photograph
 * of 4000 pixels would be sampled at every eighteenth.
 */
public final class Pixels {
    private Pixels() {}

    /** The picture's pixels (0xAARRGGBB, row by row) as 1 x C x H x W floats; {@code shape} is {1, C, H, W}. */
    public static FloatBuffer image(
            int[] pixels, int width, long[] shape, double[] mean, double[] std, Resize resize) {
        int channels = (int) shape[1];
        int high = (int) shape[2];
        int wide = (int) shape[3];
        FloatBuffer image = ByteBuffer.allocateDirect(4 * channels * high * wide)
                .order(ByteOrder.nativeOrder())
                .asFloatBuffer();
        int height = pixels.length / width;
        int tall = resize.height(height, width);
        int broad = resize.width(height, width);
        int top = before(tall, high);
        int left = before(broad, wide);
        for (int channel = 0; channel < channels; channel++) {
            float[] plane = channels == 1 ? grey(pixels) : channel(pixels, 16 - 8 * channel);
            float[] rows = narrowed(plane, width, broad, resize);
            float[] resized = turned(narrowed(turned(rows, broad), height, tall, resize), tall);
            for (int row = top; row < top + high; row++) {
                for (int column = left; column < left + wide; column++) {
                    boolean inside = row >= 0 && row < tall && column >= 0 && column < broad;
                    // Pillow keeps whole numbers between its steps; the difference is below one of 255.
                    float value = inside ? resized[row * broad + column] : 0;
                    image.put((float) ((value / 255 - mean[channel]) / std[channel]));
                }
            }
        }
        image.flip();
        return image;
    }

    /** Pixels before the centre of that many; negative where it reaches beyond the picture. Halves as torchvision. */
    private static int before(int all, int center) {
        return all < center ? -((center - all) / 2) : (int) Math.rint((all - center) / 2.0);
    }

    private static float[] channel(int[] pixels, int shift) {
        float[] plane = new float[pixels.length];
        for (int place = 0; place < plane.length; place++) {
            plane[place] = pixels[place] >> shift & 0xff;
        }
        return plane;
    }

    private static float[] grey(int[] pixels) {
        float[] plane = new float[pixels.length];
        for (int place = 0; place < plane.length; place++) {
            int color = pixels[place];
            plane[place] = (299 * (color >> 16 & 0xff) + 587 * (color >> 8 & 0xff) + 114 * (color & 0xff)) / 1000f;
        }
        return plane;
    }

    /** Every row of {@code width} numbers resized to {@code wide}. */
    private static float[] narrowed(float[] plane, int width, int wide, Resize resize) {
        int rows = plane.length / width;
        float[] resized = new float[rows * wide];
        double scale = (double) width / wide;
        double unit = Math.max(1, scale);
        double reach = unit * resize.reach;
        for (int column = 0; column < wide; column++) {
            double center = (column + 0.5) * scale;
            int from = Math.max(0, (int) (center - reach + 0.5));
            int until = Math.min(width, (int) (center + reach + 0.5));
            double[] weights = weights(from, until, center, unit, resize);
            for (int row = 0; row < rows; row++) {
                double sum = 0;
                for (int place = from; place < until; place++) {
                    sum += weights[place - from] * plane[row * width + place];
                }
                // A cubic overshoots; colours end at 0 and 255.
                resized[row * wide + column] = (float) Math.min(255, Math.max(0, sum));
            }
        }
        return resized;
    }

    private static double[] weights(int from, int until, double center, double unit, Resize resize) {
        double[] weights = new double[until - from];
        double total = 0;
        for (int place = from; place < until; place++) {
            weights[place - from] = resize.filter((place + 0.5 - center) / unit);
            total += weights[place - from];
        }
        for (int place = 0; place < weights.length; place++) {
            weights[place] /= total;
        }
        return weights;
    }

    /** Rows and columns exchanged; a row has {@code width} numbers. */
    private static float[] turned(float[] plane, int width) {
        int rows = plane.length / width;
        float[] exchanged = new float[plane.length];
        for (int row = 0; row < rows; row++) {
            for (int column = 0; column < width; column++) {
                exchanged[column * rows + row] = plane[row * width + column];
            }
        }
        return exchanged;
    }
}
