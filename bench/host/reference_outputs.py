"""Reference outputs: the logits of a file in its own runtime on this machine, with which a phone's are compared."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measurement import BenchError
from exporters.artifact import Artifact, Parity
from exporters.worker_process import Answer, Requests, WorkerError, WorkerTimeoutError, end_with_parent, start

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

LEAST_COSINE = 0.99999


@dataclass(frozen=True)
class _Job:
    """Files of one format, an .npy of images, and the .npz for each file's logits, by its index."""

    format: str
    files: tuple[Path, ...]
    images: Path
    logits: Path


def reference_outputs(artifacts: Sequence[Artifact], images: Array, timeout_seconds: float) -> list[Array]:
    """Each file's logits (N, classes) for the images (N, C, H, W), each image given alone. All of one format.

    BenchError if the file does not run on this machine.
    """
    import numpy as np

    name = artifacts[0].path.name

    def failure(error: WorkerError) -> BenchError:
        if isinstance(error, WorkerTimeoutError):
            return BenchError(f"{name} did not answer on this machine in {timeout_seconds:g} s")
        return BenchError(
            f"{name} does not run on this machine, so there is nothing to hold the phone's answers against: {error}; "
            "export it again"
        )

    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        start(serve, failure, timeout_seconds=timeout_seconds) as worker,
    ):
        job = _Job(
            format=artifacts[0].format,
            files=tuple(artifact.path.resolve() for artifact in artifacts),
            images=Path(folder) / "images.npy",
            logits=Path(folder) / "logits.npz",
        )
        np.save(job.images, images)
        worker.ask("run", job, type(None))
        with np.load(job.logits) as found:
            return [found[str(index)] for index in range(len(artifacts))]


def serve(requests: Requests, answer: Answer) -> None:
    """The worker's side: runs the files of one _Job."""
    import numpy as np

    from exporters.formats import find_format

    job = requests.next(_Job)
    end_with_parent()
    images = np.load(job.images)
    logits: dict[str, Any] = {}  # numpy's savez has an argument that is a bool
    for index, file in enumerate(job.files):
        run = find_format(job.format).load(file, 1)
        logits[str(index)] = np.concatenate([run(image[None]) for image in images])
    np.savez(job.logits, **logits)
    answer(None)


def agree(parity: Parity) -> bool:
    """True where two machines gave the same logits, up to the order in which they add. NaN agrees with nothing."""
    return (parity.cosine or 0.0) >= LEAST_COSINE and parity.top1_agreement == 1.0
