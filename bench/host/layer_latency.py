"""Latencies of small files, each one layer of a network, measured side by side in one process for a cost model.

A layer in a file of its own is not the layer in its network. Three things differ, and are dealt with so:

- its weights: in a network the other layers have driven them out of the caches. So a buffer as large as the network's
  weights, of twice the last cache at most, is walked through before every run. Over 14 plans of AlexNet, ResNet-18 and
  MobileNetV2 in ExecuTorch and ONNX Runtime, the time of the whole compressed file was missed by 9 % on average with
  hot weights, by 5 % so. The weights of a small network stay in the caches, and a sweep of twice the last one would
  charge each of its layers with what nothing in the network takes;
- the file's edges: the image is brought into the runtime's own order of channels and the answer back, and the call
  itself takes time. A file of several copies of a layer has the edges once, so they are known and taken off;
- the machine: one thread's time on its core is counted, not the time on the wall, so other processes' turns on that
  core do not count; what disturbs a run else only adds, so the lower quartile of the samples stands for them. A
  machine whose memory is slower for some minutes stays: files that are to be compared take turns. With the network
  timed at another minute than its layers AlexNet was missed by 37 %, in turns with them by 2 to 8 %
  (`results/latency_prediction.jsonl`).
"""

from __future__ import annotations

import gc
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns, thread_time_ns
from typing import TYPE_CHECKING, Protocol

from bench.host.facts import describe, last_cache, pick_cores
from bench.host.worker import start_worker
from bench.measurement import BenchError, Device
from bench.statistics import quantile
from exporters.formats import FORMATS
from exporters.worker_process import Answer, Requests, Worker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.float32]
    Run = Callable[[Image], Image]

TYPICAL_CACHE = 32 << 20
TIMEOUT_SECONDS = 300.0
WARM_RUNS = 2
"""Untimed runs of every file at first, and of a warm one each time it is its turn: a compressed AlexNet takes 4.1 ms
right after the original, and 3.3 ms from its third run on, as it does where it runs alone."""


@dataclass(frozen=True)
class TimedFile:
    """A file to be timed, the shape of the image it takes, and the bytes that are walked through before each run.

    A warm file (0 bytes) has run twice before it is timed in its turn, for the file before it has driven its weights
    out.
    """

    file: Path
    shape: tuple[int, ...]
    sweep: int = 0


@dataclass(frozen=True)
class Effort:
    """Samples of each file: `fewest` at least, `most` at most, and between them until `seconds` are over.

    `in_a_row` are taken before it is the next file's turn.
    """

    fewest: int = 8
    most: int = 40
    seconds: float = 0.5
    in_a_row: int = 1


@dataclass(frozen=True)
class Timing:
    """The ms of one run of a file (the lower quartile), from so many samples."""

    ms: float
    samples: int


class Stopwatch(Protocol):
    """Times files on one device."""

    def time(self, files: Sequence[TimedFile], effort: Effort) -> tuple[Timing, ...]:
        """A Timing for each file; their runs take turns. BenchError if the device is gone."""
        ...


@dataclass(frozen=True)
class LayerDevice:
    """A device that can time layers, the version of its runtime, and a stopwatch while a block lasts."""

    describe: Callable[[], Device]
    runtime_version: Callable[[str], str]
    stopwatch: Callable[[str, int], AbstractContextManager[Stopwatch]]


@dataclass(frozen=True)
class HostStopwatch:
    """Times files on this machine, in one process that is pinned to its cores."""

    worker: Worker

    def time(self, files: Sequence[TimedFile], effort: Effort) -> tuple[Timing, ...]:
        request = _Round(tuple(files), effort)
        found = self.worker.ask("time", request, tuple[tuple[float, ...], ...])
        return tuple(Timing(quantile(sorted(samples), 0.25), len(samples)) for samples in found)


@contextmanager
def host_stopwatch(format: str, threads: int) -> Iterator[HostStopwatch]:
    """A process of this machine that times files of one format for as long as the block lasts.

    BenchError where this system does not run the format, or has fewer cores than `threads`.
    """
    if not FORMATS[format].runs_here:
        raise BenchError(
            f"{FORMATS[format].title} runs on {FORMATS[format].system} only, so no layer can be timed in it here; "
            f"plan for another format: {', '.join(name for name, kind in FORMATS.items() if kind.runs_here)}"
        )
    with start_worker(serve, "a layer's file", threads, pick_cores(threads), TIMEOUT_SECONDS) as worker:
        worker.ask("open", _Open(format, threads), type(None))
        yield HostStopwatch(worker)


def most_swept() -> int:
    """Bytes after which nothing is left in the caches of this machine: twice the last one."""
    return 2 * (last_cache() or TYPICAL_CACHE)


LAYER_DEVICES: dict[str, LayerDevice] = {
    "host": LayerDevice(describe, lambda format: version(FORMATS[format].writer.RUNTIME_PACKAGE), host_stopwatch),
}


@dataclass(frozen=True)
class _Open:
    format: str
    threads: int


@dataclass(frozen=True)
class _Round:
    """Files to be timed side by side."""

    files: tuple[TimedFile, ...]
    effort: Effort


@dataclass(frozen=True)
class _Loaded:
    """A loaded file, the image it takes, and the buffer that is walked through before each run."""

    run: Run
    image: Image
    sweep: Image


def serve(requests: Requests, answer: Answer) -> None:
    """The worker's side: the ms of each file's runs, for every _Round."""
    import numpy as np

    opened = requests.next(_Open)
    kind = FORMATS[opened.format]
    for module in kind.writer.RUNTIME_MODULES:
        importlib.import_module(module)
    # Of one thread the time on the core counts: whatever else the machine does, it waits for nobody else's work.
    clock = thread_time_ns if opened.threads == 1 else perf_counter_ns
    gc.disable()
    answer(None)
    for request in requests.until_none(_Round):
        sweep = np.zeros(max((file.sweep for file in request.files), default=0) // 4, np.float32)
        loaded = [
            _Loaded(
                kind.writer.load(file.file, opened.threads),
                np.random.default_rng(0).random(file.shape, dtype=np.float32),
                sweep[: file.sweep // 4],
            )
            for file in request.files
        ]
        answer(_take_turns(loaded, clock, request.effort))
        del loaded, sweep
        gc.collect()


def _take_turns(files: list[_Loaded], clock: Callable[[], int], effort: Effort) -> list[list[float]]:
    """Samples in ms of every file. Turns go A B C C B A, so that a machine that slows down evenly slows all alike.

    Rounds go on until every file has `effort.most` samples, or `effort.fewest` and `effort.seconds` for each are over.
    """
    samples: list[list[float]] = [[] for _ in files]
    for file in files * WARM_RUNS:
        file.run(file.image)
    begin, seconds = perf_counter_ns(), effort.seconds * len(files)
    while len(samples[0]) < effort.fewest or (
        len(samples[0]) < effort.most and perf_counter_ns() - begin < 1e9 * seconds
    ):
        for index in [*range(len(files)), *reversed(range(len(files)))]:
            file = files[index]
            for _ in range(0 if file.sweep.size else WARM_RUNS):
                file.run(file.image)
            samples[index] += [_timed(file, clock) for _ in range(effort.in_a_row)]
    return samples


def _timed(file: _Loaded, clock: Callable[[], int]) -> float:
    """One run's ms. Walking through the sweep first drives the weights out of the caches, as a whole network's do.

    The image is read again after it: in a network the layer before has just written it.
    """
    sweep = file.sweep
    sweep += 1
    file.image.sum()
    begin = clock()
    file.run(file.image)
    return round((clock() - begin) / 1e6, 5)
