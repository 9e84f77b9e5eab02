"""The planning stage: a plan from the run's settings, whose network is measured where the goal limits time or drop."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path

import msgspec
from torch import nn

from bench.run_files import RunFile
from compress_export.errors import InputError
from compress_export.latency import error_cache
from compress_export.latency.instruction_costs import InstructionCosts
from compress_export.pipeline.load import RunContext
from compress_export.pipeline.validate import goal_of
from compress_export.settings import Costs, PlanSettings
from compressor.decompositions.methods import METHODS, Decomposition, decomposition, default_method
from compressor.equivalence import check_factors
from compressor.plan import LayerVariant, Plan
from compressor.planning.budget_rule import free_layers
from compressor.planning.cost_model import CostModel, CountedCosts
from compressor.planning.goal import Errors, Goal
from compressor.planning.loss_model import Evaluator, MeasuredLosses, Probe, probe_losses, probe_points_of
from compressor.planning.options import OPTIONS
from compressor.planning.planner import PlanningProblem, check_goal, check_plan, solve
from compressor.planning.rank_rules import factorable_layers
from compressor.planning.recipes import check_needs
from compressor.surgery import apply, skeleton
from compressor.survey import LayerCost
from compressor.training.fine_tune import probe
from compressor.training.loop import TrainOptions, Watch
from exporters.capture import capture


def plan_stage(context: RunContext, settings: PlanSettings, stale: bool = False) -> tuple[Plan, nn.Module | None]:
    """The run's plan: taken from its file unless that is stale, replayed from another, or made for the goal.

    With it the network compressed by it, where that was made to be measured.
    """
    run = context.run
    if run.has(RunFile.PLAN) and not stale:
        return Plan.read(run / RunFile.PLAN), None
    compressed = None
    if settings.plan is not None:
        plan = Plan.read(Path(settings.plan))
        check_plan(plan, context.survey)
        skeleton(copy.deepcopy(context.network.module), plan.layers)
        run.begin("plan", settings, stale)
    else:
        check_needs(settings.recipe, context.survey.layers)
        goal = goal_of(settings, context.survey.layers, context.seed, context.trainable)
        check_goal(context.survey, goal)
        run.begin("plan", settings, stale)
        plan, compressed = _make_plan(context, goal, settings)
    run.write_text(RunFile.PLAN, plan.to_json())
    return plan, compressed


def _make_plan(context: RunContext, goal: Goal, settings: PlanSettings) -> tuple[Plan, nn.Module | None]:
    network, survey = context.network.module, context.survey
    drops, evaluator, losses = None, None, None
    if goal.rule == "budget" and not goal.ranks:
        if context.trainable:
            evaluator, losses = _measured_losses(context, goal)
    elif goal.rule == "sensitivity" and not goal.ranks:
        drops = _drops(context, goal, settings)
    problem = PlanningProblem(
        network,
        survey,
        goal,
        CountedCosts(survey),
        drops=drops,
        decompositions=context.decompositions,
        moments=context.moments,
    )
    with context.reporter.stage("Planning") as advance:
        if goal.ranks or goal.rule != "budget":
            return solve(problem), None
        names = [layer.name for layer in free_layers(survey, goal)]
        with COSTS[settings.costs](context, settings) as costs, _known_errors(context, names) as errors:
            problem = replace(
                problem,
                costs=costs,
                losses=losses or problem.losses,
                errors=errors,
                progress=lambda what, done, total, layer: advance(done, total, f"{what}: {layer}"),
            )
            return verified_plan(context, problem, evaluator)


def _measured(context: RunContext, settings: PlanSettings) -> AbstractContextManager[CostModel]:
    from compress_export.latency.measured_costs import MeasuredCosts

    network, image = context.network.module, context.images[:1]
    return MeasuredCosts(network, context.survey, image, settings.latency_format, say=context.reporter.say)


def _instructions(context: RunContext, settings: PlanSettings) -> AbstractContextManager[CostModel]:
    program = capture(context.network.module, context.images[:1])
    return nullcontext(InstructionCosts(context.survey, program, settings.dtype))


def _counted(context: RunContext, _settings: PlanSettings) -> AbstractContextManager[CostModel]:
    return nullcontext(CountedCosts(context.survey))


COSTS: dict[Costs, Callable[[RunContext, PlanSettings], AbstractContextManager[CostModel]]] = {
    "measured": _measured,
    "instructions": _instructions,
    "counted": _counted,
}
"""The cost model of each setting of plan.costs but `auto`, which `with_costs` has resolved."""


def verified_plan(
    context: RunContext, problem: PlanningProblem, evaluator: Evaluator | None
) -> tuple[Plan, nn.Module | None]:
    """A plan whose network was measured to keep the limits on drop and time, and to be no slower than the original.

    With it that network, where the plan limits the drop. InputError where no attempt keeps its goal; the last attempt
    keeps every layer if nothing else is asked for.
    """
    goal, costs = problem.goal, problem.costs
    for left in reversed(range(OPTIONS.attempts)):
        plan = solve(problem)
        compressed, harder = None, None
        if evaluator is not None and "drop" in goal.limits and plan.factored:
            compressed = copy.deepcopy(problem.network)
            apply(compressed, plan.layers, problem.decompositions, context.seed, moments=problem.moments)
            check_factors(problem.network, compressed, [row.name for row in plan.factored], context.images)
            context.settle_statistics(compressed, problem.network)
            harder = _if_lossy(context, problem, plan, evaluator, compressed)
        if harder is None and costs.unit == "ms" and plan.factored:
            from compress_export.latency.measured_costs import MeasuredCosts

            assert isinstance(costs, MeasuredCosts)  # by its unit; imported where times are measured
            problem.progress("Timing the planned network in turns with the original", 0, 1, "")
            timed = compressed
            if timed is None:  # time does not depend on weights
                skeleton(timed := copy.deepcopy(problem.network), plan.layers)
            plan = replace(plan, timed=costs.share(timed.eval()))
            harder = _if_slow(context, problem, plan)
        if harder is None and isinstance(costs, InstructionCosts):
            plan = _with_instructions(plan, costs)
        if harder is None:
            return plan, compressed
        # Where nothing but the loss is limited, keeping every layer is an answer; else it is not.
        problem = replace(harder, keep_every_layer=left == 1 and not set(goal.limits) - {"drop"})
    raise InputError(
        f"{goal.text()}: {OPTIONS.attempts} plan(s), each made with what the last one taught, did not keep it when "
        "measured; raise the limit, or keep the most sensitive layers with --keep-layers"
    )


def _with_instructions(plan: Plan, costs: InstructionCosts) -> Plan:
    """The plan with the instructions predicted of the original and of the planned network."""
    if plan.original is None or plan.chosen is None:
        return plan
    before = costs.instructions()
    after = costs.instructions(LayerVariant(row.name, row.method, row.rank) for row in plan.factored)
    return replace(
        plan,
        original=replace(plan.original, instructions=round(before)),
        chosen=replace(plan.chosen, instructions=round(after)),
    )


def _if_lossy(
    context: RunContext, problem: PlanningProblem, plan: Plan, evaluator: Evaluator, compressed: nn.Module
) -> PlanningProblem | None:
    """None if the planned network keeps the limit on the drop, else the next problem, which expects more loss."""
    divergence, drop = evaluator.compare(compressed.to(context.group.device))
    compressed.cpu()
    most = problem.goal.limits["drop"].amount
    lost = round(drop * evaluator.images / 100)
    these = f" ({lost} of them)" if context.objective.score is None else ""
    again = "" if drop <= most else f"{these}, more than {most:g}: planning again, more carefully"
    context.reporter.say(
        f"the network as planned loses {drop:.2f} points of {context.objective.metric} on {evaluator.images} "
        "validation images before tuning"
        f"{again}"
    )
    losses = problem.losses
    if drop <= most or plan.chosen is None or plan.chosen.loss == 0 or not isinstance(losses, MeasuredLosses):
        return None
    scale = max(
        OPTIONS.loss_scale_step * losses.loss_scale,
        losses.loss_scale * drop / max(most, 1e-9),
        divergence / plan.chosen.loss,
    )
    return replace(problem, losses=MeasuredLosses(losses.probes, scale))


def _if_slow(context: RunContext, problem: PlanningProblem, plan: Plan) -> PlanningProblem | None:
    """None if the planned network takes the time predicted, and no more than it may; else the next problem."""
    before, after, fraction = plan.original, plan.chosen, plan.timed
    if fraction is None or before is None or after is None or before.ms is None or after.ms is None:
        return None
    if not problem.goal.may_be_slower and fraction > OPTIONS.faster:
        context.reporter.say(
            f"the network as planned takes {fraction:.2f} of the original's time: planning again, for less"
        )
        return replace(problem, required_speedup=OPTIONS.speedup_step * problem.required_speedup)
    if "latency" not in problem.goal.limits:
        return None
    most, taken = problem.goal.limits["latency"].most(before.ms), fraction * before.ms
    enough = taken >= OPTIONS.unused_latency * most or after.ms < OPTIONS.unused_latency * most
    if taken <= OPTIONS.latency_noise * most and enough:
        return None
    context.reporter.say(
        f"the network as planned takes {taken:.2f} ms, {after.ms:.2f} ms were predicted: planning again"
    )
    return replace(problem, latency_offset=problem.latency_offset + taken - after.ms)


@contextmanager
def _known_errors(context: RunContext, layers: Sequence[str]) -> Iterator[Errors]:
    """Errors of variants known from an earlier plan; what is added is kept. With data nothing is: see `load`."""
    if context.fits_outputs:
        yield {}
        return
    errors, paths = error_cache.load(context.network.module, layers, context.seed)
    try:
        yield errors
    finally:
        error_cache.save(errors, paths)


def _measured_losses(context: RunContext, goal: Goal) -> tuple[Evaluator, MeasuredLosses]:
    """Losses of every layer that may be factored, alone at some errors, measured or taken from losses.jsonl."""
    run = context.run
    layers = free_layers(context.survey, goal)
    known = msgspec.convert(run.read_lines(RunFile.LOSSES), list[Probe])
    with context.reporter.stage(f"Measuring what {len(layers)} layers lose, each compressed alone") as advance:
        probe_points = {layer.name: _probe_points(context, layer) for layer in layers}
        total = sum(map(len, probe_points.values()))
        done = 0

        def found(probed: Probe) -> None:
            nonlocal done
            done += 1
            run.append_line(RunFile.LOSSES, asdict(probed))
            advance(done, total, f"{probed.layer}: -{probed.drop:.2f} points at error {probed.error:.2f}")

        context.send("losses", probe_points, known)
        return measure_probe_points(context, probe_points, known, found)


def measure_probe_points(
    context: RunContext,
    probe_points: Mapping[str, Sequence[tuple[LayerVariant, float]]],
    known: Sequence[Probe],
    found: Callable[[Probe], None] = lambda _probe: None,
) -> tuple[Evaluator, MeasuredLosses]:
    """The probes at all points, sharded over the processes of the group, which all do this at once."""
    assert context.data is not None  # it is trainable
    evaluator = Evaluator(
        context.network.module, context.data.validation, device=context.group.device, objective=context.objective
    )
    probes = probe_losses(
        evaluator,
        probe_points,
        lambda variant: _decomposed(context, variant).factors(variant.rank),
        known,
        found,
        context.group,
    )
    return evaluator, MeasuredLosses(probes)


def _probe_points(context: RunContext, layer: LayerCost) -> list[tuple[LayerVariant, float]]:
    """Variants of one layer at the probes' errors, by a method whose fit is the best at every rank.

    A depthwise layer is exact by channel at its one rank, and is factored by spatial.
    """
    for method in ("svd",) if default_method(layer.shape) == "svd" else ("channel", "spatial"):
        if METHODS[method].supports(layer.shape) is None:
            (full,) = METHODS[method].full_rank(layer.shape)
            count = OPTIONS.probe_ranks
            ranks = sorted({max(1, round(full ** (index / (count - 1)))) for index in range(count)})
            variants = [LayerVariant(layer.name, method, (rank,)) for rank in ranks]
            points = probe_points_of({one: _decomposed(context, one).error(one.rank) for one in variants})
            if points:
                return points
    return []


def _decomposed(context: RunContext, variant: LayerVariant) -> Decomposition:
    network, moments = context.network.module, (context.moments or {}).get(variant.layer)
    return decomposition(context.decompositions, network, variant.layer, variant.method, context.seed, moments)


def _drops(context: RunContext, goal: Goal, settings: PlanSettings) -> dict[str, float]:
    """Top-1 lost by each layer when compressed alone and trained for an epoch, measured or taken from probes.jsonl."""
    run = context.run
    known = {row["layer"]: row["drop"] for row in run.read_lines(RunFile.PROBES)}
    factorable = factorable_layers(context.survey, goal)
    names = [layer.name for layer in context.survey.layers if layer.name in factorable]
    with context.reporter.stage(f"Probing {len(names)} layers, each compressed alone") as advance:
        now, before = "", len(known)

        def found(name: str, drop: float) -> None:
            nonlocal now, before
            now, before = f"{name}: -{drop:.2f} points", before + 1
            run.append_line(RunFile.PROBES, {"layer": name, "drop": drop})

        watch = Watch(batch=lambda done, total: advance(before + done / total, len(names), now))
        context.send("drops", names, settings, known)
        return probe_layers(context, names, settings, known, found, watch)


def probe_layers(
    context: RunContext,
    names: Sequence[str],
    settings: PlanSettings,
    known: Mapping[str, float],
    found: Callable[[str, float], None] = lambda _name, _drop: None,
    watch: Watch | None = None,
) -> dict[str, float]:
    """The drops of all layers named, sharded over the processes of the group, which all do this at once."""
    assert context.data is not None  # it is trainable
    return probe(
        context.network.module,
        [context.survey.layer(name) for name in names],
        context.data.train,
        context.data.validation,
        TrainOptions(settings.optimizer, settings.rate, settings.rate_schedule, seed=context.seed),
        known,
        found,
        watch,
        context.decompositions,
        context.group,
    )
