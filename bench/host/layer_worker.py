"""The process that times small files side by side: `python -m bench.host.layer_worker`, one JSON line in, one out.

`bench.host.layer_latency` talks to it through `worker_client`. The
first order opens it; every other one names files of one
format that take the same image, and is answered with each file's samples.
"""

from __future__ import annotations

import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns, thread_time_ns
from typing import TYPE_CHECKING, Any

from bench.host.worker import RUNTIMES, answer_all, pin

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Image = NDArray[np.float32]
    Run = Callable[[Image], Image]

WARM_RUNS = 2
"""Untimed runs of every file at first, and of a warm one each time it is its turn: a compressed AlexNet takes 4.1 ms
right after the original, and 3.3 ms from its third run on, as it does where it runs alone."""


def serve(orders: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One answer for each order; ends with the orders, so a parent that dies leaves no process behind."""
    setup = next(orders)
    pinned = pin(setup["cores"])
    import numpy as np

    modules, package = RUNTIMES[setup["format"]]
    for module in modules:
        importlib.import_module(module)
    # Of one thread the time on the core counts: whatever else the machine does, it waits for nobody else's work.
    clock = thread_time_ns if setup["threads"] == 1 else perf_counter_ns
    gc.disable()
    yield {"version": version(package), "pinned": pinned}
    for order in orders:
        sizes = {file["sweep_bytes"] for file in order["files"]}
        sweeps = {size: np.zeros(size // 4, np.float32) for size in sizes}
        turns = [_turn(file, setup, sweeps[file["sweep_bytes"]]) for file in order["files"]]
        yield {"samples_ms": _take_turns(turns, clock, order)}
        del turns, sweeps
        gc.collect()


@dataclass(frozen=True)
class _Turn:
    """A loaded file, the image it takes, and the buffer that is walked through before each run."""

    run: Run
    image: Image
    sweep: Image


def _turn(file: dict[str, Any], setup: dict[str, Any], sweep: Image) -> _Turn:
    import numpy as np

    from exporters.formats import FORMATS

    image = np.random.default_rng(0).random(file["shape"], dtype=np.float32)
    return _Turn(FORMATS[setup["format"]].load(Path(file["path"]), setup["threads"]), image, sweep)


def _take_turns(turns: list[_Turn], clock: Callable[[], int], order: dict[str, Any]) -> list[list[float]]:
    """Samples in ms of every file. Turns go A B C C B A, so that a machine that slows down evenly slows all alike.

    Rounds go on until every file has order["most"] samples, or order["fewest"] and order["seconds"] are over.
    """
    samples: list[list[float]] = [[] for _ in turns]
    for turn in turns * WARM_RUNS:
        turn.run(turn.image)
    begin = perf_counter_ns()
    while len(samples[0]) < order["fewest"] or (
        len(samples[0]) < order["most"] and perf_counter_ns() - begin < 1e9 * order["seconds"]
    ):
        for place in [*range(len(turns)), *reversed(range(len(turns)))]:
            turn = turns[place]
            for _ in range(0 if turn.sweep.size else WARM_RUNS):
                turn.run(turn.image)
            samples[place] += [_timed(turn, clock) for _ in range(order["in_a_row"])]
    return samples


def _timed(turn: _Turn, clock: Callable[[], int]) -> float:
    """One run's ms. Walking through the sweep first drives the weights out of the caches, as a whole network's do.

    The image is read again after it: in a network the layer before has just written it.
    """
    sweep = turn.sweep
    sweep += 1
    turn.image.sum()
    begin = clock()
    turn.run(turn.image)
    return round((clock() - begin) / 1e6, 5)


if __name__ == "__main__":
    sys.exit(answer_all(serve))
