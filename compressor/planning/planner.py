"""make_plan(): survey + goal -> Plan. Which layers are factored, by which method, at which rank, and why."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace

from torch import nn

from compressor.calibration import Moments
from compressor.decompositions.methods import METHODS, Decompositions, Fits, check_rank, default_method
from compressor.layer_shape import PlanError, dense_cost
from compressor.layers import check_layer_names
from compressor.plan import KEEP, LayerPlan, LayerVariant, Plan
from compressor.planning import budget_rule
from compressor.planning.cost_model import BY, CountedCosts
from compressor.planning.goal import Goal, PlanningProblem
from compressor.planning.options import OPTIONS
from compressor.planning.rank_rules import LIMIT_RULES, check_limit, kept, rows_by_limit, rows_by_macs, rows_by_vbmf
from compressor.survey import LayerCost, Survey

__all__ = [
    "RANK_RULES",
    "Goal",
    "PlanningProblem",
    "check_goal",
    "check_plan",
    "make_plan",
    "planned_parameters",
    "solve",
]

RANK_RULES = ("budget", *LIMIT_RULES, "vbmf", "none")


def check_goal(survey: Survey, goal: Goal) -> None:
    """PlanError for what can be told wrong before anything is measured: layer and rule names, limits out of reach."""
    check_layer_names([*goal.ranks, *goal.keep_layers], [layer.name for layer in survey.layers])
    if goal.rule not in RANK_RULES:
        raise PlanError(f"there is no rank rule {goal.rule!r}; choose among {', '.join(RANK_RULES)}")
    if goal.rule in LIMIT_RULES and not goal.ranks and "macs" not in goal.limits:
        check_limit(survey, goal)
    if goal.rule == "none" and goal.limits:
        raise PlanError(f"the rank rule none factors nothing, so it cannot keep {goal.text()}; pass one of them")


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
    decompositions: Decompositions | None = None,
    moments: Mapping[str, Moments] | None = None,
) -> Plan:
    """The plan that reaches `goal` for `network`, a LayerPlan for each layer of `survey`.

    Costs are counted and losses taken from errors; `solve` takes measured ones. The plan holds the decompositions of
    its rows: `compress` computes none of them again while the layers keep their weights. Those of every variant that
    was tried are put into `decompositions`, for another plan of the same network. With `moments` (see
    `calibration.collect`) factors are fitted to the layers' outputs.
    PlanError for limits that cannot be met (with what can be reached), an unknown layer, a rank above full.
    """
    ready = {} if decompositions is None else decompositions
    plan = solve(PlanningProblem(network, survey, goal, CountedCosts(survey), decompositions=ready, moments=moments))
    chosen = [(row.name, row.method) for row in plan.factored]
    return replace(plan, fits=Fits(network, chosen, ready, goal.seed, moments))


def solve(problem: PlanningProblem) -> Plan:
    """The plan that reaches the problem's goal. PlanError as from `make_plan`."""
    survey, goal = problem.survey, problem.goal
    check_goal(survey, goal)
    if goal.ranks:
        return _by_rule(problem, (_given(layer, goal) for layer in survey.layers), goal.text(), "given")
    if goal.rule == "budget":
        return _by_budget(problem)
    text = goal.text() if goal.limits else f"max-params {OPTIONS.default_params}x (default)"
    if goal.rule == "none":
        rows = [kept(layer, "the rule factors nothing") for layer in survey.layers]
        return _by_rule(problem, rows, "nothing is factored")
    if "macs" in goal.limits:
        return _by_rule(problem, rows_by_macs(problem), text)
    if goal.rule == "vbmf":
        return _by_rule(problem, rows_by_vbmf(problem), "what stands out of the noise")
    return _by_rule(problem, rows_by_limit(problem), text)


def _by_rule(problem: PlanningProblem, rows: Iterable[LayerPlan], text: str, rule: str | None = None) -> Plan:
    """The plan of a rule that predicts nothing of the whole network."""
    return Plan(tuple(rows), rule or problem.goal.rule, text, problem.goal.seed, _notes(problem.survey))


def _by_budget(problem: PlanningProblem) -> Plan:
    """The plan of the best choice for a problem, with what it predicts."""
    goal, costs = problem.goal, problem.costs
    solution, measured = budget_rule.choose_variants(problem), costs.unit == "ms"
    rows = []
    for layer in problem.survey.layers:
        name = layer.name
        if name not in solution.chosen:
            ms = costs.cost(LayerVariant(name)) if measured and layer.calls else None
            reason = f"kept: {budget_rule.why_kept(layer, goal)}"
            rows.append(LayerPlan(name, layer.weight, KEEP, (), reason, None, ms, ms))
            continue
        chosen, dense = solution.chosen[name], solution.dense[name]
        times = (chosen.latency, dense.latency) if measured else (None, None)
        if name in solution.kept:
            rows.append(LayerPlan(name, layer.weight, KEEP, (), f"kept: {solution.kept[name]}", None, *times))
            continue
        speedup, kind = dense.latency / max(chosen.latency, 1e-12), BY[costs.unit]
        faster = f"{speedup:.1f}x faster{kind}"
        if speedup < 1:
            why = "only size is limited" if goal.may_be_slower else "others make up for it"
            faster = f"but {1 / speedup:.2f}x slower{kind}: {why}"
        reason = f"{dense.params / chosen.params:.1f}x smaller, {faster}"
        variant = chosen.variant
        rows.append(LayerPlan(name, layer.weight, variant.method, variant.rank, reason, chosen.error, *times))
    return Plan(
        tuple(rows),
        goal.rule,
        goal.text(),
        goal.seed,
        _notes(problem.survey),
        costs.source,
        problem.losses.source,
        solution.original,
        solution.point,
        solution.pareto_front,
    )


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
    """Notes on layers whose compression is exact because their input repeats: a reader must know to judge the plan."""
    return tuple(
        f"{layer.name}: only {layer.distinct_inputs} of its {layer.shape.inputs} inputs differ, the others are copies; "
        "what is saved there is an exact collapse, not compression"
        for layer in survey.layers
        if layer.distinct_inputs is not None
    )
