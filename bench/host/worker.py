"""The process that runs one file: `python -m bench.host.worker`, orders in and answers out, one JSON line each.

`bench.host.worker_client` starts it and is the only one to talk to it. The orders, in this sequence: open, load, first,
warm up, block (as often as wanted), end. Nothing heavy is imported at the top: a runtime that is imported before the
process is pinned sizes its thread pool by all cores of the machine.
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import resource
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from time import perf_counter_ns
from typing import TYPE_CHECKING, Any

from bench.host.facts import frequency_mhz, memory, reset_peak

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = Iterator[NDArray[np.float32]]
    Run = Callable[[NDArray[np.float32]], NDArray[np.float32]]

RUNTIMES: dict[str, tuple[tuple[str, ...], str]] = {
    "pte": (("torch", "executorch.extension.pybindings._C"), "executorch"),
    "onnx": (("onnxruntime",), "onnxruntime"),
    "ptl": (("torch.jit.mobile",), "torch"),
    "mlpackage": (("coremltools",), "coremltools"),
}
"""Modules and package of each format's runtime: imported before memory is noted, hence no part of the model's."""


def answer_all(serve: Callable[[Iterator[dict[str, Any]]], Iterator[dict[str, Any]]]) -> int:
    """Orders from standard input to `serve`, its answers to standard output; the exit status of the process."""
    answers = _take_stdout()
    try:
        for answer in serve(json.loads(line) for line in sys.stdin):
            print(json.dumps(answer), file=answers, flush=True)
    except BrokenPipeError:
        return 1  # whoever asked is gone; nobody is left to be told
    except Exception as error:  # a runtime raises what it likes; all of it is the parent's to report
        traceback.print_exc()
        print(
            json.dumps({"error": f"{type(error).__name__}: {' '.join(str(error).split())}"}), file=answers, flush=True
        )
        return 1
    return 0


def serve(orders: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """One answer for each order. Ends with the orders, so a parent that dies leaves no process behind."""
    setup = next(orders)
    pinned = pin(setup["cores"])
    import numpy as np

    from exporters.formats import FORMATS

    images = np.load(setup["images"])
    pictures = itertools.cycle([images[place : place + 1] for place in range(len(images))])
    modules, package = RUNTIMES[setup["format"]]
    for module in modules:
        importlib.import_module(module)
    gc.collect()
    reset_peak()
    yield {"version": version(package), "pinned": pinned, "memory": asdict(memory())}

    next(orders)
    begin = perf_counter_ns()
    run = FORMATS[setup["format"]].load(Path(setup["path"]), setup["threads"])
    yield {"ms": _since(begin), "memory": asdict(memory())}

    next(orders)
    # From here on, no pause of the garbage collector falls into a run.
    gc.freeze()
    gc.disable()
    yield {"ms": _timed(run, next(pictures)), "memory": asdict(memory())}

    for order in orders:
        if order["step"] == "end":
            yield {"memory": asdict(memory()), "mhz": frequency_mhz(pinned)}
        else:
            before = _preemptions()
            samples = _block(run, pictures, order)
            yield {"samples_ms": samples, "preemptions": _preemptions() - before, "mhz": frequency_mhz(pinned)}


def _take_stdout() -> Any:
    """The real standard output, for answers alone: what a library prints on descriptor 1 goes to standard error."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return answers


def pin(cores: list[int] | None) -> tuple[int, ...] | None:
    """Keeps this process on these cores; the cores it is really on, or None where the system cannot tell."""
    if sys.platform == "darwin" or cores is None:
        return None
    os.sched_setaffinity(0, cores)
    return tuple(sorted(os.sched_getaffinity(0)))


def _block(run: Run, pictures: Images, order: dict[str, Any]) -> list[float]:
    """Times in ms of at least order["runs"] runs and order["seconds"], and of one run or more within order["cap"]."""
    for _ in range(order["settle_runs"]):
        run(next(pictures))
    samples: list[float] = []
    begin = perf_counter_ns()
    elapsed = 0.0
    while (len(samples) < order["runs"] or elapsed < order["seconds"]) and (not samples or elapsed < order["cap"]):
        samples.append(_timed(run, next(pictures)))
        elapsed = (perf_counter_ns() - begin) / 1e9
    return samples


def _timed(run: Run, picture: NDArray[np.float32]) -> float:
    begin = perf_counter_ns()
    run(picture)
    return _since(begin)


def _since(begin: int) -> float:
    """Milliseconds to a tenth of a microsecond: the clock itself is no better."""
    return round((perf_counter_ns() - begin) / 1e6, 4)


def _preemptions() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


if __name__ == "__main__":
    sys.exit(answer_all(serve))
