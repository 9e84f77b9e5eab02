"""make_plan(): survey + goal -> Plan. Which layers are factored, by which method, at which rank, and why."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import partial

from torch import nn

from compressor.calibration import Moments
from compressor.decompositions.methods import METHODS, Decompositions, check_rank, decomposition, default_method
from compressor.layer_shape import PlanError, dense_cost
from compressor.plan import LayerPlan, Plan
from compressor.planning.budget_rule import Solution, solve
from compressor.planning.candidates import Problem, why_kept
from compressor.planning.cost_model import CostModel, CountedCosts, LayerVariant
from compressor.planning.goal import Goal
from compressor.planning.knapsack import Option
from compressor.planning.loss_model import ErrorLosses, LossModel
from compressor.planning.rank_rules import LIMIT_RULES, check_limit, kept, rows_by_limit, rows_by_macs, rows_by_vbmf
from compressor.surgery import check_layer_names
from compressor.survey import LayerCost, Survey

__all__ = ["RANK_RULES", "Evidence", "Goal", "check_goal", "check_plan", "make_plan", "planned_parameters"]

RANK_RULES = ("budget", *LIMIT_RULES, "vbmf", "none")


DEFAULT_TEXT = "max-params 0.125x (default)"

Errors = dict[tuple[str, LayerVariant], float]
"""Relative errors of variants, by kind: "estimate" (cheap, of many ranks) or "error" (exact)."""


@dataclass(frozen=True)
class Evidence:
    """What a plan may rest on besides the weights. What is missing is counted or taken from errors; the plan says so.

    `drops` (top-1 lost by each layer when probed, see `tuning.probe`) is what the rule "sensitivity" needs. `errors` of
    variants that are known already are not worked out again, and those that are worked out are added. `haste` is how
    much faster than usual a variant must be to be taken; `correction` is what a network made of variants takes above
    the sum of its parts, in the costs' unit.
    """

    costs: CostModel | None = None
    losses: LossModel | None = None
    drops: Mapping[str, float] | None = None
    errors: Errors = field(default_factory=dict)
    haste: float = 1.0
    correction: float = 0.0


def check_goal(survey: Survey, goal: Goal) -> None:
    """PlanError for what can be told wrong before anything is measured: layer and rule names, limits out of reach."""
    check_layer_names([*goal.ranks, *goal.keep_layers], [layer.name for layer in survey.layers])
    if goal.rule not in RANK_RULES:
        raise PlanError(f"there is no rank rule {goal.rule!r}; choose among {', '.join(RANK_RULES)}")
    if goal.rule in LIMIT_RULES and not goal.ranks and "macs" not in goal.limits:
        check_limit(survey, goal)
    if goal.rule == "none" and goal.limits:
        raise PlanError(f"the rank rule none cuts nothing, so it cannot keep {goal.text()}; pass one of them")


def planned_parameters(plan: Plan, survey: Survey) -> int:
    """Parameters of the network that comes out of `plan`."""
    saved = 0
    for row in plan.factored:
        layer = survey.layer(row.name)
        saved += dense_cost(layer.shape).parameters - METHODS[row.method].cost(layer.shape, row.rank).parameters
    return survey.parameters - saved


def check_plan(plan: Plan, survey: Survey) -> None:
    """PlanError if `plan` factors a layer that must stay as it is in the network of `survey`."""
    reasons = {layer.name: layer.must_keep for layer in survey.layers}
    for row in plan.factored:
        if reasons.get(row.name) is not None:
            raise PlanError(f"{row.name} cannot be factored: {reasons[row.name]}; let the plan keep it")


def make_plan(
    network: nn.Module,
    survey: Survey,
    goal: Goal,
    evidence: Evidence | None = None,
    decompositions: Decompositions | None = None,
    moments: Mapping[str, Moments] | None = None,
    progress: Callable[[str, int, int, str], None] = lambda _what, _done, _total, _now: None,
) -> Plan:
    """The plan that reaches `goal` for `network`, a LayerPlan for each layer of `survey`.

    Without `evidence` costs are counted and losses taken from errors. With `moments` (see `moments.collect`) factors
    are fitted to the layers' outputs. Decompositions computed on the way are put into `decompositions`, ready for
    `compress`. `progress` hears what is worked at, steps done, all steps, and the layer.
    PlanError for limits that cannot be met (with what can be reached), an unknown layer, a rank above full.
    """
    check_goal(survey, goal)
    evidence = evidence or Evidence()
    if goal.ranks:
        return _ruled(survey, goal, (_given(layer, goal) for layer in survey.layers), rule="given")
    if goal.rule == "none":
        return _ruled(survey, goal, (kept(layer, "the rule cuts nothing") for layer in survey.layers))
    if goal.rule != "budget" and "macs" in goal.limits:
        return _ruled(survey, goal, rows_by_macs(network, survey, goal, evidence.drops))
    if goal.rule == "vbmf":
        return _ruled(survey, goal, rows_by_vbmf(network, survey, goal))
    ready: Decompositions = {} if decompositions is None else decompositions

    def worked_out(kind: str, variant: LayerVariant) -> float:
        if (kind, variant) not in evidence.errors:
            inputs = (moments or {}).get(variant.layer)
            found = decomposition(ready, network, variant.layer, variant.method, goal.seed, inputs)
            evidence.errors[kind, variant] = (found.error if kind == "error" else found.estimate)(variant.rank)
        return evidence.errors[kind, variant]

    def known(variant: LayerVariant) -> bool:
        return ("error", variant) in evidence.errors

    def estimate(variant: LayerVariant) -> float:
        return worked_out("error" if known(variant) else "estimate", variant)

    error = partial(worked_out, "error")
    if goal.rule in LIMIT_RULES:
        return _ruled(survey, goal, rows_by_limit(survey, goal, error, evidence.drops))
    return _solved(
        Problem(
            survey,
            goal,
            evidence.costs or CountedCosts(survey),
            evidence.losses or ErrorLosses(),
            estimate,
            error,
            known,
            evidence.haste,
            evidence.correction,
            progress,
        )
    )


def _ruled(survey: Survey, goal: Goal, rows: Iterable[LayerPlan], rule: str | None = None) -> Plan:
    """The plan of a rule that predicts nothing of the whole network."""
    text = goal.text()
    if rule is None and not goal.limits:
        text = {"vbmf": "what stands out of the noise", "none": "nothing is cut"}.get(goal.rule, DEFAULT_TEXT)
    return Plan(tuple(rows), rule or goal.rule, text, goal.seed, _notes(survey))


def _solved(problem: Problem) -> Plan:
    """The plan of the best choice for a problem, with what it predicts."""
    solution, goal = solve(problem), problem.goal
    return Plan(
        tuple(_budgeted(layer, problem, solution) for layer in problem.survey.layers),
        goal.rule,
        goal.text(),
        goal.seed,
        _notes(problem.survey),
        problem.costs.source,
        problem.losses.source,
        solution.original,
        solution.point,
        solution.pareto_front,
    )


def _budgeted(layer: LayerCost, problem: Problem, solution: Solution) -> LayerPlan:
    """The row of a layer in a solution: its variant, its times where they were measured, and why."""
    measured = problem.costs.unit == "ms"
    option = solution.chosen.get(layer.name)
    if option is None:
        ms = problem.costs.cost(LayerVariant(layer.name)) if measured and layer.calls else None
        reason = f"kept: {why_kept(layer, problem.goal)}"
        return LayerPlan(layer.name, layer.weight, "keep", (), reason, None, ms, ms)
    dense = solution.dense[layer.name]
    times = (option.latency, dense.latency) if measured else (None, None)
    if layer.name in solution.kept:
        return LayerPlan(layer.name, layer.weight, "keep", (), f"kept: {solution.kept[layer.name]}", None, *times)
    variant = option.variant
    return LayerPlan(
        layer.name, layer.weight, variant.method, variant.rank, _saved(option, dense, measured), option.error, *times
    )


def _saved(option: Option, dense: Option, measured: bool) -> str:
    """What a factored layer gains, and a flag where that is paid for in time."""
    smaller = f"{dense.params / option.params:.1f}x smaller"
    times = dense.latency / max(option.latency, 1e-12)
    kind = "" if measured else " by count"
    if times >= 1:
        return f"{smaller}, {times:.1f}x faster{kind}"
    return f"{smaller}, but {1 / times:.2f}x slower{kind}: only size is limited"


def _given(layer: LayerCost, goal: Goal) -> LayerPlan:
    """The row of a layer when ranks are given by name: at its rank, or kept."""
    if layer.name not in goal.ranks:
        return kept(layer, "no rank given")
    if layer.name in goal.keep_layers:
        raise PlanError(f"{layer.name} has a rank and is to be kept: pass one of --ranks and --keep-layers for it")
    if layer.must_keep is not None:
        raise PlanError(f"{layer.name} cannot be factored: {layer.must_keep}; leave it out of --ranks")
    method = default_method(layer.shape)
    rank = (goal.ranks[layer.name],)
    check_rank(layer.name, layer.weight, layer.shape, method, rank)
    return LayerPlan(layer.name, layer.weight, method, rank, "rank given")


def _notes(survey: Survey) -> tuple[str, ...]:
    """What a reader must know to evaluator the plan: layers whose compression is exact because their input repeats."""
    return tuple(
        f"{layer.name}: only {layer.distinct_inputs} of its {layer.shape.inputs} inputs differ, the others are copies; "
        "what is saved there is an exact collapse, not compression"
        for layer in survey.layers
        if layer.distinct_inputs is not None
    )
