"""The process that loads and runs one file to be measured: `serve`, and the values that it takes and gives.

Its requests, in this sequence: Open, None (load), None (the first run), Runs (a warm-up and blocks, as often as
wanted), None (the end).
"""

from __future__ import annotations

import gc
import importlib
import itertools
import os
import resource
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING

from bench.host.facts import frequency_mhz, memory, reset_peak
from bench.measurement import BenchError, Memory
from exporters.worker_process import Answer, Requests, Serve, Worker, WorkerError, WorkerTimeoutError, start

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.float32]


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
    opened = requests.next(Open)
    pinned = None if opened.cores is None else tuple(sorted(os.sched_getaffinity(0)))
    import numpy as np

    from exporters.formats import FORMATS

    images = np.load(opened.images)
    pictures = itertools.cycle([images[index : index + 1] for index in range(len(images))])
    kind = FORMATS[opened.format]
    # Imported before memory is noted: the runtime's own memory is no part of the model's.
    for module in kind.runtime_modules:
        importlib.import_module(module)
    gc.collect()
    reset_peak()
    answer(Opened(version(kind.runtime_package), pinned, memory()))

    requests.next(type(None))
    begin = perf_counter_ns()
    run = kind.load(opened.path, opened.threads)
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
