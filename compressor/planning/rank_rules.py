"""Rank rules with a method for each kind of layer: equal errors, sensitivity (Astrid & Lee 2017), EVBMF (Kim 2016)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from compressor.decompositions.methods import METHODS, default_method
from compressor.layer_shape import Cost, LayerShape, PlanError, Rank, dense_cost
from compressor.layers import find_layer, split_kernels
from compressor.plan import KEEP, LayerPlan, LayerVariant
from compressor.planning import cost_model
from compressor.planning.cost_model import calls_of
from compressor.planning.goal import Goal, PlanningProblem
from compressor.planning.limits import Limit
from compressor.planning.options import OPTIONS
from compressor.planning.vbmf import evbmf_rank
from compressor.survey import LayerCost, Survey

Concern = Literal["parameters", "work"]
Ranks = dict[str, int | None]
"""Rank of each layer, for one group; None keeps the layer."""

BY_USER = "asked for by --keep-layers"
TOO_COSTLY = "factors would cost more than the layer at any rank"


def price(cost: Cost, concern: Concern) -> int:
    """Cost of a layer: its parameters, or the work predicted for it (MACs plus activation and weight traffic)."""
    return cost.parameters if concern == "parameters" else cost_model.price(cost)


@dataclass(frozen=True)
class FactorableLayer:
    """A layer that may be factored: by which method, and up to which rank that still pays (its break-even)."""

    name: str
    shape: LayerShape
    method: str
    break_even: int

    def parameters(self, rank: int | None) -> int:
        """Parameters of the factors at a rank, or of the layer itself (None)."""
        if rank is None:
            return dense_cost(self.shape).parameters
        return METHODS[self.method].cost(self.shape, (rank,)).parameters


def break_even(shape: LayerShape, method: str, concern: Concern) -> int:
    """The largest rank (for each group) at which the factors pay, 0 where not even rank 1 does.

    They pay when they have fewer parameters than the layer and, if the concern is work, less work too.
    """
    dense = dense_cost(shape)
    low, high = 0, METHODS[method].full_rank(shape)[0]
    while low < high:
        middle = (low + high + 1) // 2
        cost = METHODS[method].cost(shape, (middle,))
        if cost.parameters < dense.parameters and price(cost, concern) < price(dense, concern):
            low = middle
        else:
            high = middle - 1
    return low


def in_proportion(layers: Mapping[str, FactorableLayer], weights: Mapping[str, float], limit: int) -> Ranks:
    """Ranks in proportion to `weights` (Astrid & Lee 2017, section 3.3), as large as `limit` parameters allow.

    A layer whose rank would exceed its break-even is kept (None): its factors would cost more than it does, and what
    it does not need raises the others. PlanError if rank 1 everywhere exceeds the limit.
    """
    whole = sum(weights.values())

    def ranks(total: float) -> Ranks:
        wanted = {name: max(1, int(total * weights[name] / whole)) for name in layers}
        return {name: rank if rank <= layers[name].break_even else None for name, rank in wanted.items()}

    def parameters(total: float) -> int:
        return sum(layers[name].parameters(rank) for name, rank in ranks(total).items())

    if parameters(0.0) > limit:
        raise unreachable(limit, parameters(0.0))
    low, high = 0.0, max((whole * (c.break_even + 1) / weights[name] for name, c in layers.items()), default=0.0)
    if parameters(high) <= limit:
        return ranks(high)
    for _ in range(OPTIONS.proportion_halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if parameters(middle) <= limit else (low, middle)
    return ranks(low)


def unreachable(limit: int, least: int) -> PlanError:
    """The error for a limit below what rank 1 in every layer leaves."""
    return PlanError(
        f"{limit:,} parameters are not enough: rank 1 in every layer that may be factored leaves {least:,}; "
        "raise --max-params, or keep fewer layers"
    )


def equal_errors(layers: Mapping[str, FactorableLayer], error: Callable[[str, Rank], float], limit: int) -> Ranks:
    """Ranks that make the relative errors of all layers equal, as small as `limit` parameters allow.

    Starts every layer at rank 1 and raises the one with the largest `error` (of a layer at a rank), so that no
    component is computed that is not used. None means: kept, because the next rank would cost more than the layer and
    the limit allows the layer. PlanError if rank 1 everywhere exceeds the limit.
    """
    ranks: dict[str, int] = dict.fromkeys(layers, 1)
    used = sum(layer.parameters(1) for layer in layers.values())
    if used > limit:
        raise unreachable(limit, used)
    errors = {name: error(name, (1,)) for name in layers}
    kept: Ranks = {}
    while errors:
        name = max(errors, key=errors.__getitem__)
        layer, rank = layers[name], ranks[name]
        if errors[name] == 0.0:
            break
        left = limit - used + layer.parameters(rank)
        if rank == layer.break_even:
            if layer.parameters(None) <= left:
                used += layer.parameters(None) - layer.parameters(rank)
                kept[name] = None
            del errors[name]
            continue
        larger = min(rank + max(1, rank // OPTIONS.rank_step), layer.break_even)
        while larger > rank and layer.parameters(larger) > left:
            larger -= 1
        if larger == rank:
            del errors[name]
            continue
        used += layer.parameters(larger) - layer.parameters(rank)
        ranks[name] = larger
        errors[name] = error(name, (larger,))
    return {**ranks, **kept}


def sensitivity(layers: Mapping[str, FactorableLayer], drops: Mapping[str, float], limit: int) -> Ranks:
    """Ranks in proportion to the accuracy lost at a small rank, in two pools (Astrid & Lee 2017).

    Convolutions and fully connected layers each get the same fraction of their own parameters; what the convolutions
    leave goes to the fully connected ones, rank 1 in each at least.
    """
    fraction = limit / max(1, sum(layer.parameters(None) for layer in layers.values()))
    ranks: Ranks = {}
    left = limit
    for kind in ("conv", "linear"):
        pool = {name: layer for name, layer in layers.items() if layer.shape.kind == kind}
        dense = sum(layer.parameters(None) for layer in pool.values())
        least = sum(layer.parameters(1) for layer in pool.values())
        others = sum(one.parameters(1) for name, one in layers.items() if name not in pool and name not in ranks)
        own = min(max(least, int(fraction * dense)), left - others) if others else left
        ranks |= in_proportion(pool, drops, own)
        left = limit - sum(layers[name].parameters(rank) for name, rank in ranks.items())
    return ranks


LIMIT_RULES = ("equal-error", "sensitivity")
"""Rules that give as high ranks as a limit on the parameters allows."""


def concern(goal: Goal) -> Concern:
    """The cost that a layer's factors must lower: its parameters where they are limited, else its predicted work."""
    return "work" if goal.max_params is None else "parameters"


def factorable_layers(survey: Survey, goal: Goal) -> dict[str, FactorableLayer]:
    """The layers that may be factored: not to be kept, and cheaper factored at rank 1 at least."""
    found = {}
    for layer in survey.layers:
        if layer.must_keep is None and layer.name not in goal.keep_layers:
            method = method_of(layer, goal)
            most = 0
            if METHODS[method].supports(layer.shape) is None:
                most = break_even(layer.shape, method, concern(goal))
            if most:
                found[layer.name] = FactorableLayer(layer.name, layer.shape, method, most)
    return found


def method_of(layer: LayerCost, goal: Goal) -> str:
    """The first of the rule's methods that fits the layer; where none does, the one whose refusal is told."""
    fits = (method for method in goal.rule_methods if METHODS[method].supports(layer.shape) is None)
    default = default_method(layer.shape)
    return next(fits, default if default in goal.rule_methods else goal.rule_methods[0])


def check_limit(survey: Survey, goal: Goal) -> int:
    """Parameters that the layers to be factored may have together.

    PlanError where the layers that stay leave nothing, or where even rank 1 everywhere exceeds the goal's limit.
    """
    layers = factorable_layers(survey, goal)
    others = survey.parameters - sum(layer.parameters(None) for layer in layers.values())
    default = Limit(f"{OPTIONS.default_params}x", OPTIONS.default_params, True)
    limit = int(goal.limits.get("params", default).most(survey.parameters))
    if others >= limit:
        raise PlanError(
            f"{limit:,} parameters are not enough: {others:,} of the {survey.parameters:,} are in layers that stay "
            "as they are; raise --max-params, or keep fewer layers"
        )
    least = sum(layer.parameters(1) for layer in layers.values())
    if least > limit - others:
        raise unreachable(limit - others, least)
    return limit - others


def rows_by_limit(problem: PlanningProblem) -> list[LayerPlan]:
    """A row for each layer by one of LIMIT_RULES."""
    survey, goal, drops = problem.survey, problem.goal, problem.drops
    limit = check_limit(survey, goal)
    layers = factorable_layers(survey, goal)
    errors: dict[tuple[str, Rank], float] = {}

    def error(name: str, rank: Rank) -> float:
        if (name, rank) not in errors:
            errors[name, rank] = problem.error(LayerVariant(name, layers[name].method, rank))
        return errors[name, rank]

    if goal.rule == "sensitivity":
        ranks = sensitivity(layers, _measured(drops), limit)
    else:
        ranks = equal_errors(layers, error, limit)
    rows = []
    for layer in survey.layers:
        factorable, rank = layers.get(layer.name), ranks.get(layer.name)
        if factorable is None:
            rows.append(kept(layer, _why_not_factorable(layer, goal)))
        elif rank is None:
            unit = "parameters" if concern(goal) == "parameters" else "predicted work or parameters"
            cause = f"above rank {factorable.break_even} its factors would cost more {unit} than the layer"
            rows.append(kept(layer, f"{cause}, and it needs more"))
        else:
            reason = "same error as all"
            if goal.rule == "sensitivity" and drops is not None:
                reason = f"lost {drops[layer.name]:.2f} points of top-1 when compressed alone"
            known = errors.get((layer.name, (rank,)))
            rows.append(LayerPlan(layer.name, layer.weight, factorable.method, (rank,), reason, known))
    return rows


def _measured(drops: Mapping[str, float] | None) -> Mapping[str, float]:
    if drops is None:
        raise PlanError("the rule sensitivity needs data to measure with: pass --data, or another plan.rank_rule")
    return drops


def _why_not_factorable(layer: LayerCost, goal: Goal) -> str:
    reason = _to_be_kept(layer, goal)
    method = method_of(layer, goal)
    reason = reason or METHODS[method].supports(layer.shape)
    if reason is not None:
        return reason
    factors, dense = METHODS[method].cost(layer.shape, (1,)), dense_cost(layer.shape)
    costs = f"{factors.parameters:,} against {dense.parameters:,} parameters"
    if factors.parameters < dense.parameters:
        work, before = price(factors, concern(goal)), price(dense, concern(goal))
        costs = f"{work / 1e6:.2f}M against {before / 1e6:.2f}M predicted work"
    return f"{TOO_COSTLY} ({costs} at rank 1)"


def _to_be_kept(layer: LayerCost, goal: Goal) -> str | None:
    return layer.must_keep or (BY_USER if layer.name in goal.keep_layers else None)


def rows_by_vbmf(problem: PlanningProblem) -> list[LayerPlan]:
    """A row for each layer as Kim et al. 2016 do it: Tucker-2 for windows and the SVD for the rest, at EVBMF's ranks.

    A grouped layer takes the largest rank of its groups. Where no component stands out of the noise, rank 1.
    """
    rows = []
    for layer in problem.survey.layers:
        variant = _to_be_kept(layer, problem.goal) or vbmf_variant(problem, layer)
        if isinstance(variant, str):
            rows.append(kept(layer, variant))
            continue
        factors, dense = METHODS[variant.method].cost(layer.shape, variant.rank), dense_cost(layer.shape)
        if factors.parameters >= dense.parameters:
            text = "x".join(map(str, variant.rank))
            rows.append(kept(layer, f"at its EVBMF rank {text} factors would not be smaller than the layer"))
        else:
            rows.append(LayerPlan(layer.name, layer.weight, variant.method, variant.rank, "rank by EVBMF"))
    return rows


def vbmf_variant(problem: PlanningProblem, layer: LayerCost) -> LayerVariant | str:
    """The layer's method and EVBMF rank, or why it has none."""
    method = "tucker" if default_method(layer.shape) == "cp" else "svd"
    refusal = METHODS[method].supports(layer.shape)
    if refusal is not None:
        return refusal
    kernels = split_kernels(find_layer(problem.network, layer.name))
    if method == "svd":
        ranks: list[Rank] = [(evbmf_rank(kernel.flatten(1)),) for kernel in kernels]
    else:
        ranks = [(evbmf_rank(k.transpose(0, 1).flatten(1)), evbmf_rank(k.flatten(1))) for k in kernels]
    largest = (max(of_groups) for of_groups in zip(*ranks, strict=True))
    full = METHODS[method].full_rank(layer.shape)
    rank = tuple(min(most, max(1, own)) for most, own in zip(full, largest, strict=True))
    return LayerVariant(layer.name, method, rank)


def kept(layer: LayerCost, reason: str) -> LayerPlan:
    """The row of a layer that stays as it is, and why."""
    return LayerPlan(layer.name, layer.weight, KEEP, (), f"kept: {reason}")


@dataclass(frozen=True)
class ScaledRanks:
    """One layer's method, and its ranks before a common factor scales them."""

    layer: LayerCost
    method: str
    ranks: tuple[float, ...]

    def at(self, factor: float) -> Rank:
        full = METHODS[self.method].full_rank(self.layer.shape)
        return tuple(min(most, max(1, round(factor * rank))) for most, rank in zip(full, self.ranks, strict=True))

    def cheaper(self, factor: float) -> Cost | None:
        """Cost of one call of the factors, None where the layer as it is costs no more MACs."""
        cost = METHODS[self.method].cost(self.layer.shape, self.at(factor))
        return cost if cost.macs < dense_cost(self.layer.shape).macs else None

    def macs(self, factor: float) -> int:
        """MACs for one image, all calls of the layer together."""
        cost = self.cheaper(factor)
        return self.layer.cost.macs if cost is None else round(calls_of(self.layer) * cost.macs)


def rows_by_macs(problem: PlanningProblem) -> list[LayerPlan]:
    """A row for each layer by the rule "sensitivity" (ranks in proportion to the drops) or "vbmf", within max_macs.

    The ranks are as large as the limit allows. PlanError where rank 1 everywhere exceeds it, or nothing was measured.
    """
    survey, goal = problem.survey, problem.goal
    scaled = {layer.name: _scaled_ranks(problem, layer) for layer in survey.layers}
    free = [one for one in scaled.values() if isinstance(one, ScaledRanks)]
    most = goal.limits["macs"].most(survey.macs)
    left = most - survey.macs + sum(one.layer.cost.macs for one in free)
    least = sum(one.macs(0.0) for one in free)
    if least > left:
        raise PlanError(
            f"max-macs {goal.limits['macs'].text} cannot be met by the rule {goal.rule}: at rank 1 in every layer "
            f"{least + int(most - left):,} MACs are left; raise the limit"
        )
    largest = [
        full / rank
        for one in free
        for full, rank in zip(METHODS[one.method].full_rank(one.layer.shape), one.ranks, strict=True)
    ]
    low, high = 0.0, max(largest, default=1.0)
    for _ in range(OPTIONS.scale_halvings):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(one.macs(middle) for one in free) <= left else (low, middle)
    rows = []
    for layer in survey.layers:
        own = scaled[layer.name]
        if isinstance(own, str):
            rows.append(kept(layer, own))
        elif own.cheaper(low) is None:
            rows.append(kept(layer, "at its part of the ranks factors would not have fewer MACs than the layer"))
        else:
            reason = f"rank by {goal.rule}, scaled to the limit"
            rows.append(LayerPlan(layer.name, layer.weight, own.method, own.at(low), reason))
    return rows


def _scaled_ranks(problem: PlanningProblem, layer: LayerCost) -> ScaledRanks | str:
    """The layer's ranks before scaling, or why it is kept."""
    goal = problem.goal
    reason = _to_be_kept(layer, goal)
    if reason is not None:
        return reason
    if goal.rule == "vbmf":
        variant = vbmf_variant(problem, layer)
        return variant if isinstance(variant, str) else ScaledRanks(layer, variant.method, variant.rank)
    drops = _measured(problem.drops)
    method = method_of(layer, goal)
    refusal = METHODS[method].supports(layer.shape)
    if refusal is not None or layer.name not in drops:
        return refusal or TOO_COSTLY
    return ScaledRanks(layer, method, (drops[layer.name],))
