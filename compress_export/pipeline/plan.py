"""The planning stage: the goal from the settings, and the evidence, measured or taken from the run's files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from compress_export.errors import InputError, nearest
from compress_export.latency import error_cache as layer_errors
from compress_export.latency.measured_costs import MeasuredCosts
from compress_export.pipeline.compress import settle_statistics
from compress_export.pipeline.distributed import send
from compress_export.pipeline.load import RunContext
from compress_export.settings import PlanSettings
from compressor.decompositions.methods import METHODS, Decomposition, decomposition, default_method
from compressor.plan import Plan
from compressor.planning.budget_rule import FASTER
from compressor.planning.candidates import free_layers
from compressor.planning.cost_model import CostModel, CountedCosts, LayerVariant
from compressor.planning.goal import DEFAULT_METHODS, Goal
from compressor.planning.loss_model import Evaluator, MeasuredLosses, Probe, probe_losses, probe_points_of
from compressor.planning.planner import RANK_RULES, Errors, Evidence, check_goal, check_plan, make_plan
from compressor.planning.rank_rules import candidates_of
from compressor.planning.recipes import PAPER_RANKS, check_needs, ranks_for
from compressor.surgery import apply, skeleton
from compressor.survey import LayerCost
from compressor.training.fine_tune import probe
from compressor.training.loop import TrainOptions, Watch

TRIALS = 12
"""Plans made before giving up; each trial rests on what the one before taught."""


HASTE = 0.9
"""How much faster variants must be when the network made of them was hardly faster than the original."""


NOISE = 1.03
"""A measured time over the limit that still passes for kept."""


WASTE = 0.85
"""A measured time so far below the limit, where more was predicted, is time that the network could have used."""


@dataclass(frozen=True)
class Trial:
    """What a plan is made with, and what earlier trials taught.

    `correction` is what the whole network took above the sum of its variants, in ms: their times are those of single
    files. `haste` is how much faster than usual a variant must be to be taken.
    """

    costs: CostModel
    losses: MeasuredLosses | None
    errors: Errors
    correction: float = 0.0
    haste: float = 1.0


def settled(
    context: RunContext,
    goal: Goal,
    trial: Trial,
    evaluator: Evaluator | None,
    progress: Callable[[str, int, int, str], None],
) -> Plan:
    """A plan whose network was measured to keep the limits on drop and time, and to be no slower than the original.

    InputError where none of TRIALS does; the last keeps every layer if nothing else is asked for.
    """
    for left in reversed(range(TRIALS)):
        evidence = Evidence(trial.costs, trial.losses, None, trial.errors, trial.haste, trial.correction)
        plan = make_plan(
            context.network.module, context.survey, goal, evidence, context.decompositions, context.moments, progress
        )
        lesson = _lost(context, goal, trial, plan, evaluator)
        if lesson is None and isinstance(trial.costs, MeasuredCosts) and plan.factored:
            progress("Timing the planned network in turns with the original", 0, 1, "")
            plan = _timed(context, plan, trial.costs)
            lesson = _slow(context, goal, trial, plan)
        if lesson is None:
            return plan
        # Where nothing but the loss is limited, keeping every layer is an answer; else it is not.
        trial = lesson if left > 1 or set(goal.limits) - {"drop"} else replace(lesson, haste=0.0)
    raise InputError(
        f"{goal.text()}: {TRIALS} plan(s), each made with what the last one taught, did not keep it when measured; "
        "raise the limit, or keep the most sensitive layers with --keep-layers"
    )


def _lost(context: RunContext, goal: Goal, trial: Trial, plan: Plan, evaluator: Evaluator | None) -> Trial | None:
    """None if the planned network keeps the limit on the drop, else the next trial, which expects more loss."""
    losses = trial.losses
    if evaluator is None or losses is None or "drop" not in goal.limits or not plan.factored:
        return None
    cut = copy.deepcopy(context.network.module)
    apply(cut, plan.layers, context.decompositions, context.seed, moments=context.moments)
    settle_statistics(context, cut, context.network.module)
    divergence, drop = evaluator.compare(cut.to(context.group.device))
    most = goal.limits["drop"].amount
    kept = drop <= most
    lost = round(drop * evaluator.images / 100)
    again = "" if kept else f" ({lost} of them), more than {most:g}: planning again, more carefully"
    context.reporter.say(
        f"the network as planned loses {drop:.2f} points of top-1 on {evaluator.images} held-out images before tuning"
        f"{again}"
    )
    if kept or plan.chosen is None or plan.chosen.loss == 0:
        return None
    excess = max(1.25 * losses.excess, losses.excess * drop / max(most, 1e-9), divergence / plan.chosen.loss)
    return replace(trial, losses=MeasuredLosses(losses.probes, excess))


def _timed(context: RunContext, plan: Plan, costs: MeasuredCosts) -> Plan:
    """The plan with the time of its network (its factors empty, for time does not depend on weights)."""
    cut = copy.deepcopy(context.network.module)
    skeleton(cut, plan.layers)
    return replace(plan, timed=costs.share(cut.eval()))


def _slow(context: RunContext, goal: Goal, trial: Trial, plan: Plan) -> Trial | None:
    """None if the planned network takes the time predicted, and no more than it may; else the next trial."""
    before, after, share = plan.original, plan.chosen, plan.timed
    if share is None or before is None or after is None or before.ms is None or after.ms is None:
        return None
    if not goal.may_be_slower and share > FASTER:
        context.reporter.say(
            f"the network as planned takes {share:.2f} of the original's time: planning again, for less"
        )
        return replace(trial, haste=HASTE * trial.haste)
    if "latency" not in goal.limits:
        return None
    most, taken = goal.limits["latency"].most(before.ms), share * before.ms
    if taken <= NOISE * most and (taken >= WASTE * most or after.ms < WASTE * most):
        return None
    context.reporter.say(
        f"the network as planned takes {taken:.2f} ms, {after.ms:.2f} ms were predicted: planning again"
    )
    return replace(trial, correction=trial.correction + taken - after.ms)


DEFAULT_DROP = "1%"
"""Without limits, with data: the smallest and fastest network predicted to lose no more before fine-tuning."""


LADDER = 48
"""Ranks among which those of the probes are found."""


def plan_stage(context: RunContext, settings: PlanSettings, stale: bool = False) -> Plan:
    """The run's plan: taken from its file unless that is stale, replayed from another, or made for the goal."""
    run = context.run
    if run.has("plan.json") and not stale:
        return Plan.read(run / "plan.json")
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
        plan = _planned(context, goal, settings)
    run.write_text("plan.json", plan.to_json())
    return plan


def check_plan_settings(settings: PlanSettings) -> None:
    """What can be told wrong before a network is loaded: rules, recipes, methods, limits, the plan file."""
    rule = settings.rank_rule
    if rule not in RANK_RULES:
        raise InputError(f"there is no rank rule {rule!r}: {nearest(rule, RANK_RULES)}")
    if isinstance(settings.ranks, str) and settings.ranks not in PAPER_RANKS:
        known = nearest(settings.ranks, PAPER_RANKS)
        raise InputError(f"--ranks takes layer=rank,... or a paper's, not {settings.ranks!r}: {known}")
    if settings.plan is not None:
        if not Path(settings.plan).is_file():
            raise InputError(f"--plan {settings.plan}: there is no such file")
        Plan.read(Path(settings.plan))
    for name in settings.methods:
        if name not in METHODS:
            raise InputError(f"there is no method {name!r}: {nearest(name, METHODS)}")
    _ = goal_of(settings, (), 0, False).limits if not isinstance(settings.ranks, str) else None


def goal_of(settings: PlanSettings, layers: Sequence[LayerCost], seed: int, measurable: bool) -> Goal:
    """The goal that the settings describe, for a network of these layers whose accuracy is `measurable` or not."""
    ranks, source = settings.ranks, "ranks given"
    if isinstance(ranks, str):
        source = f"ranks of {ranks} ({PAPER_RANKS[ranks].source})"
        ranks = ranks_for(PAPER_RANKS[ranks], layers)
        ranks = {name: rank for name, rank in ranks.items() if name not in settings.keep_layers}
    limits = [settings.max_params, settings.max_size, settings.max_macs, settings.max_latency, settings.max_drop]
    assumed = measurable and not ranks and settings.rank_rule == "budget" and not any(limits)
    return Goal(
        settings.rank_rule,
        settings.max_params,
        settings.max_size,
        settings.max_macs,
        settings.max_latency,
        DEFAULT_DROP if assumed else settings.max_drop,
        settings.methods or DEFAULT_METHODS,
        ranks,
        source,
        settings.keep_layers,
        seed,
        assumed,
    )


def _planned(context: RunContext, goal: Goal, settings: PlanSettings) -> Plan:
    network, found = context.network.module, context.survey
    if goal.ranks or goal.rule != "budget":
        drops = _drops(context, goal, settings) if goal.rule == "sensitivity" and not goal.ranks else None
        with context.reporter.stage("Planning"):
            return make_plan(network, found, goal, Evidence(drops=drops), context.decompositions, context.moments)
    evaluator, losses = _measured_losses(context, goal) if context.trainable else (None, None)
    names = [layer.name for layer in free_layers(found, goal)]
    with (
        context.reporter.stage("Planning") as advance,
        _costs(context, settings) as costs,
        _errors(context, names) as errors,
    ):
        return settled(context, goal, Trial(costs, losses, errors), evaluator, _shown(advance))


@contextmanager
def _errors(context: RunContext, layers: Sequence[str]) -> Iterator[Errors]:
    """Errors of variants known from an earlier plan; what is added is kept. With data nothing is: see `load`."""
    if context.fits_outputs:
        yield {}
        return
    errors, places = layer_errors.load(context.network.module, layers, context.seed)
    try:
        yield errors
    finally:
        layer_errors.save(errors, places)


def _shown(advance: Callable[[float, float, str], None]) -> Callable[[str, int, int, str], None]:
    return lambda what, done, total, now: advance(done, total, f"{what}: {now}")


def _costs(context: RunContext, settings: PlanSettings) -> AbstractContextManager[CostModel]:
    if settings.costs == "counted":
        return nullcontext(CountedCosts(context.survey))
    return MeasuredCosts(
        context.network.module, context.survey, context.images[:1], settings.latency_format, say=context.reporter.say
    )


def _measured_losses(context: RunContext, goal: Goal) -> tuple[Evaluator, MeasuredLosses]:
    """Losses of every layer that may be factored, cut alone at some errors, measured or taken from losses.jsonl."""
    run = context.run
    layers = free_layers(context.survey, goal)
    known = [Probe(**{**row, "rank": tuple(row["rank"])}) for row in run.read_lines("losses.jsonl")]
    with context.reporter.stage(f"Measuring what {len(layers)} layers lose, each cut alone") as advance:
        probe_points = {layer.name: _probe_points(context, layer) for layer in layers}
        total = sum(map(len, probe_points.values()))
        done = 0

        def found(probed: Probe) -> None:
            nonlocal done
            done += 1
            run.append_line("losses.jsonl", asdict(probed))
            advance(done, total, f"{probed.layer}: -{probed.drop:.2f} points at error {probed.error:.2f}")

        send(context, "losses", probe_points, known)
        return measure_probe_points(context, probe_points, known, found)


def measure_probe_points(
    context: RunContext,
    probe_points: Mapping[str, Sequence[tuple[LayerVariant, float]]],
    known: Sequence[Probe],
    found: Callable[[Probe], None] = lambda _probe: None,
) -> tuple[Evaluator, MeasuredLosses]:
    """The probes of all probe_points, dealt out to the processes of the group, which all do this at once."""
    assert context.data is not None  # it is trainable
    evaluator = Evaluator(context.network.module, context.data.held_out, device=context.group.device)
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
    """Variants of one layer at the probes' errors, by a method whose every rank is the best fit of its variant.

    A depthwise layer is exact by channel at its one rank, and is cut by spatial.
    """
    for method in ("svd",) if default_method(layer.shape) == "svd" else ("channel", "spatial"):
        if METHODS[method].supports(layer.shape) is None:
            (full,) = METHODS[method].full_rank(layer.shape)
            ranks = sorted({max(1, round(full ** (place / (LADDER - 1)))) for place in range(LADDER)})
            variants = [LayerVariant(layer.name, method, (rank,)) for rank in ranks]
            probe_points = probe_points_of(
                {variant: _decomposed(context, variant).error(variant.rank) for variant in variants}
            )
            if probe_points:
                return probe_points
    return []


def _decomposed(context: RunContext, variant: LayerVariant) -> Decomposition:
    network, moments = context.network.module, (context.moments or {}).get(variant.layer)
    return decomposition(context.decompositions, network, variant.layer, variant.method, context.seed, moments)


def _drops(context: RunContext, goal: Goal, settings: PlanSettings) -> dict[str, float]:
    """Top-1 lost by each candidate when cut alone and trained for an epoch, measured or taken from probes.jsonl."""
    run = context.run
    known = {row["layer"]: row["drop"] for row in run.read_lines("probes.jsonl")}
    candidates = candidates_of(context.survey, goal)
    names = [layer.name for layer in context.survey.layers if layer.name in candidates]
    with context.reporter.stage(f"Probing {len(names)} layers, each cut alone") as advance:
        now, before = "", len(known)

        def found(name: str, drop: float) -> None:
            nonlocal now, before
            now, before = f"{name}: -{drop:.2f} points", before + 1
            run.append_line("probes.jsonl", {"layer": name, "drop": drop})

        watch = Watch(batch=lambda done, total: advance(before + done / total, len(names), now))
        send(context, "drops", names, settings, known)
        return probe_layers(context, names, settings, known, found, watch)


def probe_layers(
    context: RunContext,
    names: Sequence[str],
    settings: PlanSettings,
    known: Mapping[str, float],
    found: Callable[[str, float], None] = lambda _name, _drop: None,
    watch: Watch | None = None,
) -> dict[str, float]:
    """The drops of all layers named, dealt out to the processes of the group, which all do this at once."""
    assert context.data is not None  # it is trainable
    return probe(
        context.network.module,
        [context.survey.layer(name) for name in names],
        context.data.train,
        context.data.held_out,
        TrainOptions(settings.optimizer, settings.rate, settings.rate_shape, seed=context.seed),
        known,
        found,
        watch,
        context.decompositions,
        context.group,
    )
