"""The planning stage: the goal from the settings, and the evidence, measured or taken from the run's files."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from compress_export import layer_errors
from compress_export.crews import send
from compress_export.errors import InputError, nearest
from compress_export.layer_times import MeasuredCosts
from compress_export.settings import PlanSettings
from compress_export.stages import Workbench
from compress_export.trials import Trial, settled
from compressor.cost_model import CostModel, CountedCosts, Form
from compressor.costs import LayerCost
from compressor.goal import DEFAULT_METHODS, Goal
from compressor.losses import Judge, MeasuredLosses, Probe, probe_losses, rungs_of
from compressor.methods import METHODS, Decomposition, decomposition, default_method
from compressor.paper_ranks import PAPER_RANKS, ranks_for
from compressor.plan import Plan
from compressor.planner import RANK_RULES, Errors, Evidence, check_goal, check_plan, make_plan
from compressor.problem import free_layers
from compressor.recipes import check_needs
from compressor.rules import candidates_of
from compressor.surgery import skeleton
from compressor.training import TrainOptions, Watch
from compressor.tuning import probe

DEFAULT_DROP = "1%"
"""Without limits, with data: the smallest and fastest network predicted to lose no more before fine-tuning."""
LADDER = 48
"""Ranks among which those of the probes are found."""


def plan_stage(bench: Workbench, settings: PlanSettings, stale: bool = False) -> Plan:
    """The run's plan: taken from its file unless that is stale, replayed from another, or made for the goal."""
    run, subject = bench.run, bench.subject
    if run.has("plan.json") and not stale:
        return Plan.read(run / "plan.json")
    if settings.plan is not None:
        plan = Plan.read(Path(settings.plan))
        check_plan(plan, subject.survey)
        skeleton(copy.deepcopy(subject.network.module), plan.layers)
        run.begin("plan", settings, stale)
    else:
        check_needs(settings.recipe, subject.survey.layers)
        goal = goal_of(settings, subject.survey.layers, bench.seed, subject.trainable)
        check_goal(subject.survey, goal)
        run.begin("plan", settings, stale)
        plan = _planned(bench, goal, settings)
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


def _planned(bench: Workbench, goal: Goal, settings: PlanSettings) -> Plan:
    subject = bench.subject
    network, found = subject.network.module, subject.survey
    if goal.ranks or goal.rule != "budget":
        drops = _drops(bench, goal, settings) if goal.rule == "sensitivity" and not goal.ranks else None
        with bench.reporter.stage("Planning"):
            return make_plan(network, found, goal, Evidence(drops=drops), bench.decompositions, bench.moments)
    judge, losses = _judged(bench, goal) if subject.trainable else (None, None)
    names = [layer.name for layer in free_layers(found, goal)]
    with bench.reporter.stage("Planning") as advance, _costs(bench, settings) as costs, _errors(bench, names) as errors:
        return settled(bench, goal, Trial(costs, losses, errors), judge, _shown(advance))


@contextmanager
def _errors(bench: Workbench, layers: Sequence[str]) -> Iterator[Errors]:
    """Errors of forms that are known from an earlier plan; what is added is kept. With data nothing is: see `load`."""
    if bench.fits_outputs:
        yield {}
        return
    errors, places = layer_errors.load(bench.subject.network.module, layers, bench.seed)
    try:
        yield errors
    finally:
        layer_errors.save(errors, places)


def _shown(advance: Callable[[float, float, str], None]) -> Callable[[str, int, int, str], None]:
    return lambda what, done, total, now: advance(done, total, f"{what}: {now}")


def _costs(bench: Workbench, settings: PlanSettings) -> AbstractContextManager[CostModel]:
    subject = bench.subject
    if settings.costs == "counted":
        return nullcontext(CountedCosts(subject.survey))
    return MeasuredCosts(
        subject.network.module, subject.survey, subject.images[:1], settings.latency_format, say=bench.reporter.say
    )


def _judged(bench: Workbench, goal: Goal) -> tuple[Judge, MeasuredLosses]:
    """Losses of every layer that may be factored, cut alone at some errors, measured or taken from losses.jsonl."""
    subject, run = bench.subject, bench.run
    layers = free_layers(subject.survey, goal)
    known = [Probe(**{**row, "rank": tuple(row["rank"])}) for row in run.read_lines("losses.jsonl")]
    with bench.reporter.stage(f"Measuring what {len(layers)} layers lose, each cut alone") as advance:
        rungs = {layer.name: _rungs(bench, layer) for layer in layers}
        total = sum(map(len, rungs.values()))
        done = 0

        def found(probed: Probe) -> None:
            nonlocal done
            done += 1
            run.append_line("losses.jsonl", asdict(probed))
            advance(done, total, f"{probed.layer}: -{probed.drop:.2f} points at error {probed.error:.2f}")

        send(bench, "losses", rungs, known)
        return probe_rungs(bench, rungs, known, found)


def probe_rungs(
    bench: Workbench,
    rungs: Mapping[str, Sequence[tuple[Form, float]]],
    known: Sequence[Probe],
    found: Callable[[Probe], None] = lambda _probe: None,
) -> tuple[Judge, MeasuredLosses]:
    """The probes of all rungs, dealt out to the processes of the crew, which all do this at once."""
    assert bench.subject.data is not None  # it is trainable
    judge = Judge(bench.subject.network.module, bench.subject.data.held_out, device=bench.crew.device)
    probes = probe_losses(
        judge, rungs, lambda form: _decomposed(bench, form).factors(form.rank), known, found, bench.crew
    )
    return judge, MeasuredLosses(probes)


def _rungs(bench: Workbench, layer: LayerCost) -> list[tuple[Form, float]]:
    """Forms of one layer at the probes' errors, by a method whose every rank is the best fit of its form.

    A depthwise layer is exact by channel at its one rank, and is cut by spatial.
    """
    for method in ("svd",) if default_method(layer.shape) == "svd" else ("channel", "spatial"):
        if METHODS[method].supports(layer.shape) is None:
            (full,) = METHODS[method].full_rank(layer.shape)
            ranks = sorted({max(1, round(full ** (place / (LADDER - 1)))) for place in range(LADDER)})
            forms = [Form(layer.name, method, (rank,)) for rank in ranks]
            rungs = rungs_of({form: _decomposed(bench, form).error(form.rank) for form in forms})
            if rungs:
                return rungs
    return []


def _decomposed(bench: Workbench, form: Form) -> Decomposition:
    network, moments = bench.subject.network.module, (bench.moments or {}).get(form.layer)
    return decomposition(bench.decompositions, network, form.layer, form.method, bench.seed, moments)


def _drops(bench: Workbench, goal: Goal, settings: PlanSettings) -> dict[str, float]:
    """Top-1 lost by each candidate when cut alone and trained for an epoch, measured or taken from probes.jsonl."""
    subject, run = bench.subject, bench.run
    known = {row["layer"]: row["drop"] for row in run.read_lines("probes.jsonl")}
    candidates = candidates_of(subject.survey, goal)
    names = [layer.name for layer in subject.survey.layers if layer.name in candidates]
    with bench.reporter.stage(f"Probing {len(names)} layers, each cut alone") as advance:
        now, before = "", len(known)

        def found(name: str, drop: float) -> None:
            nonlocal now, before
            now, before = f"{name}: -{drop:.2f} points", before + 1
            run.append_line("probes.jsonl", {"layer": name, "drop": drop})

        watch = Watch(batch=lambda done, total: advance(before + done / total, len(names), now))
        send(bench, "drops", names, settings, known)
        return probe_layers(bench, names, settings, known, found, watch)


def probe_layers(
    bench: Workbench,
    names: Sequence[str],
    settings: PlanSettings,
    known: Mapping[str, float],
    found: Callable[[str, float], None] = lambda _name, _drop: None,
    watch: Watch | None = None,
) -> dict[str, float]:
    """The drops of all layers named, dealt out to the processes of the crew, which all do this at once."""
    subject = bench.subject
    assert subject.data is not None  # it is trainable
    return probe(
        subject.network.module,
        [subject.survey.layer(name) for name in names],
        subject.data.train,
        subject.data.held_out,
        TrainOptions(settings.optimizer, settings.rate, settings.rate_shape, seed=bench.seed),
        known,
        found,
        watch,
        bench.decompositions,
        bench.crew,
    )
