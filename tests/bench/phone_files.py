"""Files and images for the virtual phone's runner, and a schedule that does not take long."""

from pathlib import Path

import numpy as np
from bench_files import artifact
from virtual_phone.kit import matmul_file

from bench.measurement import Schedule
from exporters.artifact import Artifact

SHAPE = (3, 16, 16)
PHOTOS = np.random.default_rng(1).random((3, *SHAPE), dtype=np.float32)
QUICK = Schedule(warmup_runs=1, warmup_seconds=0, runs=4, seconds=0.02, cap_seconds=3)


def matmul(path: Path, classes: int) -> Artifact:
    return artifact(matmul_file(path, SHAPE, classes))
