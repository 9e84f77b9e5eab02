"""Instructions of a layer's kernels in ExecuTorch's XNNPACK on a core, predicted from the layer's geometry.

The structure is that of XNNPACK's kernels: a matrix product goes tile by tile, `rows` x `columns` outputs at a time
(what does not fill one costs a whole one), over the inputs in steps of `depth`; a window larger than 1x1 adds a step
over indirect pointers for each of its positions; a depthwise kernel goes pixel by pixel over a few channels at a time.
The coefficients are data: `instructions.toml` holds what results/fit_instructions.py fitted on operators counted in the
simulator, and how far it was off on networks that the fit had not seen.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from math import ceil, prod
from pathlib import Path
from typing import Protocol

from bench.measurement import BenchError

FILE = Path(__file__).with_name("instructions.toml")
LINE = 64
L2_BYTES = 524_288
COLUMNS = 16
BYTES = {"float32": 4, "float16": 2, "int8": 1}
FEW = 4
"""Pixels up to which a kernel of so many rows is taken."""
WASTE = 1.01
"""Columns computed over those of the narrow kernel, beyond which a product takes that one."""
PRIMARY_TILES = (3, 4, 9, 25)
"""Window positions of XNNPACK's depthwise kernels; a window takes the next larger one."""


class Geometry(Protocol):
    """The geometry of a layer for one image, as `compressor.layer_shape.LayerShape` has it."""

    @property
    def inputs(self) -> int: ...

    @property
    def outputs(self) -> int: ...

    @property
    def groups(self) -> int: ...

    @property
    def window(self) -> tuple[int, int]: ...

    @property
    def in_size(self) -> tuple[int, int]: ...

    @property
    def out_size(self) -> tuple[int, int]: ...


@dataclass(frozen=True)
class Tile:
    """Outputs that a kernel computes at a time (`rows` x `columns`), its inputs in one step, and the steps in one turn
    of its loop."""

    rows: int
    columns: int
    depth: int
    turn: int


@dataclass(frozen=True)
class Tiles:
    """The kernels of a number type: the usual one, and one of few columns for a number of outputs that does not fill
    the usual columns, where there is one; channels that a depthwise kernel takes at a time."""

    usual: Tile
    narrow: Tile | None
    channels: int


@dataclass(frozen=True)
class InstructionModel:
    """Instructions of kernels in one number type on one core.

    `kernels` are instructions for each unit of work (see `work`) by kernel, `operators` (for each element, for each
    call) of what is no layer. `error` and `worst` are the mean and the largest error, as fractions, of whole files that
    the fit had not seen. `lines` are missed cache lines for each unit of `traffic`; `line` is what a
    missed line costs, in instructions.
    """

    core: str
    runtime: str
    dtype: str
    tiles: Tiles
    kernels: Mapping[str, Mapping[str, float]]
    operators: Mapping[str, tuple[float, float]]
    lines: Mapping[str, float]
    line: float
    error: float
    worst: float

    def layer(self, shape: Geometry) -> float:
        """Instructions of one call of a layer."""
        kernel, units = work(shape, self.tiles)
        weights = next(self.kernels[name] for name in _alike(kernel) if name in self.kernels)
        return sum(weights.get(unit, 0.0) * amount for unit, amount in units.items())

    def operator(self, kind: str, elements: int) -> float:
        """Instructions of one call of another operator over so many elements; of an unknown one, as of the dearest."""
        each, call = self.operators.get(kind) or max(self.operators.values())
        return each * elements + call

    def missed_lines(self, shape: Geometry) -> float:
        """Cache lines of one call of a layer that the second level misses."""
        return sum(self.lines[name] * amount for name, amount in traffic(shape, BYTES[self.dtype]).items())

    def cost(self, shape: Geometry) -> float:
        """Instructions of one call, and what its missed lines cost in instructions."""
        return self.layer(shape) + self.line * self.missed_lines(shape)


def _alike(kernel: str) -> Iterator[str]:
    """The kernel, and those whose loops are most like its: the fit has seen few layers of a handful of pixels, and no
    window over one of them."""
    loop, _, pixels = kernel.partition("_of_")
    for name in (loop, loop.removeprefix("narrow_")):
        yield from (f"{name}_of_{pixels}", f"{name}_of_few", name) if pixels else (name,)


def work(shape: Geometry, tiles: Tiles) -> tuple[str, dict[str, float]]:
    """The kernel that computes a layer, and how often it does each of its units of work."""
    groups, window, pixels = shape.groups, prod(shape.window), prod(shape.out_size)
    inputs, outputs = shape.inputs // groups, shape.outputs // groups
    if inputs == 1 and groups > 1 and outputs == 1:
        primary = next((size for size in PRIMARY_TILES if window <= size), 0)
        blocks, rest = divmod(groups, tiles.channels)
        units = {
            "pixel": float(pixels),
            "block": float(pixels * blocks),
            "rest": float(pixels * (rest > 0)),
            "half": float(pixels * ceil(2 * rest / tiles.channels)),
            "call": 1.0,
        }
        if not primary:  # passes over the window, which is not a tile of its own
            units |= {"block_position": float(pixels * blocks * window), "rest_position": float(pixels * rest * window)}
        return f"depthwise_{primary or 'passes'}", units
    # ExecuTorch gives XNNPACK a 1x1 convolution as a fully connected operator.
    pointwise, tile = window == 1 and shape.in_size == shape.out_size and groups == 1, tiles.usual
    kernel = "product" if pointwise else "window"
    if tiles.narrow and (outputs < tile.columns or (pointwise and _wasted(outputs, tile, tiles.narrow) > WASTE)):
        kernel, tile = f"narrow_{kernel}", tiles.narrow
    rows, columns = ceil(pixels / tile.rows), ceil(outputs / tile.columns)
    if pixels == 1 or (pixels <= FEW < tile.rows):  # a kernel of so many rows
        kernel = f"{kernel}_of_{'one' if pixels == 1 else 'few'}"
    steps, rest = divmod(inputs, tile.depth)
    turns, loose = divmod(steps, tile.turn)
    tiled = float(groups * rows * columns)
    return kernel, {
        "tile": tiled,
        "turn": tiled * window * turns,
        "loose": tiled * window * loose,
        "rest": tiled * window * (rest > 0),
        "two": tiled * window * (rest // 2),
        "one": tiled * window * (rest % 2),
        "position": 0.0 if pointwise else tiled * window,
        "row": float(groups * rows),
        "uneven": float(groups * rows * (outputs % tile.columns > 0)),
        "call": 1.0,
    }


def _wasted(outputs: int, usual: Tile, narrow: Tile) -> float:
    """Columns that the usual kernel computes over those of the narrow one."""
    whole, few = (tile.columns * ceil(outputs / tile.columns) for tile in (usual, narrow))
    return whole / few


def traffic(shape: Geometry, size: int) -> dict[str, float]:
    """Cache lines of a layer's weights, of its activations as far as they fill the second level of cache, of inputs
    that do not fit into it and are read again for each tile of outputs (a product of many pixels), and calls."""
    weights = size * shape.outputs * shape.inputs // shape.groups * prod(shape.window)
    read, written = size * shape.inputs * prod(shape.in_size), size * shape.outputs * prod(shape.out_size)
    again = read * (shape.outputs // shape.groups) / COLUMNS if read > L2_BYTES else 0.0
    return {
        "weights": weights / LINE,
        "activations": min(1.0, (read + written) / L2_BYTES) * (read + written) / LINE,
        "again": again / LINE,
        "call": 1.0,
    }


@cache
def read_model(dtype: str, core: str = "cortex-a76", path: Path = FILE) -> InstructionModel:
    """The model of a number type on a core. BenchError where none was fitted, with those that were."""
    rows = tomllib.loads(path.read_text(encoding="utf-8"))
    found = rows["cores"].get(core, {})
    if dtype not in found:
        known = ", ".join(f"{name} on {own}" for own, types in rows["cores"].items() for name in types)
        raise BenchError(f"instructions of {dtype} on {core} are not predicted; there are {known}")
    row = found[dtype]
    return InstructionModel(
        core=core,
        runtime=rows["runtime"],
        dtype=dtype,
        tiles=Tiles(Tile(**row["tile"]), Tile(**row["narrow"]) if "narrow" in row else None, row["channels"]),
        kernels=row["kernels"],
        operators={name: (each, call) for name, (each, call) in row["operators"].items()},
        lines=row["lines"],
        line=rows["line"],
        error=row["error"],
        worst=row["worst"],
    )
