"""Files of single layers to be timed: a layer's geometry, its variants with random weights, and their worker.

The worker imports its toolkit once and writes while another core times: an export takes longer than the timing of its
file (a layer's .pte 0.8 s, .onnx 0.5 s, .ptl 0.04 s).
"""

from __future__ import annotations

import copy
import gc
import itertools
import os
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Literal

import msgspec
import torch
from torch import Tensor, nn

from bench.host.facts import pick_cores
from bench.host.worker import start_worker
from compressor.decompositions.methods import METHODS
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import Layer
from compressor.plan import KEEP
from exporters.capture import capture, load
from exporters.formats import FORMATS
from exporters.worker_process import Answer, Requests, Worker

TIMEOUT_SECONDS = 1800.0

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


@dataclass(frozen=True)
class Geometry:
    """All that a layer's time depends on: its settings and the size of what it reads.

    `in_size` is (height, width), for a fully connected layer (positions, 1). Layers that agree in it are measured once.
    """

    kind: str
    inputs: int
    outputs: int
    bias: bool
    in_size: tuple[int, int]
    groups: int = 1
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: str | tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    padding_mode: PaddingMode = "zeros"

    @cached_property
    def text(self) -> str:
        """One line that tells this geometry from every other: the key under which its times are kept."""
        return msgspec.json.encode(self).decode()

    @property
    def title(self) -> str:
        """A few words for a person: "conv 64->128 3x3 at 56x56"."""
        if self.kind == "linear":
            return f"linear {self.inputs}->{self.outputs}"
        window, size = ("x".join(map(str, sizes)) for sizes in (self.window, self.in_size))
        return f"conv {self.inputs}->{self.outputs} {window} at {size}"

    @property
    def image(self) -> tuple[int, int, int, int]:
        """Shape of what the file of one variant takes. A fully connected layer reads one position or a sequence."""
        if self.kind == "conv":
            return 1, self.inputs, *self.in_size
        positions = self.in_size[0]
        return (1, self.inputs, 1, 1) if positions == 1 else (1, 1, positions, self.inputs)


def geometry_of(layer: Layer, shape: LayerShape) -> Geometry:
    """The geometry of a layer of the network as the survey saw it run."""
    if isinstance(layer, nn.Linear):
        return Geometry("linear", layer.in_features, layer.out_features, layer.bias is not None, shape.in_size)
    return Geometry(
        kind="conv",
        inputs=layer.in_channels,
        outputs=layer.out_channels,
        bias=layer.bias is not None,
        in_size=shape.in_size,
        groups=layer.groups,
        window=_pair(layer.kernel_size),
        stride=_pair(layer.stride),
        padding=layer.padding if isinstance(layer.padding, str) else _pair(layer.padding),
        dilation=_pair(layer.dilation),
        padding_mode=layer.padding_mode,
    )


class _Copies(nn.Module):
    """The sum of what several modules make of the same input."""

    def __init__(self, modules: Iterable[nn.Module]) -> None:
        super().__init__()
        self.own = nn.ModuleList(modules)

    def forward(self, inputs: Tensor) -> Tensor:
        total: Tensor = self.own[0](inputs)
        for module in self.own[1:]:
            total = total + module(inputs)
        return total


def build(geometry: Geometry, method: str, rank: Rank, copies: int = 1) -> nn.Module:
    """The variant as a module with random weights, which takes an image of `Geometry.image`. Times do not see weights.

    Several `copies` have weights of their own, read the same image and are added. Never zeros or what the memory held:
    denormal numbers are slow.
    """
    layer: Layer
    if geometry.kind == "linear":
        layer = nn.Linear(geometry.inputs, geometry.outputs, bias=geometry.bias)
    else:
        layer = nn.Conv2d(
            geometry.inputs,
            geometry.outputs,
            geometry.window,
            stride=geometry.stride,
            padding=geometry.padding,
            dilation=geometry.dilation,
            groups=geometry.groups,
            bias=geometry.bias,
            padding_mode=geometry.padding_mode,
        )
    own: nn.Module = layer if method == KEEP else METHODS[method].layers(layer, rank)
    variant = own if copies == 1 else _Copies(copy.deepcopy(own) for _ in range(copies))
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in variant.parameters():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=chance))
    single = geometry.kind == "linear" and geometry.in_size[0] == 1
    return (nn.Sequential(nn.Flatten(), variant) if single else variant).eval()


def example(geometry: Geometry) -> Tensor:
    """An image of the shape that the variant takes; its values are never looked at."""
    return torch.zeros(geometry.image)


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    height, width = sizes
    return height, width


@dataclass(frozen=True)
class _Job:
    """A file to be written: of a variant, or of a captured program (.pt2)."""

    path: Path
    geometry: Geometry | None = None
    method: str = KEEP
    rank: Rank = ()
    copies: int = 1
    program: Path | None = None


class LayerFiles:
    """Writes files of one format in the background, in the order asked. Made by `writing`, which also ends it."""

    def __init__(self, worker: Worker, queue: ThreadPoolExecutor, format: str, folder: Path) -> None:
        self._worker = worker
        self._queue = queue
        self._format = format
        self._folder = folder
        self._files: dict[tuple[str, str, Rank, int], Future[Path]] = {}
        self._numbers = itertools.count()

    def variant(self, geometry: Geometry, method: str, rank: Rank, copies: int = 1) -> Future[Path]:
        """The file of so many copies of a variant, when it is written. Asked again, the same file."""
        key = geometry.text, method, rank, copies
        if key not in self._files:
            path = self._folder / f"{next(self._numbers)}.{self._format}"
            self._files[key] = self._queue.submit(self._write, "variant", _Job(path, geometry, method, rank, copies))
        return self._files[key]

    def remove(self, geometry: Geometry, method: str, rank: Rank, copies: int = 1) -> None:
        """Removes the file of a variant, which is written: those of a large layer fill a disk."""
        self._files.pop((geometry.text, method, rank, copies)).result().unlink()

    def program(self, program: Path) -> Future[Path]:
        """The file of a captured program (.pt2)."""
        path = self._folder / f"{program.stem}.{self._format}"
        return self._queue.submit(self._write, "program", _Job(path, program=program))

    def _write(self, step: str, job: _Job) -> Path:
        self._worker.ask(step, job, type(None))
        return job.path


@contextmanager
def writing(format: str, folder: Path, threads: int) -> Iterator[LayerFiles]:
    """A process that writes into `folder` for as long as the block lasts, beside the cores where `threads` time."""
    timing = pick_cores(threads)
    # None where there are no others, or where the system does not pin
    others = None if timing is None else tuple(sorted(os.sched_getaffinity(0) - set(timing))) or None
    queue = ThreadPoolExecutor(1)
    with start_worker(serve, f"a layer's .{format} file", 1, others, TIMEOUT_SECONDS) as worker:
        try:
            worker.ask("open", format, type(None))
            yield LayerFiles(worker, queue, format, folder)
        finally:
            worker.process.kill()  # the file under way fails, and nobody waits for it any more
            queue.shutdown(cancel_futures=True)


def serve(requests: Requests, answer: Answer) -> None:
    """The worker's side: writes one file for each _Job."""
    format = requests.next(str)
    # Toolkits' tables are never garbage; to walk through them again and again takes a fifth of the time.
    gc.freeze()
    _remember_lookups(format)
    answer(None)
    for job in requests.until_none(_Job):
        if job.geometry is not None:
            program = capture(build(job.geometry, job.method, job.rank, job.copies), example(job.geometry))
        else:
            assert job.program is not None
            program = load(job.program)
        FORMATS[format].writer.export(program, job.path)
        del program
        answer(None)


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
