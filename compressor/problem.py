"""What a budget is planned from, which layers may be factored, and which forms of them are considered."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from compressor.choice import Options, Weights, least, most
from compressor.cost_model import CostModel, Form
from compressor.costs import LayerCost, Survey
from compressor.goal import Goal
from compressor.ladders import ladder
from compressor.losses import LossModel
from compressor.methods import METHODS

TIE = 0.01
"""What size and time weigh beside the least loss within the limits: of two plans that lose nearly the same, the smaller
and faster is taken."""
LAST = 1e-3
"""What the mean loss of a layer weighs beside size and time where the loss is limited."""
FREE = 1e-6
"""A least loss below this share of the worst there is counts as nothing."""

Error = Callable[[Form], float]


@dataclass(frozen=True)
class Problem:
    """What a budget is planned from. `estimate` gives the relative error that a form will have, cheaply; of a form that
    is `known`, the exact one.

    `haste` and `correction` are those of `planner.Evidence`.
    """

    survey: Survey
    goal: Goal
    costs: CostModel
    losses: LossModel
    estimate: Error
    exact: Error
    known: Callable[[Form], bool] = lambda _form: False
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


def forms_of(layer: LayerCost, problem: Problem) -> list[Form]:
    """Every form of a layer that the planner considers, method by method, ranks rising."""
    survey = problem.survey
    share = max(layer.cost.parameters / survey.parameters, layer.cost.macs / max(1, survey.macs))
    return [
        Form(layer.name, method, rank)
        for method in problem.goal.methods
        for rank in ranks_of(layer, method, problem.costs.multiple, share)
    ]


def ranks_of(layer: LayerCost, method: str, multiple: int, share: float) -> tuple[tuple[int, ...], ...]:
    """The ranks of a method's ladder; none where the method does not fit the layer. See `ladders.ladder`."""
    return () if METHODS[method].supports(layer.shape) else ladder(layer.shape, method, multiple, share)


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
