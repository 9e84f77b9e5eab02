"""What a file answers on this machine, in its own runtime: what a phone's answers are held against.

`python -m bench.host.reference_outputs JOB.json` is the process of its own in which the runtime is loaded.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.measurement import BenchError
from exporters.artifact import Artifact, Parity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float32]

LEAST_COSINE = 0.99999


def reference_outputs(artifacts: Sequence[Artifact], images: Array, timeout_seconds: float) -> list[Array]:
    """Each file's answers (N, classes) to the images (N, C, H, W), each image given alone. All of one format.

    BenchError if the file does not run on this machine.
    """
    import numpy as np

    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        np.save(folder / "images.npy", images)
        job: dict[str, object] = {"format": artifacts[0].format, "images": str(folder / "images.npy")}
        job |= {"files": [str(each.path.resolve()) for each in artifacts], "answers": str(folder / "answers.npz")}
        (folder / "job.json").write_text(json.dumps(job))
        words = [sys.executable, "-P", "-m", "bench.host.reference_outputs", str(folder / "job.json")]
        home = str(Path(__file__).resolve().parents[2])
        try:
            done = subprocess.run(words, cwd=home, capture_output=True, text=True, timeout=timeout_seconds, check=False)
        except subprocess.TimeoutExpired:
            raise BenchError(
                f"{artifacts[0].path.name} did not answer on this machine in {timeout_seconds:g} s"
            ) from None
        if done.returncode:
            said = done.stderr.strip().splitlines()
            raise BenchError(
                f"{artifacts[0].path.name} does not run on this machine, so there is nothing to hold the phone's "
                f"answers against: {said[-1] if said else f'exit status {done.returncode}'}; export it again"
            )
        with np.load(folder / "answers.npz") as found:
            return [found[str(place)] for place in range(len(artifacts))]


def agree(parity: Parity) -> bool:
    """Whether two machines gave the same answers, up to the order in which they add. NaN agrees with nothing."""
    return (parity.cosine or 0.0) >= LEAST_COSINE and parity.top1_agreement == 1.0


def _work(job_file: Path) -> None:
    import numpy as np

    from exporters.formats import find_format

    job = json.loads(job_file.read_text())
    images = np.load(job["images"])
    answers: dict[str, Any] = {}
    for place, file in enumerate(job["files"]):
        run = find_format(job["format"]).load(Path(file), 1)
        answers[str(place)] = np.concatenate([run(image[None]) for image in images])
    np.savez(job["answers"], **answers)


if __name__ == "__main__":
    _work(Path(sys.argv[1]))
