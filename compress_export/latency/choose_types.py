"""choose_types(): a program with each layer in int8 or float32, or all in float16, whichever costs a phone least.

What an operator costs is predicted; int8 beside float32 costs conversions, so that types are chosen for the whole
network at once, by a minimum cut. Where int8 leaves the logits too noisy, what each operator adds to the noise has a
price, which rises until enough of them are in float32.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING

from bench.simulator.instructions import read_model
from compress_export.latency.program_operators import (
    LAYERS,
    followed,
    image_shape,
    is_delegated,
    is_image,
    layer_shape,
    number_types,
    operator_name,
    other_operators,
    own_operators,
)
from exporters.artifact import ExportError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import fx
    from torch.export import ExportedProgram

    from exporters.quantization.noise import OperatorNoise
    from exporters.quantization.post_training import QuantizedProgram

WORTH = 0.98
"""What int8 computes costs at most so much of what it costs in float32, conversions included, or is not worth it."""
INT8, FLOAT16, FLOAT32 = "int8", "float16", "float32"
ROUNDS = 6
"""Quantized programs that are tried for one that is not too noisy."""
STRICTER = 0.8
"""The noise that the next round may predict, of what the last one might, at most."""
PRICES = 16
"""Prices of noise that are tried, each the geometric mean of the two around it."""


def choose_types(program: ExportedProgram, images: NDArray[np.float32], least: float) -> QuantizedProgram:
    """The program of the least predicted cost whose logits have a signal-to-noise ratio of `least` dB or more on the
    images (N, C, H, W); each layer in float32 has the reason. ExportError as from `quantize`."""
    from exporters.quantization.noise import JUDGED
    from exporters.quantization.post_training import in_one_type, quantize

    fastest = types = cheapest_types(program)
    noises: dict[str, OperatorNoise] = {}
    allowed, most, found = 10 ** (-least / 10), math.inf, None
    for _ in range(ROUNDS):
        if INT8 not in types.values():
            break
        made = quantize(program, images, floats=_reasons(program, types, fastest))
        if made.signal_to_noise >= least:
            found = made
            break
        noises = noises or made.operator_noise()
        # what operators add together is not quite the sum of what each adds alone
        together = added_noise(program, noises, types) * 10 ** (made.signal_to_noise / 10)
        most = min(allowed * together, STRICTER * most)
        types = cheapest_types(program, noises, least_price(program, noises, most))
    made_of = {FLOAT32: program} | _halved(program, images)
    costs = {dtype: predicted_cost(program, number_types(program, dtype)) for dtype in made_of}
    compared = "" if found else f", and int8 leaves the logits below {least:g} dB"
    if found is not None:
        costs[INT8] = predicted_cost(program, types)
    chosen = min(costs, key=lambda dtype: costs[dtype])
    figures = ", ".join(f"{cost / 1e6:.1f}M in {dtype}" for dtype, cost in costs.items())
    note = f"predicted cost in instructions of a Cortex-A76: {figures}{compared}"
    if chosen == INT8 and found is not None:
        return replace(found, notes=(*found.notes, note))
    reason = f"{chosen} throughout is predicted to cost least{compared}"
    return in_one_type(program, made_of[chosen], images[:JUDGED], chosen, reason, note)


def _halved(program: ExportedProgram, images: NDArray[np.float32]) -> dict[str, ExportedProgram]:
    """The program in float16; nothing where a number is too large for it."""
    from exporters.quantization.half import halve
    from exporters.quantization.noise import JUDGED

    try:
        return {FLOAT16: halve(program, images[:JUDGED])}
    except ExportError:
        return {}


def _reasons(program: ExportedProgram, types: Mapping[str, str], fastest: Mapping[str, str]) -> dict[str, str]:
    """The operators that stay in float32, by their nodes' names, with the reason."""
    possible = number_types(program, INT8)
    return {
        name: "XNNPACK has no int8 operator for it"
        if possible[name] != INT8
        else f"int8 with its conversions is not predicted to take {100 * (1 - WORTH):.0f} % less"
        if fastest[name] != INT8
        else "int8 adds more noise to the logits here than it is worth"
        for name, dtype in types.items()
        if dtype != INT8
    }


def cheapest_types(
    program: ExportedProgram, noises: Mapping[str, OperatorNoise] | None = None, price: float = 0.0
) -> dict[str, str]:
    """The number type of each operator of a float32 program, by its node's name, of the least predicted cost (see
    `predicted_cost`) with `price` added for each unit of noise.

    Between an operator in int8 and one in float32 a value is converted, once however many read it. A choice of types is
    a cut of a graph, and its cost the cut's capacity, so that the minimum cut is the best of all choices (Greig,
    Porteous, Seheult 1989, "Exact Maximum A Posteriori Estimation for Binary Images").
    """
    import networkx

    cut = networkx.DiGraph()
    cut.add_nodes_from((INT8, FLOAT32))
    cut.add_edge("output", FLOAT32)  # the logits are float32
    possible = number_types(program, INT8)
    convert = read_model(INT8)

    def tie(one: str, other: str) -> None:
        """Whenever `one` is in int8, so is `other`: an edge without a capacity is never cut."""
        cut.add_edge(one, other)

    def pay(name: str, int8: float, float32: float = 0.0) -> None:
        cut.add_edge(INT8, name, capacity=float32)
        cut.add_edge(name, FLOAT32, capacity=int8)

    for node in program.graph.nodes:
        if not is_image(node, program) or not image_shape(node):
            continue
        name, noise = node.name, (noises or {}).get(node.name)
        readers = [each for each in node.users if image_shape(each) or each.op == "output"]
        if possible.get(name) == INT8:
            pay(name, _cost(node, INT8), WORTH * _cost(node, FLOAT32))
            source = followed(node, program)
            if source is not None:
                tie(name, source.name)
                tie(source.name, name)
            if noise is not None:
                pay(f"weights of {name}", price * noise.weights)
                tie(name, f"weights of {name}")
        else:
            tie(name, FLOAT32)
        if noise is not None:  # an output is rounded if its operator or a reader is in int8
            pay(f"output of {name}", price * noise.output)
            for each in (node, *readers):
                tie(each.name, f"output of {name}")
        # `read`: a reader is in int8; `kept`: no reader is in float32
        conversion = convert.operator("convert", prod(image_shape(node)))
        cut.add_edge(f"{name} read", name, capacity=conversion)
        cut.add_edge(name, f"{name} kept", capacity=conversion)
        for each in readers:
            tie(each.name, f"{name} read")
            tie(f"{name} kept", each.name)
    _, (int8, _) = networkx.minimum_cut(cut, INT8, FLOAT32)
    return {name: INT8 if name in int8 else FLOAT32 for name in possible}


def added_noise(program: ExportedProgram, noises: Mapping[str, OperatorNoise], types: Mapping[str, str]) -> float:
    """The noise of these types: over the logits' power, as sums of what operators add alone."""
    found = 0.0
    for node in program.graph.nodes:
        noise = noises.get(node.name)
        if noise is not None:
            own, readers = types.get(node.name) == INT8, any(types.get(each.name) == INT8 for each in node.users)
            found += own * noise.weights + (own or readers) * noise.output
    return found


def least_price(program: ExportedProgram, noises: Mapping[str, OperatorNoise], most: float) -> float:
    """The price of noise from which on the cheapest types add at most so much of it, to a few per cent."""
    low, high = 0.0, predicted_cost(program, number_types(program, FLOAT32)) / max(most, 1e-30)
    for _ in range(PRICES):
        price = (low * high) ** 0.5 if low else high / 1e6
        enough = added_noise(program, noises, cheapest_types(program, noises, price)) <= most
        low, high = (low, price) if enough else (price, high)
        if enough and not low:
            break
    return high


def predicted_cost(program: ExportedProgram, types: Mapping[str, str]) -> float:
    """The cost of a float32 program whose operators are turned to these types (by their nodes' names), in predicted
    instructions of a Cortex-A76 and of its missed cache lines (`InstructionModel.cost`)."""
    layers = [node for node in program.graph.nodes if node.op == "call_function" and operator_name(node) in LAYERS]
    others = other_operators(program, types)
    return sum(_cost(node, types[node.name]) for node in layers) + sum(
        read_model(each.dtype).operator(each.kind, each.elements) for each in others
    )


def _cost(node: fx.Node, dtype: str) -> float:
    """The cost of the operator alone."""
    name, model = operator_name(node), read_model(dtype)
    if name in LAYERS:
        return model.cost(layer_shape(node))
    own = own_operators(node, name, dtype, is_delegated(node, name))
    return sum(model.operator(each.kind, each.elements) for each in own)
