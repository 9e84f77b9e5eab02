"""Rank rules that give every layer a form of its kind: equal errors, sensitivity as in the paper, EVBMF."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import nn

from compressor.cost_model import Form
from compressor.costs import LayerCost, Survey
from compressor.goal import Goal
from compressor.kernel import find_layer, split_kernels
from compressor.methods import METHODS, default_method
from compressor.plan import KEEP, LayerPlan
from compressor.ranks import (
    Candidate,
    Concern,
    ErrorLadder,
    Ranks,
    break_even,
    equal_errors,
    in_proportion,
    price,
    unreachable,
)
from compressor.shapes import Cost, PlanError, Rank, dense_cost
from compressor.units import Limit
from compressor.vbmf import evbmf_rank

DEFAULT_LIMIT = Limit("0.125x", 0.125, True)
"""Share of the parameters aimed at when no limit is given: the seed paper's 1/7 with a little to spare."""

ErrorOf = Callable[[Form], float]
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
    ladders = {
        name: ErrorLadder(candidate, partial(choice.error, name)) for name, candidate in choice.candidates.items()
    }
    return equal_errors(ladders, choice.limit)


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
            method = form_of(layer, goal)
            most = (
                break_even(layer.shape, method, concern(goal)) if METHODS[method].supports(layer.shape) is None else 0
            )
            if most:
                found[layer.name] = Candidate(layer.name, layer.shape, method, most)
    return found


def form_of(layer: LayerCost, goal: Goal) -> str:
    """The first of the goal's forms that fits the layer; where none does, the one whose refusal is told."""
    fits = (method for method in goal.forms if METHODS[method].supports(layer.shape) is None)
    return next(fits, default_method(layer.shape) if default_method(layer.shape) in goal.forms else goal.forms[0])


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
            asked[name, rank] = error(Form(name, candidates[name].method, rank))
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
        found = why or vbmf_form(network, layer)
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


def vbmf_form(network: nn.Module, layer: LayerCost) -> tuple[str, Rank] | str:
    """The layer's form and EVBMF rank, or why it has none."""
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
    method = form_of(layer, goal)
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
