"""InstructionCosts: what each variant of each layer takes on a phone's core, predicted, as the planner's cost model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Literal

from bench.simulator.instructions import InstructionModel, read_model
from compress_export.latency.program_operators import number_types, other_operators
from compressor.decompositions.methods import METHODS
from compressor.layer_shape import LayerShape
from compressor.plan import KEEP, LayerVariant
from compressor.planning.cost_model import Progress, calls_of
from compressor.survey import Survey

if TYPE_CHECKING:
    from torch.export import ExportedProgram


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
        others = other_operators(program, number_types(program, dtype))
        self._others = sum(read_model(each.dtype).operator(each.kind, each.elements) for each in others)
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
