"""Small real files, images for them, and a schedule that does not take long."""

from pathlib import Path

import numpy as np

from bench.measurement import Schedule
from exporters.artifact import Artifact, size_and_sha256

SIZE = 16
IMAGES = np.random.default_rng(0).random((3, 3, SIZE, SIZE), dtype=np.float32)
SHORT = Schedule(warmup_runs=2, warmup_seconds=0.0, runs=8, seconds=0.0, rounds=2)


def artifact(path: Path) -> Artifact:
    size, sha256 = size_and_sha256(path)
    return Artifact(path, path.stem, path.suffix[1:], size, sha256, "float32", (1, 3, SIZE, SIZE), {})


def onnx_file(path: Path, width: int, window: int = 3) -> Artifact:
    """Two convolutions, `width` channels between and behind them, and a mean over the image."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    chance = np.random.default_rng(width)
    shapes = {"one": (width, 3, window, window), "two": (width, width, window, window)}
    weights = [numpy_helper.from_array(chance.random(shape, dtype=np.float32), name) for name, shape in shapes.items()]
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["image", "one"], ["a"], strides=[2, 2]),
            helper.make_node("Conv", ["a", "two"], ["b"]),
            helper.make_node("GlobalAveragePool", ["b"], ["c"]),
            helper.make_node("Flatten", ["c"], ["logits"]),
        ],
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, SIZE, SIZE))],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, width))],
        weights,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)
    return artifact(path)


def ptl_file(path: Path) -> Artifact:
    """One convolution for the lite interpreter, traced in a process of its own so that these tests import no torch."""
    import subprocess
    import sys

    code = (
        "import sys, torch; from torch import nn; "
        "net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(); "
        f"torch.jit.freeze(torch.jit.trace(net, torch.zeros(1, 3, {SIZE}, {SIZE})))"
        "._save_for_lite_interpreter(sys.argv[1])"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(path)], check=True)
    return artifact(path)


def children(pid: int) -> list[int]:
    """Ids of the processes that this one started and that are still there."""
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for task in tasks for child in task.read_text().split()]


def runs(pid: int) -> bool:
    """True if the process is there and has not ended: in a container nobody may collect a dead one."""
    try:
        return "State:\tZ" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
