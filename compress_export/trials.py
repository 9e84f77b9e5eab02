"""settled(): plans are made and their networks measured until one keeps what it promises."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

from compress_export.errors import InputError
from compress_export.layer_times import MeasuredCosts
from compress_export.stages import Workbench, settle_statistics
from compressor.budget import FASTER
from compressor.cost_model import CostModel
from compressor.goal import Goal
from compressor.losses import Judge, MeasuredLosses
from compressor.plan import Plan
from compressor.planner import Errors, Evidence, make_plan
from compressor.surgery import apply, skeleton

TRIALS = 12
"""Plans made before giving up; each trial rests on what the one before taught."""
HASTE = 0.9
"""How much faster forms must be when the network made of them was hardly faster than the original."""
NOISE = 1.03
"""A measured time over the limit that still passes for kept."""
WASTE = 0.85
"""A measured time so far below the limit, where more was predicted, is time that the network could have used."""


@dataclass(frozen=True)
class Trial:
    """What a plan is made with, and what earlier trials taught.

    `correction` is what the whole network took above the sum of its forms, in ms: their times are those of single
    files. `haste` is how much faster than usual a form must be to be taken.
    """

    costs: CostModel
    losses: MeasuredLosses | None
    errors: Errors
    correction: float = 0.0
    haste: float = 1.0


def settled(
    bench: Workbench,
    goal: Goal,
    trial: Trial,
    judge: Judge | None,
    progress: Callable[[str, int, int, str], None],
) -> Plan:
    """A plan whose network was measured to keep the limits on drop and time, and to be no slower than the original.

    InputError where none of TRIALS does; the last keeps every layer if nothing else is asked for.
    """
    subject = bench.subject
    for left in reversed(range(TRIALS)):
        evidence = Evidence(trial.costs, trial.losses, None, trial.errors, trial.haste, trial.correction)
        plan = make_plan(
            subject.network.module, subject.survey, goal, evidence, bench.decompositions, bench.moments, progress
        )
        lesson = _lost(bench, goal, trial, plan, judge)
        if lesson is None and isinstance(trial.costs, MeasuredCosts) and plan.factored:
            progress("Timing the planned network in turns with the original", 0, 1, "")
            plan = _timed(bench, plan, trial.costs)
            lesson = _slow(bench, goal, trial, plan)
        if lesson is None:
            return plan
        # Where nothing but the loss is limited, keeping every layer is an answer; else it is not.
        trial = lesson if left > 1 or set(goal.limits) - {"drop"} else replace(lesson, haste=0.0)
    raise InputError(
        f"{goal.text()}: {TRIALS} plan(s), each made with what the last one taught, did not keep it when measured; "
        "raise the limit, or keep the most sensitive layers with --keep-layers"
    )


def _lost(bench: Workbench, goal: Goal, trial: Trial, plan: Plan, judge: Judge | None) -> Trial | None:
    """None if the planned network keeps the limit on the drop, else the next trial, which expects more loss."""
    losses = trial.losses
    if judge is None or losses is None or "drop" not in goal.limits or not plan.factored:
        return None
    cut = copy.deepcopy(bench.subject.network.module)
    apply(cut, plan.layers, bench.decompositions, bench.seed, moments=bench.moments)
    settle_statistics(bench, cut, bench.subject.network.module)
    divergence, drop = judge.compare(cut.to(bench.crew.device))
    most = goal.limits["drop"].amount
    kept = drop <= most
    lost = round(drop * judge.images / 100)
    again = "" if kept else f" ({lost} of them), more than {most:g}: planning again, more carefully"
    bench.reporter.say(
        f"the network as planned loses {drop:.2f} points of top-1 on {judge.images} held-out images before tuning"
        f"{again}"
    )
    if kept or plan.chosen is None or plan.chosen.loss == 0:
        return None
    excess = max(1.25 * losses.excess, losses.excess * drop / max(most, 1e-9), divergence / plan.chosen.loss)
    return replace(trial, losses=MeasuredLosses(losses.probes, excess))


def _timed(bench: Workbench, plan: Plan, costs: MeasuredCosts) -> Plan:
    """The plan with the time of its network (its factors empty, for time does not depend on weights)."""
    cut = copy.deepcopy(bench.subject.network.module)
    skeleton(cut, plan.layers)
    return replace(plan, timed=costs.share(cut.eval()))


def _slow(bench: Workbench, goal: Goal, trial: Trial, plan: Plan) -> Trial | None:
    """None if the planned network takes the time predicted, and no more than it may; else the next trial."""
    before, after, share = plan.original, plan.chosen, plan.timed
    if share is None or before is None or after is None or before.ms is None or after.ms is None:
        return None
    if not goal.may_be_slower and share > FASTER:
        bench.reporter.say(f"the network as planned takes {share:.2f} of the original's time: planning again, for less")
        return replace(trial, haste=HASTE * trial.haste)
    if "latency" not in goal.limits:
        return None
    most, taken = goal.limits["latency"].most(before.ms), share * before.ms
    if taken <= NOISE * most and (taken >= WASTE * most or after.ms < WASTE * most):
        return None
    bench.reporter.say(f"the network as planned takes {taken:.2f} ms, {after.ms:.2f} ms were predicted: planning again")
    return replace(trial, correction=trial.correction + taken - after.ms)
