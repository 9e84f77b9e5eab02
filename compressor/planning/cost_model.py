"""CostModel: the protocol of costs that the planner asks for, and counted costs where no device can be asked."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal, Protocol

from compressor.decompositions.methods import METHODS
from compressor.layer_shape import Cost, dense_cost
from compressor.plan import KEEP, LayerVariant
from compressor.planning.options import OPTIONS
from compressor.survey import LayerCost, Survey

Progress = Callable[[int, int, str], None]


Unit = Literal["ms", "instructions", "work"]
BY = {"ms": "", "instructions": " by instructions", "work": " by count"}
"""What a ratio of costs is of, in a sentence, by their unit."""


class CostModel(Protocol):
    """Costs of layer variants as one device and runtime has them; all calls of a layer together.

    `source` says in a plan where the figures come from; `unit` is "ms" for measured time, "instructions" for those
    predicted of a core, "work" for counts; the last two only compare. `multiple` is what ranks are rounded to, because
    the runtime's kernels work in steps of it.
    """

    @property
    def source(self) -> str: ...

    @property
    def unit(self) -> Unit: ...

    @property
    def multiple(self) -> int: ...

    def measure(self, variants: Collection[LayerVariant], progress: Progress) -> None:
        """Makes sure that the cost of exactly these variants is known, with as little work as it can."""
        ...

    def cost(self, variant: LayerVariant) -> float:
        """The variant's cost, measured or, between measured variants of the same layer and method, interpolated.

        An error where no variant of the layer and method was measured.
        """
        ...

    def network(self) -> float:
        """The cost of the whole network as it was, layers that no plan touches included: at least the sum of its
        layers' costs."""
        ...


def price(cost: Cost) -> int:
    """The work predicted for a cost: MACs, plus activation and weight traffic in MACs."""
    return cost.macs + OPTIONS.macs_per_element * cost.traffic


def variant_cost(survey: Survey, variant: LayerVariant) -> Cost:
    """Parameters, MACs and elements moved of a variant, all calls of its layer together (parameters counted once)."""
    layer = survey.layer(variant.layer)
    if variant.method == KEEP:
        once = dense_cost(layer.shape)
    else:
        once = METHODS[variant.method].cost(layer.shape, variant.rank)
    calls = calls_of(layer)
    return Cost(once.parameters, round(once.macs * calls), round(once.traffic * calls))


def calls_of(layer: LayerCost) -> float:
    """Calls of a layer for one image, a call at another size counted by its fraction of the first one's MACs."""
    dense = dense_cost(layer.shape).macs
    return layer.cost.macs / dense if dense else float(layer.calls)


@dataclass(frozen=True)
class CountedCosts:
    """A `CostModel` that counts MACs and traffic: no device is asked, nothing is measured."""

    survey: Survey
    source: str = "counted MACs and traffic, not measured"
    unit: Literal["work"] = "work"
    multiple: int = OPTIONS.rank_multiple

    def measure(self, variants: Collection[LayerVariant], progress: Progress) -> None:
        """Nothing to do: counts are always at hand."""

    def cost(self, variant: LayerVariant) -> float:
        return float(price(variant_cost(self.survey, variant)))

    def network(self) -> float:
        return sum(self.cost(LayerVariant(layer.name)) for layer in self.survey.layers)
