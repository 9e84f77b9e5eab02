"""InstructionCosts: what each variant of each layer takes on a phone's core, predicted, as the planner's cost model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any, Literal

from bench.simulator.instructions import InstructionModel, read_model
from compressor.decompositions.methods import METHODS
from compressor.layer_shape import LayerShape
from compressor.plan import KEEP, LayerVariant
from compressor.planning.cost_model import Progress, calls_of
from compressor.survey import Survey

if TYPE_CHECKING:
    from torch import fx
    from torch.export import ExportedProgram

LAYERS = ("conv1d", "conv2d", "linear")
CLAMPS = ("relu", "relu6", "hardtanh", "clamp")
FREE = ("dropout", "contiguous", "alias", "detach")
RESHAPES = ("flatten", "view", "reshape", "squeeze", "unsqueeze", "permute", "transpose")
KINDS = {
    **dict.fromkeys(("add", "sub"), "add"),
    **dict.fromkeys(CLAMPS, "clamp"),
    "mul": "multiply",
    "max_pool2d": "max_pool",
    **dict.fromkeys(("avg_pool2d", "adaptive_avg_pool2d", "mean"), "mean"),
    "slice": "slice",
    **dict.fromkeys(("pad", "constant_pad_nd"), "pad"),
    "cat": "concatenate",
    **dict.fromkeys(("hardswish", "hardsigmoid", "sigmoid", "silu", "gelu", "tanh", "elu", "leaky_relu"), "activation"),
}
"""Operators that are no layers, by what they cost like."""


@dataclass(frozen=True)
class Operator:
    """An operator that is no layer: its kind, and the elements that it goes through."""

    kind: str
    elements: int


class InstructionCosts:
    """A `CostModel` that predicts instructions on a core of a phone, in the number type that ships: exact to a few per
    cent, the same on every machine, and nothing is timed.

    A cost is the instructions of the layer's kernels and, for each cache line that they miss, `InstructionModel.line`
    more: a core waits for memory, and a form with few instructions and four times the misses is not faster on it.
    `instructions` leaves the lines out: what the simulated core counts.
    """

    unit: Literal["instructions"] = "instructions"

    def __init__(self, survey: Survey, program: ExportedProgram, dtype: str = "float32") -> None:
        """Costs of the layers of a network, of which `program` is captured. BenchError for a number type that nothing
        was fitted for."""
        self._survey = survey
        self.model: InstructionModel = read_model(dtype)
        others = other_operators(program, dtype)
        self._others = sum(self.model.operator(each.kind, each.elements) for each in others)
        self.multiple = self.model.tiles.usual.columns
        self.source = (
            f"predicted instructions of a {self.model.core} in {self.model.runtime}, {dtype}, {self.model.line:g} for "
            f"each missed cache line (whole files: {100 * self.model.error:.1f} % off in the mean, "
            f"{100 * self.model.worst:.1f} % at most)"
        )

    def measure(self, variants: Collection[LayerVariant], progress: Progress) -> None:
        """Nothing to do: what is predicted is always at hand."""

    def cost(self, variant: LayerVariant) -> float:
        """Instructions of the variant and of what its missed lines cost, all calls of its layer together."""
        return self._calls(variant) * sum(map(self.model.cost, self._shapes(variant)))

    def network(self) -> float:
        """The cost of the whole network as it was, operators that are no layers included."""
        return self._others + sum(self.cost(LayerVariant(layer.name)) for layer in self._survey.layers if layer.calls)

    def instructions(self, variants: Iterable[LayerVariant] = ()) -> float:
        """Instructions of the whole network with these variants in the place of their layers: what the core counts."""
        chosen = {variant.layer: variant for variant in variants}
        layers = (chosen.get(layer.name, LayerVariant(layer.name)) for layer in self._survey.layers if layer.calls)
        return self._others + sum(self._calls(own) * sum(map(self.model.layer, self._shapes(own))) for own in layers)

    def _calls(self, variant: LayerVariant) -> float:
        layer = self._survey.layer(variant.layer)
        return calls_of(layer) if layer.calls else 0.0

    def _shapes(self, variant: LayerVariant) -> tuple[LayerShape, ...]:
        shape = self._survey.layer(variant.layer).shape
        if variant.method == KEEP:
            return (shape,)
        return tuple(part.shape for part in METHODS[variant.method].parts(shape, variant.rank))


def other_operators(program: ExportedProgram, dtype: str) -> list[Operator]:
    """The operators of a float program that are no layers, as ExecuTorch runs it in the number type.

    Where XNNPACK does not take an operator the network falls into segments, and images are turned from channels last
    to channels first and back between them; in int8 they are converted there too.
    """
    found: list[Operator] = []
    segment, segments = 0, dict[Any, int]()
    crossed: set[tuple[Any, int, str]] = set()

    def cross(node: fx.Node, into: int, way: str) -> None:
        if (node, into, way) in crossed:
            return
        crossed.add((node, into, way))
        if len(_shape(node)) == 4:
            found.append(Operator("image" if node.op == "placeholder" else "transpose", prod(_shape(node))))
        if dtype == "int8":
            found.append(Operator("convert", prod(_shape(node))))

    for node in program.graph.nodes:
        if node.op == "output":
            for source in node.all_input_nodes:
                if segments.get(source, 0) >= 0:
                    cross(source, -1, "out")
            continue
        if node.op != "call_function" or not _shape(node):
            continue
        name, sources = _name(node), [each for each in node.all_input_nodes if _is_image(each, program)]
        if name in FREE or not sources:
            segments[node] = segments.get(sources[0], 0) if sources else 0
            continue
        delegated = _delegated(node, name)
        if not delegated:
            segment += 1
        segments[node] = segment if delegated else -segment
        for source in sources:
            outside = source.op == "placeholder" or segments.get(source, 0) < 0
            if delegated and (outside or segments[source] != segment):
                cross(source, segment, "in")
            if not outside and segments[source] != segments[node]:
                cross(source, 0, "out")
        found += _own(node, name, dtype, delegated)
    return found


def _own(node: fx.Node, name: str, dtype: str, delegated: bool) -> list[Operator]:
    """The operator as it counts itself: not at all for a layer, nor for a clamp that the layer before it computes."""
    size, source = prod(_shape(node)), node.all_input_nodes[0]
    before, read = _name(source) if source.op == "call_function" else "", prod(_shape(source) or (1,))
    if name in LAYERS:
        return []
    if name in CLAMPS and (before in LAYERS or (dtype == "int8" and before == "add")):
        return []
    if name in RESHAPES:
        return [Operator("reshape", size)]
    kind = KINDS.get(name, "other")
    if name == "adaptive_avg_pool2d" and not delegated:
        return [Operator("pool_outside", max(size, read))]
    if kind == "mean":
        return [Operator("mean" if delegated else "mean_outside", read)]
    if kind == "max_pool":
        window: Any = node.args[1]
        return [Operator(kind, size * prod(window if isinstance(window, list | tuple) else (window, window)))]
    return [Operator(kind, size)]


def _delegated(node: fx.Node, name: str) -> bool:
    """True for an operator that XNNPACK takes."""
    if name == "slice":
        return len(node.args) < 5 or str(node.args[4]) == "1"
    if name == "adaptive_avg_pool2d":
        return prod(_shape(node)[2:]) == 1
    if name == "mean":
        return len(node.args) > 2 and bool(node.args[2])
    return True


def _name(node: fx.Node) -> str:
    """ "conv2d" of aten.conv2d.default, "relu" of aten.relu_.default."""
    schema: Any = getattr(node.target, "_schema", None)
    return str(node.target if schema is None else schema.name).rpartition("::")[2].rstrip("_")


def _shape(node: fx.Node) -> tuple[int, ...]:
    return tuple(map(int, getattr(node.meta.get("val"), "shape", ())))


def _is_image(node: fx.Node, program: ExportedProgram) -> bool:
    """True for what comes of the image, False for weights and constants."""
    return node.op == "call_function" or node.name in program.graph_signature.user_inputs
