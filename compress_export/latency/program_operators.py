"""Operators of a captured program as ExecuTorch runs them, each in its number type, and what stands between them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

from compressor.layer_shape import LayerShape

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

LAYERS = ("conv1d", "conv2d", "linear")
CLAMPS = ("relu", "relu6", "hardtanh", "clamp")
FREE = ("dropout", "contiguous", "alias", "detach")
RESHAPES = ("flatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose")
LOOKUPS = ("hardswish", "sigmoid", "silu", "tanh", "gelu", "elu", "leaky_relu")
"""Operators of one number, which XNNPACK turns into a table of 256 values between int8 operators."""
INT8 = (*LAYERS, *LOOKUPS, "add", "mul", "cat", "adaptive_avg_pool2d")
"""Operators that ExecuTorch computes in int8."""
FOLLOWERS = ("hardtanh", "relu", "max_pool2d", "mean", "slice", "flatten", "view", "reshape", "squeeze", "permute",
             "transpose")  # fmt: skip
"""Operators that share the range of what they read, and are in int8 where that is."""
PADDINGS = ("pad", "constant_pad_nd")
KINDS = {
    **dict.fromkeys(("add", "sub"), "add"),
    **dict.fromkeys(CLAMPS, "clamp"),
    "mul": "multiply",
    "max_pool2d": "max_pool",
    **dict.fromkeys(("avg_pool2d", "adaptive_avg_pool2d", "mean"), "mean"),
    "slice": "slice",
    **dict.fromkeys(PADDINGS, "pad"),
    "cat": "concatenate",
    "hardswish": "hardswish",
    **dict.fromkeys(("hardsigmoid", "sigmoid", "silu", "gelu", "tanh", "elu", "leaky_relu"), "activation"),
}
"""Operators that are no layers, by what they cost like."""


@dataclass(frozen=True)
class Operator:
    """An operator that is no layer: its kind, the elements that it goes through, and the number type it computes in."""

    kind: str
    elements: int
    dtype: str = "float32"


def number_types(program: ExportedProgram, dtype: str) -> dict[str, str]:
    """The number type of each operator of a float32 program by its node's name, when the program is turned to `dtype`.

    In int8 some operators stay in float32: what XNNPACK's quantizer gives no range, and what runs outside XNNPACK.
    """
    found: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = operator_name(node)
        if dtype != "int8":
            found[node.name] = dtype
        elif not is_delegated(node, name):
            found[node.name] = "float32"
        elif name in INT8:
            found[node.name] = "int8"
        else:
            source = followed(node, program)
            found[node.name] = "float32" if source is None else found.get(source.name, "float32")
    return found


def followed(node: fx.Node, program: ExportedProgram) -> fx.Node | None:
    """The operator whose number type a node shares: the one that it reads, if it only moves or clamps its numbers."""
    name = operator_name(node)
    source = next((each for each in node.all_input_nodes if is_image(each, program)), None)
    if source is None or source.op != "call_function":
        return None
    fused = name in CLAMPS and operator_name(source) in (*LAYERS, "add", "mul")
    # XNNPACK pads int8 numbers for a convolution alone
    padded = name in PADDINGS and [operator_name(each) for each in node.users] in [[layer] for layer in LAYERS]
    return source if fused or padded or name in FOLLOWERS or name in FREE else None


def layer_shape(node: fx.Node) -> LayerShape:
    """The geometry of a layer (an operator in LAYERS)."""
    image, weight = node.all_input_nodes[:2]
    own, read, written = image_shape(weight), image_shape(image), image_shape(node)
    bias = len(node.args) > 2 and node.args[2] is not None
    if operator_name(node) == "linear":
        size = (prod(read[:-1]), 1)
        return LayerShape("linear", own[1], own[0], 1, (1, 1), size, size, bias)
    window, into, out = ((shape[2], shape[3] if len(shape) > 3 else 1) for shape in (own, read, written))
    return LayerShape("conv", read[1], own[0], read[1] // own[1], window, into, out, bias)


def other_operators(program: ExportedProgram, types: Mapping[str, str]) -> list[Operator]:
    """The operators of a float32 program that are no layers, as ExecuTorch runs it, each in its number type (see
    `number_types`), with the conversions between types.

    Where XNNPACK does not take an operator the network falls into segments, and images are turned from channels last
    to channels first and back between them.
    """
    found: list[Operator] = []
    segment, segments = 0, dict[Any, int]()
    crossed: set[tuple[Any, object, str]] = set()

    def dtype_of(node: fx.Node) -> str:
        return types.get(node.name, "float32")

    def cross(node: fx.Node, into: int, way: str, dtype: str) -> None:
        if (node, into, way) in crossed:
            return
        crossed.add((node, into, way))
        if len(image_shape(node)) == 4:
            kind = "image" if node.op == "placeholder" else "transpose"
            found.append(Operator(kind, prod(image_shape(node)), dtype))
        # float16 is converted at both ends of the network, int8 wherever its operators are left
        if dtype == "int8" or (dtype == "float16" and (node.op == "placeholder" or into == -1)):
            found.append(Operator("convert", prod(image_shape(node)), dtype))

    for node in program.graph.nodes:
        if node.op == "output":
            for source in node.all_input_nodes:
                if segments.get(source, 0) >= 0:
                    cross(source, -1, "out", dtype_of(source))
            continue
        if node.op != "call_function" or not image_shape(node):
            continue
        name, sources = operator_name(node), [each for each in node.all_input_nodes if is_image(each, program)]
        if name in FREE or not sources:
            segments[node] = segments.get(sources[0], 0) if sources else 0
            continue
        delegated = is_delegated(node, name)
        if not delegated:
            segment += 1
        segments[node] = segment if delegated else -segment
        for source in sources:
            outside = source.op == "placeholder" or segments.get(source, 0) < 0
            if delegated and (outside or segments[source] != segment):
                cross(source, segment, "in", dtype_of(node))
            if not outside and segments[source] != segments[node]:
                cross(source, 0, "out", dtype_of(source))
            key = (source, dtype_of(node), "type")
            if not outside and segments[source] == segments[node] and dtype_of(source) != dtype_of(node):
                if key not in crossed:
                    found.append(Operator("convert", prod(image_shape(source)), "int8"))
                crossed.add(key)
        found += own_operators(node, name, dtype_of(node), delegated)
    return found


def own_operators(node: fx.Node, name: str, dtype: str, delegated: bool) -> list[Operator]:
    """The operator as it counts itself: not at all for a layer, nor for a clamp that the layer before it computes."""
    size, source = prod(image_shape(node)), node.all_input_nodes[0]
    before, read = operator_name(source) if source.op == "call_function" else "", prod(image_shape(source) or (1,))
    if name in LAYERS:
        return []
    if name in CLAMPS and (before in LAYERS or (dtype == "int8" and before == "add")):
        return []
    if name in RESHAPES:
        return [Operator("reshape", size, dtype)]
    if name in LOOKUPS:
        kind = "lookup" if dtype == "int8" else KINDS[name]
        return [Operator(kind, size, dtype)] + [Operator("multiply", size, dtype)] * (name == "silu")
    kind = KINDS.get(name, "other")
    if name == "adaptive_avg_pool2d" and not delegated:
        return [Operator("pool_outside", max(size, read), dtype)]
    if kind == "mean":
        return [Operator("mean" if delegated else "mean_outside", read, dtype)]
    if kind == "max_pool":
        window: Any = node.args[1]
        return [Operator(kind, size * prod(window if isinstance(window, list | tuple) else (window, window)), dtype)]
    return [Operator(kind, size, dtype)]


def is_delegated(node: fx.Node, name: str) -> bool:
    """True for an operator that XNNPACK takes."""
    if name == "slice":
        return len(node.args) < 5 or str(node.args[4]) == "1"
    if name == "adaptive_avg_pool2d":
        return prod(image_shape(node)[2:]) == 1
    if name == "mean":
        return len(node.args) > 2 and bool(node.args[2])
    return True


def operator_name(node: fx.Node) -> str:
    """ "conv2d" of aten.conv2d.default, "relu" of aten.relu_.default."""
    schema: Any = getattr(node.target, "_schema", None)
    return str(node.target if schema is None else schema.name).rpartition("::")[2].rstrip("_")


def image_shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(map(int, getattr(node.meta.get("val"), "shape", ())))


def is_image(node: fx.Node, program: ExportedProgram) -> bool:
    """True for what comes of the image, False for weights and constants."""
    return node.op == "call_function" or node.name in program.graph_signature.user_inputs
