package compressexport.engines;

import compressexport.core.BenchException;
import compressexport.core.Engine;
import compressexport.core.Release;
import java.io.File;
import java.nio.FloatBuffer;
import org.pytorch.IValue;
import org.pytorch.LiteModuleLoader;
import org.pytorch.Module;
import org.pytorch.PyTorchAndroid;
import org.pytorch.Tensor;

/** PyTorch's lite interpreter: legacy, its libraries are aligned to 4 KB and do not load where pages have 16. */
public final class TorchscriptEngine implements Engine {
    private Module module;
    private long[] shape;

    @Override
    public String version() throws BenchException {
        return Release.of(TorchscriptEngine.class, "torchscript.properties");
    }

    @Override
    public void load(File file, long[] shape, int threads) {
        PyTorchAndroid.setNumThreads(threads);
        this.shape = shape;
        module = LiteModuleLoader.load(file.getPath());
    }

    @Override
    public float[] run(FloatBuffer image) {
        return module.forward(IValue.from(Tensor.fromBlob(image, shape))).toTensor().getDataAsFloatArray();
    }

    @Override
    public void close() {
        if (module != null) {
            module.destroy();
        }
    }
}
