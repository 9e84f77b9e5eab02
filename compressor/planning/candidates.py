"""Candidate ranks of a layer by each method: those at which the factors still pay."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compressor.decompositions.methods import METHODS
from compressor.layer_shape import LayerShape, Rank, dense_cost
from compressor.planning.cost_model import CostModel, LayerVariant
from compressor.planning.goal import Goal
from compressor.planning.knapsack import Options, Weights, least, most
from compressor.planning.loss_model import LossModel
from compressor.survey import LayerCost, Survey

TIE = 0.01
"""What size and time weigh beside the least loss within the limits: of two plans that lose nearly the same, the smaller
and faster is taken."""


LAST = 1e-3
"""What the mean loss of a layer weighs beside size and time where the loss is limited."""


FREE = 1e-6
"""A least loss below this share of the worst there is counts as nothing."""


Error = Callable[[LayerVariant], float]


@dataclass(frozen=True)
class Problem:
    """What a budget is planned from. `estimate` gives the relative error that a variant will have, cheaply; of a
    variant that is `known`, the exact one.

    `haste` and `correction` are those of `planner.Evidence`.
    """

    survey: Survey
    goal: Goal
    costs: CostModel
    losses: LossModel
    estimate: Error
    exact: Error
    known: Callable[[LayerVariant], bool] = lambda _variant: False
    haste: float = 1.0
    correction: float = 0.0
    progress: Callable[[str, int, int, str], None] = lambda _what, _done, _total, _now: None


def free_layers(survey: Survey, goal: Goal) -> list[LayerCost]:
    """Layers that the goal lets a planner factor by one of its methods at one rank at least."""
    return [layer for layer in survey.layers if why_kept(layer, goal) is None]


def why_kept(layer: LayerCost, goal: Goal) -> str | None:
    """Why a layer cannot be factored whatever it would cost, or None."""
    if layer.must_keep is not None:
        return layer.must_keep
    if layer.name in goal.keep_layers:
        return "asked for by --keep-layers"
    refusals = [METHODS[method].supports(layer.shape) for method in goal.methods]
    if all(refusals):
        return refusals[0] if len(goal.methods) == 1 else f"none of {', '.join(goal.methods)} fits it"
    if not any(ranks_of(layer, method, 1, 0.0) for method in goal.methods):
        return "factors would cost more than the layer at any rank"
    return None


def variants_of(layer: LayerCost, problem: Problem) -> list[LayerVariant]:
    """Every variant of a layer that the planner considers, method by method, ranks rising."""
    survey = problem.survey
    share = max(layer.cost.parameters / survey.parameters, layer.cost.macs / max(1, survey.macs))
    return [
        LayerVariant(layer.name, method, rank)
        for method in problem.goal.methods
        for rank in ranks_of(layer, method, problem.costs.multiple, share)
    ]


def ranks_of(layer: LayerCost, method: str, multiple: int, share: float) -> tuple[tuple[int, ...], ...]:
    """The candidate ranks of a method; none where the method does not fit the layer."""
    return () if METHODS[method].supports(layer.shape) else candidate_ranks(layer.shape, method, multiple, share)


def weigh(problem: Problem, options: Options, limits: Mapping[str, float]) -> Weights:
    """The objective: loss first where something else is limited; size and time where it is; a trade by default."""
    traded = trade_off(problem, len(options), 1.0)
    if "drop" in problem.goal.limits:
        return {**traded, "loss": LAST * traded["loss"]}
    if not problem.goal.limits:
        return traded
    lowest = max(least(options, "loss", limits), FREE * most(options, "loss"), sys.float_info.min)
    return {**trade_off(problem, len(options), TIE), "loss": 1 / lowest}


def trade_off(problem: Problem, layers: int, trade: float) -> Weights:
    """`trade` weighs the mean of the shares of parameters and time left against the mean loss of a layer."""
    return {
        "loss": 1 / max(1, layers),
        "params": trade / 2 / max(1, problem.survey.parameters),
        "latency": trade / 2 / max(problem.costs.network(), 1e-9),
    }


RANKS = 20
"""Ranks of a candidate_ranks; the steps between them are what a limit can miss by."""


RANKS_OF_LARGE = 64
"""Ranks of a candidate_ranks where the layer holds a large share of the network, so that one step is a small one."""


LARGE = 0.05


LEAST = 1 / 48
"""The lowest rank as a share of the highest rank."""


HIGHEST_CP = 0.5
"""The highest candidate rank of a CP over its break-even: greedy components cost time with the square of the rank."""


PAIR_STEPS = 7


PAIR_SPREAD = 2
"""Tucker's two ranks: how many shares of each side, and how many steps the two may lie apart."""


def candidate_ranks(shape: LayerShape, method: str, multiple: int = 1, share: float = 0.0) -> tuple[Rank, ...]:
    """Ranks in rising order at which a method has fewer parameters or MACs than the layer.

    Ranks are rounded to what `multiple` says; `share` is the layer's part in the network.
    """
    full = METHODS[method].full_rank(shape)
    count = RANKS_OF_LARGE if share >= LARGE else RANKS
    ranks = _pairs(full, multiple) if len(full) == 2 else _single(shape, method, multiple, count)
    return tuple(sorted({rank for rank in ranks if _pays(shape, method, rank)}))


def anchors(ranks: tuple[Rank, ...], count: int) -> tuple[Rank, ...]:
    """`count` of a candidate_ranks's ranks, evenly spread from the first to the last: where cost is measured first."""
    if len(ranks) <= count:
        return ranks
    last = len(ranks) - 1
    return tuple(ranks[round(place * last / (count - 1))] for place in range(count))


def _pays(shape: LayerShape, method: str, rank: Rank) -> bool:
    dense, cost = dense_cost(shape), METHODS[method].cost(shape, rank)
    return cost.parameters < dense.parameters or cost.macs < dense.macs


def _single(shape: LayerShape, method: str, multiple: int, count: int) -> list[Rank]:
    most = _most(shape, method)
    if most < 1:
        return []
    if method.startswith("cp"):
        most = max(1, round(most * HIGHEST_CP))
    least = max(1.0, most * LEAST)
    step = (most / least) ** (1 / max(1, count - 1))
    return [(_rounded(least * step**place, multiple, most),) for place in range(count)]


def _most(shape: LayerShape, method: str) -> int:
    """The largest rank that pays; 0 where none does. Costs rise with the rank, so halving finds it."""
    low, high = 0, METHODS[method].full_rank(shape)[0]
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _pays(shape, method, (middle,)) else (low, middle - 1)
    return low


def _pairs(full: Rank, multiple: int) -> list[Rank]:
    shares = [0.06 * (1 / 0.06) ** (place / PAIR_STEPS) for place in range(PAIR_STEPS + 1)]
    near = [
        (first, second)
        for place, first in enumerate(shares)
        for other, second in enumerate(shares)
        if abs(place - other) <= PAIR_SPREAD
    ]
    return [tuple(_rounded(s * side, multiple, side) for s, side in zip(pair, full, strict=True)) for pair in near]


def _rounded(rank: float, multiple: int, most: int) -> int:
    """The nearest multiple; below four of them a quarter of it is the step, for one multiple would be a large one."""
    step = multiple if rank >= 4 * multiple else max(1, multiple // 4)
    return min(most, max(1, step * round(rank / step)))
