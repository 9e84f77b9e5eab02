"""The rule "budget": method and rank of each layer so that the predicted loss is least within the limits."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

from compressor.decompositions.methods import METHODS
from compressor.layer_shape import LayerShape, PlanError, Rank, dense_cost
from compressor.plan import KEEP, LayerVariant, Point
from compressor.planning.cost_model import variant_cost
from compressor.planning.goal import Goal, PlanningProblem
from compressor.planning.knapsack import Candidate, Candidates, Weights, choose, least, most, total, undominated
from compressor.planning.options import OPTIONS
from compressor.survey import LayerCost, Survey
from compressor.threads import in_threads


def free_layers(survey: Survey, goal: Goal) -> list[LayerCost]:
    """Layers that the goal lets a planner factor by one of its methods at one rank at least."""
    return [layer for layer in survey.layers if why_kept(layer, goal) is None]


def why_kept(layer: LayerCost, goal: Goal) -> str | None:
    """The reason why a layer cannot be factored whatever it would cost, or None."""
    if layer.must_keep is not None:
        return layer.must_keep
    if layer.name in goal.keep_layers:
        return "asked for by --keep-layers"
    refusals = [METHODS[method].supports(layer.shape) for method in goal.methods]
    if all(refusals):
        return refusals[0] if len(goal.methods) == 1 else f"none of {', '.join(goal.methods)} fits it"
    if not any(candidate_ranks(layer.shape, method) for method in goal.methods):
        return "factors would cost more than the layer at any rank"
    return None


def candidate_ranks(shape: LayerShape, method: str, multiple: int = 1, fraction: float = 0.0) -> tuple[Rank, ...]:
    """Ranks in rising order at which a method has fewer parameters or MACs than the layer; none where it does not fit.

    Ranks are rounded to what `multiple` says; `fraction` is the layer's part of the network.
    """
    if METHODS[method].supports(shape):
        return ()
    dense, full = dense_cost(shape), METHODS[method].full_rank(shape)

    def pays(rank: Rank) -> bool:
        cost = METHODS[method].cost(shape, rank)
        return cost.parameters < dense.parameters or cost.macs < dense.macs

    def rounded(rank: float, highest: int) -> int:
        # Below four multiples a quarter of one is the step, for a whole one would be a large step.
        step = multiple if rank >= 4 * multiple else max(1, multiple // 4)
        return min(highest, max(1, step * round(rank / step)))

    ranks: list[Rank]
    if len(full) == 2:
        steps, lowest = OPTIONS.pair_steps, OPTIONS.lowest_pair
        fractions = [lowest * (1 / lowest) ** (index / steps) for index in range(steps + 1)]
        ranks = [
            (rounded(first * full[0], full[0]), rounded(second * full[1], full[1]))
            for index, first in enumerate(fractions)
            for other, second in enumerate(fractions)
            if abs(index - other) <= OPTIONS.pair_distance
        ]
    else:
        highest, above = 0, full[0]
        while highest < above:  # costs rise with the rank, so halving finds the largest one that pays
            middle = (highest + above + 1) // 2
            highest, above = (middle, above) if pays((middle,)) else (highest, middle - 1)
        if highest < 1:
            return ()
        if method.startswith("cp"):
            highest = max(1, round(highest * OPTIONS.highest_cp_rank))
        count = OPTIONS.ranks_of_large if fraction >= OPTIONS.large_layer else OPTIONS.ranks
        lowest = max(1.0, highest * OPTIONS.lowest_rank)
        step = (highest / lowest) ** (1 / max(1, count - 1))
        ranks = [(rounded(lowest * step**index, highest),) for index in range(count)]
    return tuple(sorted({rank for rank in ranks if pays(rank)}))


def anchors(ranks: Sequence[Rank], count: int = OPTIONS.anchors) -> Sequence[Rank]:
    """`count` of a layer's candidate ranks, evenly spread from the first to the last: where cost is measured first."""
    if len(ranks) <= count:
        return ranks
    return [ranks[round(index * (len(ranks) - 1) / (count - 1))] for index in range(count)]


def bounds(problem: PlanningProblem, dense: Mapping[str, Candidate]) -> dict[str, float]:
    """The largest sum over the free layers of each quantity that is limited."""
    survey, costs = problem.survey, problem.costs
    given = problem.goal.limits
    whole = {"params": float(survey.parameters), "macs": float(survey.macs), "latency": costs.network()}
    limits = {}
    for quantity, limit in given.items():
        if quantity == "latency" and costs.unit != "ms" and not limit.relative:
            raise PlanError(
                f"--max-latency {limit.text} needs times, and costs are {costs.source}; set plan.costs to measured, or "
                "pass a fraction such as 0.5x"
            )
        if quantity in whole:
            offset = problem.latency_offset if quantity == "latency" else 0.0
            rest = whole[quantity] - total(dense, quantity)
            limits[quantity] = limit.most(whole[quantity]) - offset - rest
        elif quantity == "size":
            allowed = limit.most(file_bytes(survey.parameters, len(survey.layers)))
            graph = file_bytes(0, len(survey.layers))
            parameters = (allowed - graph) / OPTIONS.file_factor / OPTIONS.bytes_per_parameter[problem.goal.dtype]
            left = parameters - (survey.parameters - total(dense, "params"))
            limits["params"] = min(left, limits.get("params", left))
        else:
            loss = problem.losses.loss_at(limit.amount)
            if loss is None:
                raise PlanError("--max-drop is measured, and there is no data to measure with: pass --data")
            limits["loss"] = loss
    if problem.goal.layers_may_be_slower and not problem.goal.may_be_slower:
        limits["latency"] = OPTIONS.same_cost * total(dense, "latency") / problem.required_speedup
    return {quantity: limit for quantity, limit in limits.items() if limit < math.inf}


def file_bytes(parameters: float, layers: int, dtype: str = "float32") -> float:
    """Bytes that a file of a network in that number type takes at most."""
    of_parameters = parameters * OPTIONS.bytes_per_parameter[dtype] * OPTIONS.file_factor
    return of_parameters + OPTIONS.file_bytes + OPTIONS.file_bytes_of_layer * layers


@dataclass(frozen=True)
class Solution:
    """The candidate chosen for each layer (kept ones included), why layers stay, and where the whole network lies."""

    chosen: Mapping[str, Candidate]
    dense: Mapping[str, Candidate]
    kept: Mapping[str, str]
    original: Point
    point: Point
    pareto_front: tuple[Point, ...] = ()


def choose_variants(problem: PlanningProblem) -> Solution:
    """The best choice for the goal. PlanError where its limits cannot be met together, with what can be reached."""
    survey, goal, costs = problem.survey, problem.goal, problem.costs
    layers = free_layers(survey, goal)
    variants: dict[str, list[LayerVariant]] = {}
    first = [LayerVariant(layer.name) for layer in survey.layers if layer.calls]
    for layer in layers:
        fraction = max(layer.cost.parameters / survey.parameters, layer.cost.macs / max(1, survey.macs))
        variants[layer.name] = []
        for method in goal.methods:
            ranks = candidate_ranks(layer.shape, method, costs.multiple, fraction)
            variants[layer.name] += [LayerVariant(layer.name, method, rank) for rank in ranks]
            by_cost = sorted(ranks, key=lambda rank: (prod(rank), rank))  # pairs by their product
            first += [LayerVariant(layer.name, method, rank) for rank in anchors(by_cost)]
    _measure(problem, first, "Timing layers")
    problem.progress("Timing the whole network", 0, 1, "")
    costs.network()  # before any cost is read: a model may set its layers' costs against the network's
    dense = {layer.name: _candidate(problem, LayerVariant(layer.name), 0.0) for layer in layers}
    errors: dict[LayerVariant, float] = {}
    # The large layers first, or one of them would keep a single thread busy at the end.
    largest_first = sorted(variants, key=lambda name: -dense[name].params)

    def estimates(name: str) -> dict[LayerVariant, float]:
        return {variant: min(1.0, problem.estimate(variant)) for variant in variants[name]}

    problem.progress("Working out errors", 0, len(variants), "")
    for done, (name, own) in enumerate(in_threads(estimates, largest_first), 1):
        problem.progress("Working out errors", done, len(variants), name)
        errors |= own
    limits = bounds(problem, dense)

    def allowed(candidate: Candidate) -> bool:
        return candidate.variant.method == KEEP or _allowed(problem, candidate, dense[candidate.variant.layer])

    def candidates() -> dict[str, list[Candidate]]:
        return {name: _candidates(problem, dense[name], own, errors) for name, own in variants.items()}

    slack = {"latency": OPTIONS.slack, "loss": OPTIONS.slack}  # parameters and MACs are counted, not measured
    accepted: dict[str, Candidate] | None = None
    timed = costs.unit == "ms" and "latency" in goal.limits and "drop" not in goal.limits
    before: dict[str, Candidate] = {}
    for _ in range(OPTIONS.choices):
        found = candidates()
        best = choose(found, weigh(problem, found, limits), limits)
        if best is None and accepted is not None:
            break
        if best is None:
            raise unreachable(problem, found, limits, dense)
        # Times were interpolated: now those of just these variants, exactly. So are errors where a limit depends on
        # them; else their factors would be computed for a figure that decides nothing any more.
        taken = [best[name].variant for name in largest_first if best[name].variant.method != KEEP]
        _measure(problem, taken, "Timing the variants chosen")
        exactly = taken if "loss" in limits else []
        problem.progress("Working out the variants chosen", 0, len(exactly), "")
        for done, (variant, error) in enumerate(in_threads(problem.error, exactly), 1):
            problem.progress("Working out the variants chosen", done, len(exactly), variant.layer)
            errors[variant] = error
        chosen = {name: _candidate(problem, own.variant, errors.get(own.variant, 0.0)) for name, own in best.items()}
        within = all(total(chosen, quantity) <= limit * slack.get(quantity, 1.0) for quantity, limit in limits.items())
        if within and all(map(allowed, chosen.values())):
            if accepted is None or total(chosen, "loss") < total(accepted, "loss"):
                accepted = chosen
            # Variants that turn out faster than they were interpolated leave time for less loss.
            unused = timed and total(chosen, "latency") < OPTIONS.unused_latency * limits["latency"]
            if not unused or chosen == before:
                break
        before = chosen
    # Close above a limit on what is measured is near enough: whoever can, measures the whole network next.
    chosen = chosen if accepted is None else accepted
    if not all(map(allowed, chosen.values())):
        raise PlanError(
            f"{goal.text()} is within the noise of the times: in {OPTIONS.choices} choices some variant was predicted "
            "to be faster than its layer and was not; raise the limit a little, or run again on a quieter machine"
        )
    found = candidates()
    front = []
    for weight in OPTIONS.pareto_weights:  # without the limits
        best = choose(found, trade_off(problem, len(dense), weight), {})
        if best is not None:
            # The penalty on estimates decides which they are; the figure shown is the estimate itself.
            predicted = {
                name: _candidate(problem, own.variant, errors.get(own.variant, 0.0)) for name, own in best.items()
            }
            front.append(_point(problem, dense, predicted))
    kept = [name for name, candidate in chosen.items() if candidate.variant.method == KEEP]
    return Solution(
        chosen,
        dense,
        {name: _why_unprofitable(problem, dense[name], variants[name]) for name in kept},
        _point(problem, dense, dense),
        _point(problem, dense, chosen),
        tuple(dict.fromkeys(front)),
    )


def _measure(problem: PlanningProblem, variants: Collection[LayerVariant], what: str) -> None:
    problem.costs.measure(variants, lambda done, total, layer: problem.progress(what, done, total, layer))


def _candidate(problem: PlanningProblem, variant: LayerVariant, error: float) -> Candidate:
    cost = variant_cost(problem.survey, variant)
    loss = problem.losses.loss(variant.layer, error) if error else 0.0
    return Candidate(variant, cost.parameters, cost.macs, problem.costs.cost(variant), loss, error)


def _candidates(
    problem: PlanningProblem, dense: Candidate, variants: Sequence[LayerVariant], errors: Mapping[LayerVariant, float]
) -> list[Candidate]:
    """The layer itself and the variants that may be taken and are not beaten by another in every quantity."""
    found = [_candidate(problem, variant, errors[variant]) for variant in variants]
    exact = {variant for variant in variants if problem.exactly_known(variant)}
    if exact:
        penalty = OPTIONS.estimate_penalty
        found = [one if one.variant in exact else replace(one, loss=penalty * one.loss) for one in found]
    found = [candidate for candidate in found if _allowed(problem, candidate, dense)]
    return undominated([dense, *found], ("params", "macs", "latency", "loss"))


def _allowed(problem: PlanningProblem, candidate: Candidate, dense: Candidate) -> bool:
    faster = candidate.latency * problem.required_speedup <= OPTIONS.faster * dense.latency
    return not problem.keep_every_layer and (problem.goal.layers_may_be_slower or faster)


def weigh(problem: PlanningProblem, candidates: Candidates, limits: Mapping[str, float]) -> Weights:
    """The objective: loss first where something else is limited; size and time where it is; a trade by default."""
    traded = trade_off(problem, len(candidates), 1.0)
    if "drop" in problem.goal.limits:
        return {**traded, "loss": OPTIONS.loss_of_drop * traded["loss"]}
    if not problem.goal.limits:
        return traded
    negligible = OPTIONS.negligible_loss * most(candidates, "loss")
    lowest = max(least(candidates, "loss", limits), negligible, sys.float_info.min)
    return {**trade_off(problem, len(candidates), OPTIONS.tie), "loss": 1 / lowest}


def trade_off(problem: PlanningProblem, layers: int, weight: float) -> Weights:
    """An objective in which `weight` is that of the mean fraction of parameters and time left, beside the mean loss."""
    return {
        "loss": 1 / max(1, layers),
        "params": weight / 2 / max(1, problem.survey.parameters),
        "latency": weight / 2 / max(problem.costs.network(), 1e-9),
    }


def _point(problem: PlanningProblem, dense: Mapping[str, Candidate], chosen: Mapping[str, Candidate]) -> Point:
    survey, costs = problem.survey, problem.costs
    loss = total(chosen, "loss")
    time = costs.network() - total(dense, "latency") + total(chosen, "latency")
    if any(candidate.variant.method != KEEP for candidate in chosen.values()):
        time += problem.latency_offset
    return Point(
        parameters=round(survey.parameters - total(dense, "params") + total(chosen, "params")),
        macs=round(survey.macs - total(dense, "macs") + total(chosen, "macs")),
        ms=time if costs.unit == "ms" else None,
        loss=loss,
        drop=problem.losses.drop(loss),
    )


def _why_unprofitable(problem: PlanningProblem, dense: Candidate, variants: Sequence[LayerVariant]) -> str:
    """The reason why a free layer is kept: no variant is faster, or what it saves is not worth its loss."""
    if problem.keep_every_layer:
        return f"no network that was planned kept {problem.goal.text()} when measured"
    fastest = min((problem.costs.cost(variant) for variant in variants), default=dense.latency)
    if problem.goal.layers_may_be_slower or fastest * problem.required_speedup <= OPTIONS.faster * dense.latency:
        return "not worth its loss"
    what = "instructions" if problem.costs.unit == "instructions" else "counted work"
    text = f"{fastest / 1e6:.2f}M against {dense.latency / 1e6:.2f}M {what}"
    if problem.costs.unit == "ms":
        times = (f"{time:.2f} ms" if time >= 0.1 else f"{1000 * time:.0f} us" for time in (fastest, dense.latency))
        text = " against ".join(times)
    return f"would be slower ({text})" if fastest > dense.latency else f"would hardly be faster ({text})"


def unreachable(
    problem: PlanningProblem, candidates: Candidates, limits: Mapping[str, float], dense: Mapping[str, Candidate]
) -> PlanError:
    """The error that says which limit binds: what each can come down to while the others hold, and alone."""
    reached, implied = [], problem.goal.layers_may_be_slower and "latency" in limits
    for quantity in limits:
        if implied and quantity == "latency":
            continue
        others = {name: limit for name, limit in limits.items() if name != quantity}
        weights = {quantity: 1 / max(1e-12, total(dense, quantity) or 1.0)}
        nearest = choose(candidates, weights, others)
        alone = nearest or choose(candidates, weights, {})
        assert alone is not None  # every layer has a candidate, and nothing is limited
        figure = _reached(problem, quantity, total(alone, quantity), dense)
        with_others = " with the other limits" if others and nearest is not None else ""
        if implied and nearest is not None:
            with_others = " of what is not slower" if len(others) == 1 else f"{with_others}, and not slower"
        reached.append(f"{figure} is the least{with_others}")
    together = " together" if len(problem.goal.limits) > 1 else ""
    cure = "raise the limit, allow more --methods, or keep fewer layers"
    return PlanError(f"{problem.goal.text()} cannot be met{together}: {'; '.join(reached)}; {cure}")


def _reached(problem: PlanningProblem, quantity: str, left: float, dense: Mapping[str, Candidate]) -> str:
    """A sum over the free layers as the figure of the whole network, in the words of its limit."""
    survey, costs = problem.survey, problem.costs
    if quantity == "params":
        count = survey.parameters - total(dense, quantity) + left
        if "size" in problem.goal.limits and "params" not in problem.goal.limits:
            before, layers = file_bytes(survey.parameters, len(survey.layers)), len(survey.layers)
            after = file_bytes(count, layers, problem.goal.dtype)
            return f"max-size {after / 1e6:.2f}MB ({after / before:.3f}x)"
        return f"max-params {count:,.0f} ({count / survey.parameters:.3f}x)"
    if quantity == "macs":
        macs = survey.macs - total(dense, quantity) + left
        return f"max-macs {macs / 1e6:.1f}M ({macs / survey.macs:.3f}x)"
    if quantity == "latency":
        time = costs.network() - total(dense, quantity) + left + problem.latency_offset
        figure = f"{time:.3g}ms " if costs.unit == "ms" else ""
        return f"max-latency {figure}({time / costs.network():.3f}x, as predicted)"
    return f"max-drop {problem.losses.drop(left):.2f}%"
