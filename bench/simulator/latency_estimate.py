"""Estimate of latency for a named core: a roofline over operator classes, fitted on public figures of one runtime.

It is an estimate of what that runtime would take on such a device, not a measurement and not of this project's engines;
`devices.toml` holds what results/fit_devices.py fitted, and how far it was off on what it had not seen.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.measurement import BenchError

FILE = Path(__file__).with_name("devices.toml")
CLASSES = ("square", "pointwise", "depthwise", "window", "connected")


@dataclass(frozen=True)
class OperatorCost:
    """One convolution or fully connected layer: its class, its MACs, and the bytes that it reads and writes once.

    `square` is a 3x3 window at stride 1 (runtimes have a faster algorithm for it), `window` any other window.
    """

    kind: str
    macs: int
    bytes: int


@dataclass(frozen=True)
class CoreModel:
    """Parameters fitted for one core: MACs in a cycle by class, bytes and cycles.

    `bandwidth` is bytes in a second, `overhead` cycles for each operator. Errors are means, as fractions, of estimates
    for a device that the fit had not seen, for a device and a network neither of which it had seen, and for the ratio
    of two such networks of one family.
    """

    core: str
    mhz: float
    rates: Mapping[str, float]
    bandwidth: float
    overhead: float
    device_error: float
    error: float
    ratio_error: float


def read_models(path: Path = FILE) -> tuple[str, dict[str, CoreModel]]:
    """The runtime that was fitted, and each core that could be judged."""
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    return values["runtime"], {name: CoreModel(core=name, **row) for name, row in values["cores"].items()}


def estimate_ms(model: CoreModel, operators: Sequence[OperatorCost]) -> float:
    """Milliseconds of one image through the operators: for each, the slower of work and traffic, and a constant."""
    hertz = model.mhz * 1e6
    seconds = sum(
        max(each.macs / (model.rates[each.kind] * hertz), each.bytes / model.bandwidth) + model.overhead / hertz
        for each in operators
    )
    return 1000 * seconds


def operators_of(survey: Mapping[str, Any]) -> tuple[OperatorCost, ...]:
    """The operators of a network from its survey.json. BenchError if a layer is of no known kind."""
    operators = []
    for layer in survey["layers"]:
        shape, macs = layer["shape"], layer["cost"]["macs"]
        if macs:
            values = shape["inputs"] * _area(shape["in_size"]) + shape["outputs"] * _area(shape["out_size"])
            # The figures are of a runtime that stores fully connected weights in 16 bits.
            weight_bytes = (2 if shape["kind"] == "linear" else 4) * layer["cost"]["parameters"]
            operators.append(OperatorCost(_class(shape), macs, 4 * values * layer["calls"] + weight_bytes))
    return tuple(operators)


def _class(shape: Mapping[str, Any]) -> str:
    if shape["kind"] not in ("conv", "linear"):
        raise BenchError(f"an estimate knows convolutions and fully connected layers, not {shape['kind']!r}")
    window, groups = tuple(shape["window"]), shape["groups"]
    if shape["kind"] == "linear":
        return "connected"
    if groups > 1 and groups == shape["inputs"]:
        return "depthwise"
    if window == (1, 1):
        return "pointwise"
    full_size = shape["out_size"][0] >= shape["in_size"][0] - window[0]
    return "square" if window == (3, 3) and full_size and groups == 1 else "window"


def _area(size: Sequence[int]) -> int:
    return size[0] * size[1] if size else 1
