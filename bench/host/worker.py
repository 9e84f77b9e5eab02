"""Processes of this machine that run files: one that loads and measures a file (`serve`), and one that gives the
logits with which a phone's are compared (`reference_outputs`).
"""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import resource
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from bench.host.facts import frequency_mhz, memory, reset_peak
from bench.measurement import BenchError, Memory
from exporters.artifact import Artifact, Parity
from exporters.worker_process import (
    Answer,
    Requests,
    Serve,
    Worker,
    WorkerError,
    WorkerTimeoutError,
    end_with_parent,
    start,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.float32]
    Images = NDArray[np.float32]

LEAST_COSINE = 0.99999


def start_worker(
    serve: Serve, name: str, threads: int, cores: tuple[int, ...] | None, timeout_seconds: float
) -> AbstractContextManager[Worker]:
    """A worker for the file called `name`. What goes wrong in it is a BenchError."""

    def failure(error: WorkerError) -> BenchError:
        cure = "; raise the schedule's timeout_seconds, or look whether its layers are delegated"
        return BenchError(f"{name} was not measured: {error}{cure if isinstance(error, WorkerTimeoutError) else ''}")

    return start(serve, failure, threads=threads, cores=cores, timeout_seconds=timeout_seconds)


@dataclass(frozen=True)
class Open:
    """A file to be measured, the worker's cores, and an .npy of images to run it on, float32 (N, C, H, W)."""

    path: Path
    format: str
    threads: int
    images: Path
    cores: tuple[int, ...] | None


@dataclass(frozen=True)
class Opened:
    """The runtime's version and memory before the file is loaded, and the cores that the process is on."""

    version: str
    pinned: tuple[int, ...] | None
    memory: Memory


@dataclass(frozen=True)
class Timed:
    """The time of loading the file, or of its first run, and the memory afterwards."""

    ms: float
    memory: Memory


@dataclass(frozen=True)
class Runs:
    """Runs without a break: `runs` and `seconds` at least, but no more than one after `cap_seconds`.

    `settle_runs` come before them, untimed.
    """

    runs: int
    seconds: float
    cap_seconds: float
    settle_runs: int = 0


@dataclass(frozen=True)
class Samples:
    """Times of runs, how often another process took the core meanwhile, and the clock afterwards."""

    samples_ms: tuple[float, ...]
    preemptions: int
    mhz: float | None


@dataclass(frozen=True)
class Ended:
    """Memory and clock at the end."""

    memory: Memory
    mhz: float | None


def serve(requests: Requests, answer: Answer) -> None:
    """The measuring worker's side. Requests, in this sequence: Open, None (load), None (the first run), Runs (a warm-up
    and blocks, as often as wanted), None (the end)."""
    opened = requests.next(Open)
    pinned = None if opened.cores is None else tuple(sorted(os.sched_getaffinity(0)))
    import numpy as np

    from exporters.formats import FORMATS

    images = np.load(opened.images)
    pictures = itertools.cycle([images[index : index + 1] for index in range(len(images))])
    kind = FORMATS[opened.format]
    # Imported before memory is noted: the runtime's own memory is no part of the model's.
    for module in kind.writer.RUNTIME_MODULES:
        importlib.import_module(module)
    gc.collect()
    reset_peak()
    answer(Opened(version(kind.writer.RUNTIME_PACKAGE), pinned, memory()))

    requests.next(type(None))
    begin = perf_counter_ns()
    run = kind.writer.load(opened.path, opened.threads)
    answer(Timed(_since(begin), memory()))

    requests.next(type(None))
    # From here on, no pause of the garbage collector falls into a run.
    gc.freeze()
    gc.disable()
    answer(Timed(_timed(run, next(pictures)), memory()))

    for request in requests.until_none(Runs):
        before = _preemptions()
        samples = time_runs(run, pictures, request)
        answer(Samples(samples, _preemptions() - before, frequency_mhz(pinned)))
    answer(Ended(memory(), frequency_mhz(pinned)))


def time_runs(run: Callable[[Image], Image], pictures: Iterator[Image], request: Runs) -> tuple[float, ...]:
    """The ms of every run, each with the next picture."""
    for _ in range(request.settle_runs):
        run(next(pictures))
    samples: list[float] = []
    begin = perf_counter_ns()
    elapsed = 0.0
    while (len(samples) < request.runs or elapsed < request.seconds) and (not samples or elapsed < request.cap_seconds):
        samples.append(_timed(run, next(pictures)))
        elapsed = (perf_counter_ns() - begin) / 1e9
    return tuple(samples)


def _timed(run: Callable[[Image], Image], picture: Image) -> float:
    begin = perf_counter_ns()
    run(picture)
    return _since(begin)


def _since(begin: int) -> float:
    """Milliseconds to a tenth of a microsecond: the clock itself is no better."""
    return round((perf_counter_ns() - begin) / 1e6, 4)


def _preemptions() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


@dataclass(frozen=True)
class _Job:
    """Files of one format, an .npy of images, and the .npz for each file's logits, by its index."""

    format: str
    files: tuple[Path, ...]
    images: Path
    logits: Path


def reference_outputs(artifacts: Sequence[Artifact], images: Images, timeout_seconds: float) -> list[Images]:
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
        start(serve_outputs, failure, timeout_seconds=timeout_seconds) as worker,
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


def serve_outputs(requests: Requests, answer: Answer) -> None:
    """The worker's side: runs the files of one _Job."""
    import numpy as np

    from exporters.formats import find_format

    job = requests.next(_Job)
    end_with_parent()
    images = np.load(job.images)
    logits: dict[str, Any] = {}  # numpy's savez has an argument that is a bool
    for index, file in enumerate(job.files):
        run = find_format(job.format).writer.load(file, 1)
        logits[str(index)] = np.concatenate([run(image[None]) for image in images])
    np.savez(job.logits, **logits)
    answer(None)


def agree(parity: Parity, dtype: str) -> bool:
    """True where two machines gave the same logits for a file that computes in `dtype`: in float32 up to the order in
    which they add; in a narrower type within its limits of parity, since each machine may round a value that lies
    between two codes to the other one. NaN agrees with nothing."""
    if dtype != "float32":
        return parity.verdict(dtype) == "passed"
    return (parity.cosine or 0.0) >= LEAST_COSINE and parity.top1_agreement == 1.0
