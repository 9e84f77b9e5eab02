"""Fits bench/simulator/instructions.toml on counted operators, and judges it: instructions_predicted.jsonl.

    python results/fit_instructions.py

The coefficients of layers are fitted on the chains of instructions.jsonl alone, those of other operators (a few per
cent of a file) and of missed cache lines on whole networks. Errors are of whole files that have a network's layers,
none of which the fit of layers has seen; `worst` is the largest among them. What a missed line costs follows from the
bandwidths and rates that results/fit_devices.py fitted on public figures. Takes a minute.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
from scipy.optimize import nnls

from bench.simulator.instructions import BYTES, FILE, LINE, Tile, Tiles, traffic, work
from bench.simulator.latency_estimate import read_models
from compress_export.latency.program_operators import Operator, number_types, other_operators
from compressor.layer_shape import LayerShape
from exporters.capture import capture
from exporters.toolkits import versions

sys.path.insert(0, str(Path(__file__).parent))
from instructions import CORE, network, rows

TILES = {
    "float32": Tiles(Tile(6, 8, 4, 2), Tile(4, 2, 4, 1), 4),
    "float16": Tiles(Tile(6, 16, 4, 1), None, 8),
    "int8": Tiles(Tile(4, 16, 4, 4), None, 16),
}
JUDGED = Path(__file__).with_name("instructions_predicted.jsonl")
WEIGHTED = ("Convolution", "Fully Connected", "Deconvolution")
CALL = 300.0
"""Instructions of a call of any of them; what one of no element takes."""
NAMES = {
    "Add": "add",
    "Subtract": "add",
    "Clamp": "clamp",
    "Transpose": "transpose",
    "Convert": "convert",
    "Max Pooling": "max_pool",
    "Mean": "mean",
    "Average Pooling": "mean",
    "Global Average Pooling": "mean",
    "Static Reshape": "reshape",
    "Constant Pad": "pad",
    "Concatenate": "concatenate",
    "Multiply": "multiply",
    "HardSwish": "hardswish",
    "Sigmoid": "activation",
    "Invalid Unary Op": "lookup",
    "native_call__to_dim_order_copy": "convert",
    "Copy": "concatenate",
    "native_call_slice": "slice",
    "native_call_mean": "mean_outside",
    "native_call__adaptive_avg_pool2d": "pool_outside",
}
"""Operators that are no layers by their engine's names."""


def shape_of(layer: Mapping[str, Any]) -> LayerShape:
    if layer["kind"] == "linear":
        size = (layer["positions"], 1)
        return LayerShape("linear", layer["inputs"], layer["outputs"], 1, (1, 1), size, size, True)
    window, read, written = (tuple(layer[name]) for name in ("window", "in", "out"))
    return LayerShape("conv", layer["inputs"], layer["outputs"], layer["groups"], window, read, written, True)


def layers_of(row: Mapping[str, Any]) -> list[tuple[LayerShape, float]]:
    """Each layer of a file and its instructions."""
    counts = [count for name, count in row["operators"] if name.startswith(WEIGHTED)]
    shapes = [shape_of(layer) for layer in row["layers"]]
    if len(counts) != len(shapes):
        raise SystemExit(f"{row['network']} {row['dtype']}: {len(shapes)} layers and {len(counts)} of their operators")
    return list(zip(shapes, counts, strict=True))


def fit_kernels(samples: Iterable[tuple[LayerShape, float]], tiles: Tiles) -> dict[str, dict[str, float]]:
    """Instructions for each unit of work by kernel, of least squares of relative errors."""
    found: dict[str, list[tuple[dict[str, float], float]]] = defaultdict(list)
    for shape, count in samples:
        kernel, units = work(shape, tiles)
        found[kernel].append((units, count))
    fitted = {}
    for kernel, own in sorted(found.items()):
        names = list(own[0][0])
        matrix = np.array([[units[name] / count for name in names] for units, count in own])
        values, _ = nnls(matrix, np.ones(len(own)))
        fitted[kernel] = {name: round(float(v), 4) for name, v in zip(names, values, strict=True) if v}
        misses = np.abs(matrix @ values - 1)
        if "-v" in sys.argv:
            for (units, count), value in zip(own, matrix @ values, strict=True):
                if abs(value - 1) > 0.03:
                    print("     ", count, round(value - 1, 3), units)
        print(f"  {kernel}: {len(own)} layers, {100 * misses.mean():.2f} % off, {100 * misses.max():.2f} % at most")
    return fitted


def predicted(kernels: Mapping[str, Mapping[str, float]], shape: LayerShape, tiles: Tiles) -> float:
    kernel, units = work(shape, tiles)
    return sum(kernels[kernel].get(name, 0.0) * amount for name, amount in units.items())


def main() -> None:
    table = rows()
    chains = [row for row in table if row["network"].startswith("chain-")]
    wholes = [row for row in table if row not in chains]
    programs = {}
    for base in dict.fromkeys(row["network"].partition("-")[0] for row in wholes):
        module, shape = network(base)
        programs[base] = capture(module.eval(), torch.zeros(shape))
    types = [name for name in TILES if any(row["dtype"] == name for row in chains)]
    version = versions(("executorch",))["executorch"]
    text = [
        f'# Written by results/fit_instructions.py.\n\nruntime = "ExecuTorch {version}"',
        f"line = {instructions_of_a_line():.0f}\n",
    ]
    judged, fitted = [], {}
    for dtype in types:
        print(dtype)
        own = [row for row in wholes if row["dtype"] == dtype]
        kernels = fit_kernels(
            [pair for row in chains if row["dtype"] == dtype for pair in layers_of(row)], TILES[dtype]
        )
        operators = fitted[dtype] = fit_operators(own, programs)
        lines = fit_lines(own, dtype)
        errors = []
        for row in own:
            layers = layers_of(row)
            others = operators_of(programs, row)
            of_layers = sum(predicted(kernels, shape, TILES[dtype]) for shape, _ in layers)
            costs = [(fitted[o.dtype].get(o.kind) or max(fitted[o.dtype].values()), o.elements) for o in others]
            of_others = sum(each * elements + call for (each, call), elements in costs)
            miss = (of_layers + of_others) / row["instructions"] - 1
            layer_miss = of_layers / sum(count for _, count in layers) - 1
            counted = f"{row['instructions']:,}"
            print(f"  {row['network']}: {counted}, predicted {100 * miss:+.2f} %, layers {100 * layer_miss:+.2f} %")
            errors.append(abs(miss))
            told = {"predicted": round(of_layers + of_others), "l2_misses": row["l2_misses"]}
            judged.append({**{key: row[key] for key in ("network", "dtype", "instructions")}, **told})
        text.append(toml(dtype, kernels, operators, lines, errors))
    FILE.write_text("\n".join(text), encoding="utf-8")
    JUDGED.write_text("".join(json.dumps(line) + "\n" for line in judged), encoding="utf-8")


def operators_of(programs: Mapping[str, Any], row: Mapping[str, Any]) -> list[Operator]:
    """Operators that are no layers in the file of a row; a compressed network has those of its original."""
    program = programs[row["network"].partition("-")[0]]
    return other_operators(program, number_types(program, row["dtype"]))


def fit_operators(own: Sequence[Mapping[str, Any]], programs: Mapping[str, Any]) -> dict[str, tuple[float, float]]:
    """Instructions for each element and each call of operators that are no layers; `other` is what is left over."""
    counts: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for row in own:
        elements: dict[str, float] = defaultdict(float)
        calls: dict[str, int] = defaultdict(int)
        for each in operators_of(programs, row):
            elements[each.kind] += each.elements
            calls[each.kind] += 1
        sums: dict[str, float] = defaultdict(float)
        for name, count in row["operators"]:
            kind = next((kind for start, kind in NAMES.items() if name.startswith(start)), None)
            if kind is None and not name.startswith(WEIGHTED):
                kind = re.sub(r"\W+", "_", name)
            if kind == "transpose" and "image" not in sums:
                kind = "image"  # the first is the image's
            if kind is not None:
                sums[kind] += count
        for kind in {*elements, *sums}:
            counts[kind].append((elements[kind], calls[kind], sums[kind]))
    found = {}
    for kind, own_counts in sorted(counts.items()):
        elements, calls, count = (sum(each) for each in zip(*own_counts, strict=True))
        if elements:
            found[kind] = round(max(0.0, count - CALL * calls) / elements, 4), CALL
        print(f"  {kind}: {found.get(kind)} {[tuple(map(round, each)) for each in own_counts]}")
    found.setdefault("other", (max(each for each, _ in found.values()), CALL))
    return found


def fit_lines(own: Sequence[Mapping[str, Any]], dtype: str) -> dict[str, float]:
    """Missed lines for each line of weights, and of activations that do not stay in the cache."""
    names = ("weights", "activations", "again", "call")
    known = [row for row in own if row["l2_misses"]]
    sums = [[sum(traffic(shape, BYTES[dtype])[name] for shape, _ in layers_of(row)) for name in names] for row in known]
    missed = np.array([row["l2_misses"] for row in known], dtype=float)
    values, _ = nnls(np.array(sums) / missed[:, None], np.ones(len(known)))
    for row, of in zip(known, sums, strict=True):
        print(f"  {row['network']}: {row['l2_misses']:,} lines missed, predicted {np.array(of) @ values:,.0f} {of}")
    return {name: round(float(value), 3) for name, value in zip(names, values, strict=True)}


def instructions_of_a_line() -> float:
    """Instructions that a core computes in the time of a line, the mean of the cores that were fitted."""
    _, models = read_models()
    of_a_mac = 0.31  # instructions of float32 products in their tile of 6x8
    return fmean(
        LINE / each.bandwidth * each.mhz * 1e6 * each.rates["pointwise"] * of_a_mac for each in models.values()
    )


def toml(
    dtype: str,
    kernels: Mapping[str, Mapping[str, float]],
    operators: Mapping[str, tuple[float, float]],
    lines: Mapping[str, float],
    errors: Sequence[float],
) -> str:
    tiles, head = TILES[dtype], f"cores.{CORE}.{dtype}"

    def table(values: Mapping[str, object]) -> str:
        return "{ " + ", ".join(f"{name} = {value}" for name, value in values.items()) + " }"

    return "\n".join(
        [
            f"[{head}]",
            f"tile = {table(vars(tiles.usual))}",
            *([f"narrow = {table(vars(tiles.narrow))}"] if tiles.narrow else []),
            f"channels = {tiles.channels}",
            f"lines = {table(lines)}",
            f"error = {fmean(errors):.4f}",
            f"worst = {max(errors):.4f}\n",
            f"[{head}.kernels]",
            *(f"{kernel} = {table(units)}" for kernel, units in kernels.items()),
            f"\n[{head}.operators]",
            *(f"{kind} = [{each}, {call}]" for kind, (each, call) in operators.items()),
            "",
        ]
    )


if __name__ == "__main__":
    main()
