package compressexport.engines;

import compressexport.core.BenchException;
import compressexport.core.Engine;
import compressexport.core.Release;
import java.io.File;
import java.nio.FloatBuffer;
import org.pytorch.executorch.EValue;
import org.pytorch.executorch.Module;
import org.pytorch.executorch.Tensor;

/** ExecuTorch with the XNNPACK delegate. The file is memory-mapped. */
public final class ExecutorchEngine implements Engine {
    private Module module;
    private long[] shape;

    @Override
    public String version() throws BenchException {
        return Release.of(ExecutorchEngine.class, "executorch.properties");
    }

    @Override
    public void load(File file, long[] shape, int threads) {
        this.shape = shape;
        module = Module.load(file.getPath(), Module.LOAD_MODE_MMAP, threads);
        module.loadMethod("forward");
    }

    @Override
    public float[] run(FloatBuffer image) {
        return module.forward(EValue.from(Tensor.fromBlob(image, shape)))[0].toTensor().getDataAsFloatArray();
    }

    @Override
    public void close() {
        if (module != null) {
            module.destroy();
        }
    }
}
