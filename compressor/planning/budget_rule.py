"""The rule "budget": method and rank of each layer so that the predicted loss is least within the limits."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from compressor.layer_shape import PlanError
from compressor.plan import KEEP, Point
from compressor.planning.candidates import Problem, anchors, free_layers, trade_off, variants_of, weigh
from compressor.planning.cost_model import CostModel, LayerVariant, variant_cost
from compressor.planning.knapsack import Option, Options, choose, total, undominated
from compressor.planning.limits import Limit

BYTES = 4
"""Of a parameter in a float32 file."""


FILE_SHARE, FILE_BYTES, FILE_BYTES_OF_LAYER = 1.005, 60_000, 12_000
"""A file's bytes over those of its parameters: graph and tables of eleven networks in three formats stay below it."""


LEAST = 0.2
"""Measured on two small networks that were cut hard: 0.22 (AlexNet at 64x64) and 0.23 (six layers at 32x32)."""


def bounds(problem: Problem, dense: Mapping[str, Option]) -> dict[str, float]:
    """What the free layers may sum up to in each quantity that is limited."""
    survey, costs = problem.survey, problem.costs
    given = problem.goal.limits
    whole = {"params": float(survey.parameters), "macs": float(survey.macs), "latency": costs.network()}
    limits = {}
    for quantity, limit in given.items():
        if quantity in whole:
            _refuse_without_device(costs, quantity, limit)
            most, free = limit.most(whole[quantity]), total(dense, quantity)
            if quantity == "latency":
                limits[quantity] = layers_within(most - problem.correction, whole[quantity], free)
            else:
                limits[quantity] = most - (whole[quantity] - free)
        elif quantity == "size":
            most = limit.most(file_bytes(survey.parameters, len(survey.layers)))
            graph = file_bytes(0, len(survey.layers))
            left = (most - graph) / FILE_SHARE / BYTES - (survey.parameters - total(dense, "params"))
            limits["params"] = min(left, limits.get("params", left))
        else:
            loss = problem.losses.loss_at(limit.amount)
            if loss is None:
                raise PlanError("--max-drop is measured, and there is no data to measure with: pass --data")
            limits["loss"] = loss
    return {quantity: limit for quantity, limit in limits.items() if limit < math.inf}


def network_time(network: float, dense: float, chosen: float) -> float:
    """What a network takes whose layers take `chosen` in place of `dense`, measured one by one: the rest of it stays.

    Layers alone take longer than within a small network: each brings the edges of a file of its own, and weights that
    are not in a cache. What they save is saved all the same. Where they sum up to more than the network, this could
    leave nothing of it, so it is never less than LEAST of what a network would take that changes as its layers do.
    """
    saved = network - dense + chosen
    return saved if dense <= network else max(saved, LEAST * network * chosen / dense)


def layers_within(most: float, network: float, dense: float) -> float:
    """What the layers may take, measured one by one, for `network_time` to be `most`."""
    left = most - network + dense
    return left if dense <= network else min(left, most * dense / (LEAST * network))


def _refuse_without_device(costs: CostModel, quantity: str, limit: Limit) -> None:
    if quantity == "latency" and costs.unit != "ms" and not limit.share:
        raise PlanError(
            f"--max-latency {limit.text} needs times, and costs are {costs.source}; pass --costs measured, or a share "
            "such as 0.5x"
        )


def file_bytes(parameters: float, layers: int) -> float:
    """Bytes that a float32 file of a network takes at most."""
    return parameters * BYTES * FILE_SHARE + FILE_BYTES + FILE_BYTES_OF_LAYER * layers


def unreachable(
    problem: Problem, options: Options, limits: Mapping[str, float], dense: Mapping[str, Option]
) -> PlanError:
    """Which limit binds: what each can come down to while the others hold, and alone."""
    said = []
    for quantity in limits:
        others = {name: limit for name, limit in limits.items() if name != quantity}
        weights = {quantity: 1 / max(1e-12, total(dense, quantity) or 1.0)}
        nearest = choose(options, weights, others)
        alone = nearest or choose(options, weights, {})
        assert alone is not None  # every layer has an option, and nothing is limited
        figure = _reached(problem, quantity, total(alone, quantity), dense)
        with_others = " with the other limits" if others and nearest is not None else ""
        said.append(f"{figure} is the least{with_others}")
    asked = problem.goal.text()
    together = " together" if len(problem.goal.limits) > 1 else ""
    cure = "raise the limit, allow more --methods, or keep fewer layers"
    return PlanError(f"{asked} cannot be met{together}: {'; '.join(said)}; {cure}")


def _reached(problem: Problem, quantity: str, left: float, dense: Mapping[str, Option]) -> str:
    """A sum over the free layers as the figure of the whole network, in the words of its limit."""
    survey, costs = problem.survey, problem.costs
    if quantity == "params":
        count = survey.parameters - total(dense, quantity) + left
        if "size" in problem.goal.limits and "params" not in problem.goal.limits:
            before, after = (file_bytes(number, len(survey.layers)) for number in (survey.parameters, count))
            return f"max-size {after / 1e6:.2f}MB ({after / before:.3f}x)"
        return f"max-params {count:,.0f} ({count / survey.parameters:.3f}x)"
    if quantity == "macs":
        macs = survey.macs - total(dense, quantity) + left
        return f"max-macs {macs / 1e6:.1f}M ({macs / survey.macs:.3f}x)"
    if quantity == "latency":
        time = network_time(costs.network(), total(dense, quantity), left) + problem.correction
        figure = f"{time:.3g}ms " if costs.unit == "ms" else ""
        return f"max-latency {figure}({time / costs.network():.3f}x, as predicted)"
    return f"max-drop {problem.losses.drop(left):.2f}%"


ANCHORS = 3
"""Ranks of a layer and method whose cost is asked for first; between them it is interpolated."""


ROUNDS = 6
"""How often variants are chosen, measured exactly and, where they then miss a limit, chosen again."""


SLACK = 1.03
"""How far exact times and losses may lie above a limit that interpolated ones kept: what is bounded is near enough."""


FASTER = 0.97
"""A variant counts as faster when it takes at most this share of the layer's time: less is within the noise."""


DOUBT = 1.15
"""What an estimated loss counts beside exact ones of the same layer: estimates are off by up to an eighth, and whoever
always followed the most hopeful would never choose the same plan twice."""


PARETO_WEIGHTS = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Weights of size and time against the loss at which the pareto_front's points lie."""


@dataclass(frozen=True)
class Solution:
    """The option chosen for each layer (kept ones included), why layers stay, and where the whole network lies."""

    chosen: Mapping[str, Option]
    dense: Mapping[str, Option]
    kept: Mapping[str, str]
    original: Point
    point: Point
    pareto_front: tuple[Point, ...] = field(default=())


def solve(problem: Problem) -> Solution:
    """The best choice for the goal. PlanError where its limits cannot be met together, with what can be reached."""
    survey = problem.survey
    layers = free_layers(survey, problem.goal)
    candidates_by_layer = {layer.name: variants_of(layer, problem) for layer in layers}
    first = [LayerVariant(layer.name) for layer in survey.layers if layer.calls]
    for variants in candidates_by_layer.values():
        for method in dict.fromkeys(variant.method for variant in variants):
            first += _anchors(variants, method)
    _measure(problem, first, "Timing layers")
    problem.progress("Timing the whole network", 0, 1, "")
    problem.costs.network()  # before any cost is read: a model may set its layers' costs against the network's
    dense = {layer.name: _option(problem, LayerVariant(layer.name), 0.0) for layer in layers}
    errors = _errors(problem, candidates_by_layer)
    limits = bounds(problem, dense)
    for _ in range(ROUNDS):
        options = {
            name: _options(problem, dense[name], variants, errors) for name, variants in candidates_by_layer.items()
        }
        chosen = _best(problem, options, limits, dense)
        chosen = _exactly(problem, chosen, errors)
        if _keeps(problem, chosen, dense, limits):
            break
    else:
        # Close above a limit on what is measured is near enough: whoever can, measures the whole network next.
        if not all(_allowed(problem, option, dense[name]) for name, option in chosen.items()):
            raise PlanError(
                f"{problem.goal.text()} is within the noise of the times: in {ROUNDS} choices some variant was "
                "predicted to be faster than its layer and was not; raise the limit a little, or run "
                "again on a quieter machine"
            )
    options = {name: _options(problem, dense[name], variants, errors) for name, variants in candidates_by_layer.items()}
    return Solution(
        chosen,
        dense,
        {
            name: _why(problem, dense[name], candidates_by_layer[name])
            for name in chosen
            if chosen[name].variant.method == KEEP
        },
        _point(problem, dense, dense),
        _point(problem, dense, chosen),
        _pareto_front(problem, dense, options, errors),
    )


def _anchors(variants: Sequence[LayerVariant], method: str) -> list[LayerVariant]:
    """Variants of one method from the cheapest to the dearest: ranks of one number by size, pairs by their product."""
    ranks = sorted((f.rank for f in variants if f.method == method), key=lambda rank: (_product(rank), rank))
    return [LayerVariant(variants[0].layer, method, rank) for rank in anchors(tuple(ranks), ANCHORS)]


def _product(rank: tuple[int, ...]) -> int:
    product = 1
    for number in rank:
        product *= number
    return product


def _measure(problem: Problem, variants: Collection[LayerVariant], what: str) -> None:
    problem.costs.measure(variants, lambda done, total, now: problem.progress(what, done, total, now))


def _exactly(problem: Problem, chosen: Mapping[str, Option], errors: dict[LayerVariant, float]) -> dict[str, Option]:
    """The options chosen with times and errors of just these variants, which were interpolated and estimated before."""
    variants = [option.variant for option in chosen.values() if option.variant.method != KEEP]
    _measure(problem, variants, "Timing the variants chosen")
    for done, variant in enumerate(variants):
        problem.progress("Working out the variants chosen", done, len(variants), variant.layer)
        errors[variant] = problem.exact(variant)
    return {name: _option(problem, option.variant, errors.get(option.variant, 0.0)) for name, option in chosen.items()}


def _keeps(
    problem: Problem, chosen: Mapping[str, Option], dense: Mapping[str, Option], limits: Mapping[str, float]
) -> bool:
    """Whether options are within the limits, and none slower than its layer where none may be."""
    slack = {"latency": SLACK, "loss": SLACK}  # parameters and MACs are counted, not measured
    within = all(total(chosen, quantity) <= limit * slack.get(quantity, 1.0) for quantity, limit in limits.items())
    return within and all(_allowed(problem, option, dense[name]) for name, option in chosen.items())


def _allowed(problem: Problem, option: Option, dense: Option) -> bool:
    faster = option.latency <= FASTER * problem.haste * dense.latency
    return option.variant.method == KEEP or problem.goal.may_be_slower or faster


def _errors(problem: Problem, candidates_by_layer: Mapping[str, Sequence[LayerVariant]]) -> dict[LayerVariant, float]:
    errors: dict[LayerVariant, float] = {}
    for done, (name, variants) in enumerate(candidates_by_layer.items()):
        problem.progress("Working out errors", done, len(candidates_by_layer), name)
        errors |= {variant: min(1.0, problem.estimate(variant)) for variant in variants}
    return errors


def _option(problem: Problem, variant: LayerVariant, error: float) -> Option:
    cost = variant_cost(problem.survey, variant)
    loss = problem.losses.loss(variant.layer, error) if error else 0.0
    return Option(variant, cost.parameters, cost.macs, problem.costs.cost(variant), loss, error)


def _options(
    problem: Problem, dense: Option, variants: Sequence[LayerVariant], errors: Mapping[LayerVariant, float]
) -> list[Option]:
    found = [_option(problem, variant, errors[variant]) for variant in variants]
    known = {variant for variant in variants if problem.known(variant)}
    if known:
        found = [o if o.variant in known else replace(o, loss=DOUBT * o.loss) for o in found]
    found = [option for option in found if _allowed(problem, option, dense)]
    return undominated([dense, *found], ("params", "macs", "latency", "loss"))


def _best(
    problem: Problem, options: Options, limits: Mapping[str, float], dense: Mapping[str, Option]
) -> dict[str, Option]:
    found = choose(options, weigh(problem, options, limits), limits)
    if found is None:
        raise unreachable(problem, options, limits, dense)
    return found


def _point(problem: Problem, dense: Mapping[str, Option], chosen: Mapping[str, Option]) -> Point:
    survey, costs = problem.survey, problem.costs
    loss = total(chosen, "loss")
    time = network_time(costs.network(), total(dense, "latency"), total(chosen, "latency"))
    if any(option.variant.method != KEEP for option in chosen.values()):
        time += problem.correction
    return Point(
        parameters=round(survey.parameters - total(dense, "params") + total(chosen, "params")),
        macs=round(survey.macs - total(dense, "macs") + total(chosen, "macs")),
        ms=time if costs.unit == "ms" else None,
        loss=loss,
        drop=problem.losses.drop(loss),
    )


def _pareto_front(
    problem: Problem, dense: Mapping[str, Option], options: Options, errors: Mapping[LayerVariant, float]
) -> tuple[Point, ...]:
    """Networks that trade loss for size and time at other prices, without the limits; each once, the largest first.

    Doubt decides which they are; what is told of them is the estimate itself.
    """
    points = []
    for trade in PARETO_WEIGHTS:
        found = choose(options, trade_off(problem, len(dense), trade), {})
        if found is not None:
            told = {name: _option(problem, own.variant, errors.get(own.variant, 0.0)) for name, own in found.items()}
            points.append(_point(problem, dense, told))
    return tuple(dict.fromkeys(points))


def _why(problem: Problem, dense: Option, variants: Sequence[LayerVariant]) -> str:
    """Why a free layer was kept: no variant is faster, or what it saves is not worth its loss."""
    costs = problem.costs
    fastest = min((costs.cost(variant) for variant in variants), default=dense.latency)
    if problem.goal.may_be_slower or fastest <= FASTER * problem.haste * dense.latency:
        return "not worth its loss"
    text = f"{fastest / 1e6:.2f}M against {dense.latency / 1e6:.2f}M counted work"
    if costs.unit == "ms":
        text = f"{_ms(fastest)} against {_ms(dense.latency)}"
    return f"would be slower ({text})" if fastest > dense.latency else f"would hardly be faster ({text})"


def _ms(time: float) -> str:
    return f"{time:.2f} ms" if time >= 0.1 else f"{1000 * time:.0f} us"
