"""The process that writes small files to be timed: `python -m compress_export.latency.layer_writer`, an order a line.

It imports its toolkit once and writes while another core times: an export takes longer than the timing of its file
(a layer's .pte 0.8 s, .onnx 0.5 s, .ptl 0.04 s). `LayerFiles` is its parent's side.
"""

from __future__ import annotations

import gc
import itertools
import os
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.host.facts import pick_cores
from bench.host.worker import answer_all
from bench.host.worker_client import Child, start

if TYPE_CHECKING:
    from compress_export.latency.layer_modules import Geometry
    from compressor.layer_shape import Rank

TIMEOUT_SECONDS = 1800.0


class LayerFiles:
    """Writes files of one format in the background, in the order asked. Made by `writing`, which also ends it."""

    def __init__(self, child: Child, queue: ThreadPoolExecutor, format: str, folder: Path) -> None:
        self._child = child
        self._queue = queue
        self._format = format
        self._folder = folder
        self._files: dict[tuple[str, str, Rank], Future[Path]] = {}
        self._numbers = itertools.count()

    def variant(self, geometry: Geometry, method: str, rank: Rank) -> Future[Path]:
        """The file of a variant, when it is written. Asked again, the same file."""
        key = geometry.text, method, rank
        if key not in self._files:
            path = self._folder / f"{next(self._numbers)}.{self._format}"
            order = {"geometry": geometry.text, "method": method, "rank": rank, "path": str(path)}
            self._files[key] = self._queue.submit(self._write, "variant", path, order)
        return self._files[key]

    def remove(self, geometry: Geometry, method: str, rank: Rank) -> None:
        """Removes the file of a variant, which is written: those of a large layer fill a disk."""
        self._files.pop((geometry.text, method, rank)).result().unlink()

    def program(self, program: Path) -> Future[Path]:
        """The file of a captured program (.pt2)."""
        path = self._folder / f"{program.stem}.{self._format}"
        return self._queue.submit(self._write, "program", path, {"program": str(program), "path": str(path)})

    def _write(self, step: str, path: Path, order: dict[str, Any]) -> Path:
        self._child.ask(step, **order)
        return path


@contextmanager
def writing(format: str, folder: Path, threads: int) -> Iterator[LayerFiles]:
    """A process that writes into `folder` for as long as the block lasts, beside the cores where `threads` time."""
    name = f"a layer's .{format} file"
    queue = ThreadPoolExecutor(1)
    with start(name, 1, TIMEOUT_SECONDS, "compress_export.latency.layer_writer") as child:
        try:
            child.ask("open", format=format, cores=_other_cores(threads))
            yield LayerFiles(child, queue, format, folder)
        finally:
            child.process.kill()  # the file under way fails, and nobody waits for it any more
            queue.shutdown(cancel_futures=True)


def _other_cores(threads: int) -> list[int] | None:
    """The cores on which nothing is timed, or None where there are none, or the system does not pin."""
    timing = pick_cores(threads)
    if timing is None:
        return None
    return sorted(os.sched_getaffinity(0) - set(timing)) or None


def serve(orders: Iterator[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Writes one file for each order; ends with the orders."""
    from bench.host.worker import pin

    setup = next(orders)
    pin(setup["cores"])
    from compress_export.latency.layer_modules import build, example, geometry_from
    from exporters.capture import capture, load
    from exporters.formats import FORMATS

    # What the toolkits hold is never garbage; to walk through it again and again takes a fifth of the time.
    gc.freeze()
    _remember_lookups(setup["format"])
    yield {}
    for order in orders:
        if order["step"] == "variant":
            geometry = geometry_from(order["geometry"])
            program = capture(build(geometry, order["method"], tuple(order["rank"])), example(geometry))
        else:
            program = load(Path(order["program"]))
        FORMATS[setup["format"]].export(program, Path(order["path"]))
        del program
        yield {}


def _remember_lookups(format: str) -> None:
    """Lets torch keep two tables of all its operators that it makes anew for every program, half of an export's time.

    The tables do not depend on the program, and torch itself only reads them; where another torch has them elsewhere,
    exports are as slow as before.
    """
    import torch._export.utils as operators

    name = "_collect_all_valid_cia_ops_for_namespace"
    if hasattr(operators, name):
        setattr(operators, name, cache(getattr(operators, name)))
    if format == "onnx":
        from torch.onnx._internal.exporter._registration import ONNXRegistry

        whole = ONNXRegistry.from_torchlib
        setattr(ONNXRegistry, "from_torchlib", staticmethod(cache(whole)))  # noqa: B010  # mypy sees a method


if __name__ == "__main__":
    sys.exit(answer_all(serve))
