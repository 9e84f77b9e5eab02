"""Rank rules that give every layer a variant of its kind: equal errors, sensitivity as in the paper, EVBMF."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

from torch import nn

from compressor.decompositions.methods import METHODS, default_method
from compressor.layer_shape import Cost, LayerShape, PlanError, Rank, dense_cost
from compressor.layers import find_layer, split_kernels
from compressor.plan import KEEP, LayerPlan
from compressor.planning import cost_model
from compressor.planning.cost_model import LayerVariant, calls_of
from compressor.planning.goal import Goal
from compressor.planning.limits import Limit
from compressor.planning.vbmf import evbmf_rank
from compressor.survey import LayerCost, Survey

Concern = Literal["parameters", "work"]


Ranks = dict[str, int | None]
"""Rank of each layer, for one group; None keeps the layer."""


def price(cost: Cost, concern: Concern) -> int:
    """What a layer costs: its parameters, or the work predicted for it (MACs plus activation and weight traffic)."""
    return cost.parameters if concern == "parameters" else cost_model.price(cost)


@dataclass(frozen=True)
class Candidate:
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


def in_proportion(candidates: Mapping[str, Candidate], shares: Mapping[str, float], limit: int) -> Ranks:
    """Ranks in proportion to `shares` (Astrid & Lee 2017, section 3.3), as large as `limit` parameters allow.

    A layer whose share exceeds its break-even is kept (None): its factors would cost more than it does, and what it
    does not need raises the others. PlanError if rank 1 everywhere exceeds the limit.
    """
    whole = sum(shares.values())

    def ranks(total: float) -> Ranks:
        wanted = {name: max(1, int(total * shares[name] / whole)) for name in candidates}
        return {name: rank if rank <= candidates[name].break_even else None for name, rank in wanted.items()}

    def parameters(total: float) -> int:
        return sum(candidates[name].parameters(rank) for name, rank in ranks(total).items())

    if parameters(0.0) > limit:
        raise unreachable(limit, parameters(0.0))
    low, high = 0.0, max((whole * (c.break_even + 1) / shares[name] for name, c in candidates.items()), default=0.0)
    if parameters(high) <= limit:
        return ranks(high)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if parameters(middle) <= limit else (low, middle)
    return ranks(low)


def unreachable(limit: int, least: int) -> PlanError:
    """The error for a limit below what rank 1 in every layer leaves."""
    return PlanError(
        f"{limit:,} parameters are not enough: rank 1 in every layer that may be factored leaves {least:,}; "
        "raise --max-params, or keep fewer layers"
    )


@dataclass(frozen=True)
class ErrorCurve:
    """A candidate with the relative weight error that it has at a rank."""

    candidate: Candidate
    error: Callable[[Rank], float]


def equal_errors(candidates_by_layer: Mapping[str, ErrorCurve], limit: int) -> Ranks:
    """Ranks that make the relative errors of all layers equal, as small as `limit` parameters allow.

    Starts every layer at rank 1 and raises the one with the largest error, so that no component is computed that is
    not used. None means: kept, because the next rank would cost more than the layer and the limit allows the layer.
    PlanError if rank 1 everywhere exceeds the limit.
    """
    ranks = dict.fromkeys(candidates_by_layer, 1)
    used = sum(candidate_ranks.candidate.parameters(1) for candidate_ranks in candidates_by_layer.values())
    if used > limit:
        raise unreachable(limit, used)
    errors = {name: candidate_ranks.error((1,)) for name, candidate_ranks in candidates_by_layer.items()}
    kept: Ranks = {}
    while errors:
        name = max(errors, key=errors.__getitem__)
        candidate, rank = candidates_by_layer[name].candidate, ranks[name]
        if errors[name] == 0.0:
            break
        left = limit - used + candidate.parameters(rank)
        if rank == candidate.break_even:
            if candidate.parameters(None) <= left:
                used += candidate.parameters(None) - candidate.parameters(rank)
                kept[name] = None
            del errors[name]
            continue
        larger = _affordable(candidate, rank, left)
        if larger == rank:
            del errors[name]
            continue
        used += candidate.parameters(larger) - candidate.parameters(rank)
        ranks[name] = larger
        errors[name] = candidates_by_layer[name].error((larger,))
    return {**ranks, **kept}


def _affordable(candidate: Candidate, rank: int, left: int) -> int:
    """The rank one step (a sixteenth) above `rank`, or as far as `left` parameters and the break-even allow."""
    larger = min(rank + max(1, rank // 16), candidate.break_even)
    while larger > rank and candidate.parameters(larger) > left:
        larger -= 1
    return larger


STEPS = 40
"""Halvings of the interval in which the common factor lies: far finer than ranks are."""


@dataclass(frozen=True)
class Share:
    """One layer's method, and its ranks before they are scaled."""

    layer: LayerCost
    method: str
    ranks: tuple[float, ...]

    def at(self, factor: float) -> Rank:
        full = METHODS[self.method].full_rank(self.layer.shape)
        return tuple(min(most, max(1, round(factor * rank))) for most, rank in zip(full, self.ranks, strict=True))

    def cheaper(self, factor: float) -> Cost | None:
        """What one call of the factors costs, None where the layer as it is costs no more MACs."""
        cost = METHODS[self.method].cost(self.layer.shape, self.at(factor))
        return cost if cost.macs < dense_cost(self.layer.shape).macs else None

    def macs(self, factor: float) -> int:
        """MACs for one image, all calls of the layer together."""
        cost = self.cheaper(factor)
        return self.layer.cost.macs if cost is None else round(calls_of(self.layer) * cost.macs)


def rows_by_macs(network: nn.Module, survey: Survey, goal: Goal, drops: Mapping[str, float] | None) -> list[LayerPlan]:
    """A row for each layer by the rule "sensitivity" (ranks in proportion to the drops) or "vbmf", within max_macs.

    The ranks are as large as the limit allows. PlanError where rank 1 everywhere exceeds it, or nothing was measured.
    """
    shares = {layer.name: _share(network, layer, goal, drops) for layer in survey.layers}
    free = [share for share in shares.values() if isinstance(share, Share)]
    most = goal.limits["macs"].most(survey.macs)
    left = most - survey.macs + sum(share.layer.cost.macs for share in free)
    least = sum(share.macs(0.0) for share in free)
    if least > left:
        raise PlanError(
            f"max-macs {goal.limits['macs'].text} cannot be met by the rule {goal.rule}: at rank 1 in every layer "
            f"{least + int(most - left):,} MACs are left; raise the limit"
        )
    low, high = 0.0, max((full / rank for s in free for full, rank in _pairs(s)), default=1.0)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(share.macs(middle) for share in free) <= left else (low, middle)
    return [_row(layer, shares[layer.name], low, goal.rule) for layer in survey.layers]


def _pairs(share: Share) -> list[tuple[int, float]]:
    return list(zip(METHODS[share.method].full_rank(share.layer.shape), share.ranks, strict=True))


def _share(network: nn.Module, layer: LayerCost, goal: Goal, drops: Mapping[str, float] | None) -> Share | str:
    """The layer's ranks before scaling, or why it is kept."""
    why = layer.must_keep or ("asked for by --keep-layers" if layer.name in goal.keep_layers else None)
    if why is not None:
        return why
    if goal.rule == "vbmf":
        found = vbmf_variant(network, layer)
        return found if isinstance(found, str) else Share(layer, found[0], tuple(map(float, found[1])))
    if drops is None:
        raise PlanError("the rule sensitivity needs data to measure with: pass --data, or another --rank-rule")
    method = method_of(layer, goal)
    refused = METHODS[method].supports(layer.shape)
    if refused is not None or layer.name not in drops:
        return refused or "factors would cost more than the layer at any rank"
    return Share(layer, method, (drops[layer.name],))


def _row(layer: LayerCost, share: Share | str, factor: float, rule: str) -> LayerPlan:
    if isinstance(share, str):
        return kept(layer, share)
    if share.cheaper(factor) is None:
        return kept(layer, "at its share of the ranks factors would not have fewer MACs than the layer")
    return LayerPlan(layer.name, layer.weight, share.method, share.at(factor), f"rank by {rule}, scaled to the limit")


DEFAULT_LIMIT = Limit("0.125x", 0.125, True)
"""Share of the parameters aimed at when no limit is given: the seed paper's 1/7 with a little to spare."""


ErrorOf = Callable[[LayerVariant], float]
"""Relative error of a layer by a method at a rank, computed only when asked for."""


@dataclass(frozen=True)
class Choice:
    """What a rule for ranks chooses from: the candidates, the parameters they may have together, and the evidence.

    `error` gives the relative error of a layer at a rank; `drops` the accuracy that each layer lost when probed,
    where that was measured.
    """

    candidates: Mapping[str, Candidate]
    limit: int
    error: Callable[[str, Rank], float]
    drops: Mapping[str, float] | None


def rank_by_error(choice: Choice) -> Ranks:
    """Equal relative error in all layers."""
    candidates_by_layer = {
        name: ErrorCurve(candidate, partial(choice.error, name)) for name, candidate in choice.candidates.items()
    }
    return equal_errors(candidates_by_layer, choice.limit)


def rank_by_sensitivity(choice: Choice) -> Ranks:
    """Ranks in proportion to the accuracy lost at a small rank, in two pools (Astrid & Lee 2017).

    Convolutions and fully connected layers each get the same share of their own parameters; what the convolutions
    leave goes to the fully connected ones, rank 1 in each at least.
    """
    if choice.drops is None:
        raise PlanError("the rule sensitivity needs data to measure with: pass --data, or another --rank-rule")
    share = choice.limit / max(1, sum(candidate.parameters(None) for candidate in choice.candidates.values()))
    ranks: Ranks = {}
    left = choice.limit
    for kind in ("conv", "linear"):
        pool = {name: c for name, c in choice.candidates.items() if c.shape.kind == kind}
        dense = sum(candidate.parameters(None) for candidate in pool.values())
        least = sum(candidate.parameters(1) for candidate in pool.values())
        others = sum(c.parameters(1) for name, c in choice.candidates.items() if name not in pool and name not in ranks)
        own = min(max(least, int(share * dense)), left - others) if others else left
        ranks |= in_proportion(pool, choice.drops, own)
        left = choice.limit - sum(choice.candidates[name].parameters(rank) for name, rank in ranks.items())
    return ranks


LIMIT_RULES: dict[str, Callable[[Choice], Ranks]] = {
    "equal-error": rank_by_error,
    "sensitivity": rank_by_sensitivity,
}


def concern(goal: Goal) -> Concern:
    """What a layer is judged by: its parameters where they are limited, else the work predicted for it."""
    return "work" if goal.max_params is None else "parameters"


def candidates_of(survey: Survey, goal: Goal) -> dict[str, Candidate]:
    """The layers that may be factored: not to be kept, and cheaper factored at rank 1 at least."""
    found = {}
    for layer in survey.layers:
        if layer.must_keep is None and layer.name not in goal.keep_layers:
            method = method_of(layer, goal)
            most = (
                break_even(layer.shape, method, concern(goal)) if METHODS[method].supports(layer.shape) is None else 0
            )
            if most:
                found[layer.name] = Candidate(layer.name, layer.shape, method, most)
    return found


def method_of(layer: LayerCost, goal: Goal) -> str:
    """The first of the goal's variants that fits the layer; where none does, the one whose refusal is told."""
    fits = (method for method in goal.rule_methods if METHODS[method].supports(layer.shape) is None)
    return next(
        fits, default_method(layer.shape) if default_method(layer.shape) in goal.rule_methods else goal.rule_methods[0]
    )


def check_limit(survey: Survey, goal: Goal) -> None:
    """PlanError where even rank 1 everywhere exceeds the goal's limit."""
    candidates = candidates_of(survey, goal)
    least = sum(candidate.parameters(1) for candidate in candidates.values())
    left = _left_for(candidates, survey, goal)
    if least > left:
        raise unreachable(left, least)


def rows_by_limit(survey: Survey, goal: Goal, error: ErrorOf, drops: Mapping[str, float] | None) -> list[LayerPlan]:
    """A row for each layer by one of LIMIT_RULES."""
    check_limit(survey, goal)
    candidates = candidates_of(survey, goal)
    asked: dict[tuple[str, Rank], float] = {}

    def known(name: str, rank: Rank) -> float:
        if (name, rank) not in asked:
            asked[name, rank] = error(LayerVariant(name, candidates[name].method, rank))
        return asked[name, rank]

    limit = _left_for(candidates, survey, goal)
    ranks = LIMIT_RULES[goal.rule](Choice(candidates, limit, known, drops))
    rows = []
    for layer in survey.layers:
        candidate, rank = candidates.get(layer.name), ranks.get(layer.name)
        if candidate is None:
            rows.append(kept(layer, _why_no_candidate(layer, goal)))
        elif rank is None:
            rows.append(kept(layer, _why_too_high(candidate, concern(goal))))
        else:
            reason = "same error as all"
            if goal.rule == "sensitivity" and drops is not None:
                reason = f"lost {drops[layer.name]:.2f} points of top-1 when cut alone"
            known_error = asked.get((layer.name, (rank,)))
            rows.append(LayerPlan(layer.name, layer.weight, candidate.method, (rank,), reason, known_error))
    return rows


def rows_by_vbmf(network: nn.Module, survey: Survey, goal: Goal) -> list[LayerPlan]:
    """A row for each layer as Kim et al. 2016 do it: Tucker-2 for windows and the SVD for the rest, at EVBMF's ranks.

    A grouped layer takes the largest rank of its groups. Where no component stands out of the noise, rank 1.
    """
    rows = []
    for layer in survey.layers:
        why = layer.must_keep or ("asked for by --keep-layers" if layer.name in goal.keep_layers else None)
        found = why or vbmf_variant(network, layer)
        if isinstance(found, str):
            rows.append(kept(layer, found))
            continue
        method, rank = found
        factors, dense = METHODS[method].cost(layer.shape, rank), dense_cost(layer.shape)
        if factors.parameters >= dense.parameters:
            text = "x".join(map(str, rank))
            rows.append(kept(layer, f"at its EVBMF rank {text} factors would not be smaller than the layer"))
        else:
            rows.append(LayerPlan(layer.name, layer.weight, method, rank, "rank by EVBMF"))
    return rows


def vbmf_variant(network: nn.Module, layer: LayerCost) -> tuple[str, Rank] | str:
    """The layer's variant and EVBMF rank, or why it has none."""
    method = "tucker" if default_method(layer.shape) == "cp" else "svd"
    return METHODS[method].supports(layer.shape) or (method, _vbmf_rank(network, layer, method))


def kept(layer: LayerCost, reason: str) -> LayerPlan:
    """The row of a layer that stays as it is, and why."""
    return LayerPlan(layer.name, layer.weight, KEEP, (), f"kept: {reason}")


def _vbmf_rank(network: nn.Module, layer: LayerCost, method: str) -> Rank:
    kernels = split_kernels(find_layer(network, layer.name))
    full = METHODS[method].full_rank(layer.shape)
    if method == "svd":
        ranks: list[Rank] = [(evbmf_rank(kernel.flatten(1)),) for kernel in kernels]
    else:
        ranks = [(evbmf_rank(k.transpose(0, 1).flatten(1)), evbmf_rank(k.flatten(1))) for k in kernels]
    most = (max(column) for column in zip(*ranks, strict=True))
    return tuple(min(full[place], max(1, rank)) for place, rank in enumerate(most))


def _left_for(candidates: Mapping[str, Candidate], survey: Survey, goal: Goal) -> int:
    """Parameters that the candidates may have together. PlanError if the layers that stay leave nothing."""
    others = survey.parameters - sum(candidate.parameters(None) for candidate in candidates.values())
    limit = int(goal.limits.get("params", DEFAULT_LIMIT).most(survey.parameters))
    if others >= limit:
        raise PlanError(
            f"{limit:,} parameters are not enough: {others:,} of the {survey.parameters:,} are in layers that stay "
            "as they are; raise --max-params, or keep fewer layers"
        )
    return limit - others


def _why_no_candidate(layer: LayerCost, goal: Goal) -> str:
    if layer.must_keep is not None:
        return layer.must_keep
    if layer.name in goal.keep_layers:
        return "asked for by --keep-layers"
    method = method_of(layer, goal)
    refused = METHODS[method].supports(layer.shape)
    if refused is not None:
        return refused
    factors = METHODS[method].cost(layer.shape, (1,))
    compared = _compared(layer, factors, concern(goal))
    return f"factors would cost more than the layer at any rank ({compared} at rank 1)"


def _compared(layer: LayerCost, factors: Cost, concern: Concern) -> str:
    dense = dense_cost(layer.shape)
    if factors.parameters >= dense.parameters:
        return f"{factors.parameters:,} against {dense.parameters:,} parameters"
    return f"{price(factors, concern) / 1e6:.2f}M against {price(dense, concern) / 1e6:.2f}M predicted work"


def _why_too_high(candidate: Candidate, concern: Concern) -> str:
    unit = "parameters" if concern == "parameters" else "predicted work or parameters"
    return f"above rank {candidate.break_even} its factors would cost more {unit} than the layer, and it needs more"
