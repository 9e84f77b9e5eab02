package compressexport.engines;

import ai.onnxruntime.NodeInfo;
import ai.onnxruntime.OnnxTensor;
import ai.onnxruntime.OrtEnvironment;
import ai.onnxruntime.OrtException;
import ai.onnxruntime.OrtSession;
import ai.onnxruntime.TensorInfo;
import compressexport.core.BenchException;
import compressexport.core.Engine;
import java.io.File;
import java.io.IOException;
import java.nio.FloatBuffer;
import java.util.Arrays;
import java.util.Collections;

/** ONNX Runtime, with the settings of {@code exporters.writers.to_onnx.load}. */
public final class OnnxEngine implements Engine {
    private final OrtEnvironment environment = OrtEnvironment.getEnvironment();
    private OrtSession session;
    private String input;
    private long[] shape;

    @Override
    public String version() {
        return environment.getVersion();
    }

    @Override
    public void load(File file, long[] shape, int threads) throws OrtException, BenchException {
        // The Android library of 1.29 brings a client for usage data; nothing of a measurement leaves the phone.
        environment.setTelemetry(false);
        try (OrtSession.SessionOptions options = new OrtSession.SessionOptions()) {
            options.setIntraOpNumThreads(threads);
            options.setInterOpNumThreads(1);
            options.addConfigEntry("session.intra_op.allow_spinning", "0");
            session = environment.createSession(file.getPath(), options);
        }
        NodeInfo image = session.getInputInfo().values().iterator().next();
        input = image.getName();
        this.shape = shape;
        long[] takes = ((TensorInfo) image.getInfo()).getShape();
        if (!Arrays.equals(takes, shape)) {
            throw new BenchException(file.getName() + " takes images of " + Arrays.toString(takes) + ", and these are "
                    + Arrays.toString(shape) + "; pass images of its own size, or export it for these");
        }
    }

    @Override
    public float[] run(FloatBuffer image) throws OrtException {
        try (OnnxTensor tensor = OnnxTensor.createTensor(environment, image, shape);
                OrtSession.Result answer = session.run(Collections.singletonMap(input, tensor))) {
            FloatBuffer logits = ((OnnxTensor) answer.get(0)).getFloatBuffer();
            float[] values = new float[logits.remaining()];
            logits.get(values);
            return values;
        }
    }

    @Override
    public void close() throws IOException {
        try {
            if (session != null) {
                session.close();
            }
        } catch (OrtException broken) {
            throw new IOException(broken);
        }
    }
}
