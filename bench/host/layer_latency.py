"""Times of small files, each one layer of a network, side by side in one process: what a cost model is made of.

A layer in a file of its own is not the layer in its network. Three things differ, and are dealt with so:

- its weights: in a network the other layers have driven them out of the caches. So a buffer of twice the last cache is
  walked through before every run. Over 14 plans of AlexNet, ResNet-18 and MobileNetV2 in ExecuTorch and ONNX Runtime,
  the time of the whole compressed file was missed by 9 % on average with hot weights, by 5 % so;
- the file's edges: the image is brought into the runtime's own order of channels and the answer back, and the call
  itself takes time. A layer and its factors take and give the same shapes, so in the difference of their times, which
  is all that a plan changes, the edges cancel;
- the machine: one thread's time on its core is counted, not the time on the wall, so other processes' turns on that
  core do not count; what disturbs a run else only adds, so the lower quartile of the samples stands for them. A
  machine whose memory is slower for some minutes stays: files that are to be compared take turns. With the network
  timed at another minute than its layers AlexNet was missed by 37 %, in turns with them by 2 to 8 %
  (`results/latency_prediction.jsonl`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Protocol

from bench.host.facts import describe, last_cache, pick_cores
from bench.host.worker import RUNTIMES
from bench.host.worker_client import Child, start
from bench.measurement import BenchError, Device
from bench.statistics import quantile
from exporters.formats import FORMATS

TYPICAL_CACHE = 32 << 20
TIMEOUT_SECONDS = 300.0


@dataclass(frozen=True)
class TimedFile:
    """A file to be timed, the shape of the image it takes, and whether its weights are to be cold before each run.

    A warm file has run twice before it is timed in its turn, for the file before it has driven its weights out.
    """

    file: Path
    shape: tuple[int, ...]
    cold: bool = True


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
    """What one run of a file takes in ms (the lower quartile), from so many samples."""

    ms: float
    samples: int


class Stopwatch(Protocol):
    """Times files on one device."""

    def time(self, subjects: Sequence[TimedFile], effort: Effort) -> tuple[Timing, ...]:
        """A Timing for each file; their runs take turns. BenchError if the device is gone."""
        ...


@dataclass(frozen=True)
class LayerDevice:
    """A device that can time layers: which it is, the version of its runtime, and a stopwatch while a block lasts."""

    describe: Callable[[], Device]
    runtime_version: Callable[[str], str]
    stopwatch: Callable[[str, int], AbstractContextManager[Stopwatch]]


@dataclass(frozen=True)
class HostStopwatch:
    """Times files on this machine, in one process that is pinned to its cores."""

    child: Child
    sweep_bytes: int

    def time(self, subjects: Sequence[TimedFile], effort: Effort) -> tuple[Timing, ...]:
        files = [
            {"path": str(each.file), "shape": each.shape, "sweep_bytes": self.sweep_bytes if each.cold else 0}
            for each in subjects
        ]
        seconds = effort.seconds * len(subjects)
        answer = self.child.ask("time", files=files, **asdict(replace(effort, seconds=seconds)))
        return tuple(Timing(quantile(sorted(samples), 0.25), len(samples)) for samples in answer["samples_ms"])


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
    with start("a layer's file", threads, TIMEOUT_SECONDS, "bench.host.layer_worker") as child:
        child.ask("open", format=format, threads=threads, cores=pick_cores(threads))
        yield HostStopwatch(child, 2 * (last_cache() or TYPICAL_CACHE))


LAYER_DEVICES: dict[str, LayerDevice] = {
    "host": LayerDevice(describe, lambda format: version(RUNTIMES[format][1]), host_stopwatch),
}
