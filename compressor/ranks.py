"""Rank rules: pure functions from costs, errors and measured accuracy drops to ranks."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from compressor import cost_model
from compressor.methods import METHODS
from compressor.shapes import Cost, LayerShape, PlanError, Rank, dense_cost

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
class ErrorLadder:
    """A candidate with the relative weight error that it has at a rank."""

    candidate: Candidate
    error: Callable[[Rank], float]


def equal_errors(ladders: Mapping[str, ErrorLadder], limit: int) -> Ranks:
    """Ranks that make the relative errors of all layers equal, as small as `limit` parameters allow.

    Starts every layer at rank 1 and raises the one with the largest error, so that no component is computed that is
    not used. None means: kept, because the next rank would cost more than the layer and the limit allows the layer.
    PlanError if rank 1 everywhere exceeds the limit.
    """
    ranks = dict.fromkeys(ladders, 1)
    used = sum(ladder.candidate.parameters(1) for ladder in ladders.values())
    if used > limit:
        raise unreachable(limit, used)
    errors = {name: ladder.error((1,)) for name, ladder in ladders.items()}
    kept: Ranks = {}
    while errors:
        name = max(errors, key=errors.__getitem__)
        candidate, rank = ladders[name].candidate, ranks[name]
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
        errors[name] = ladders[name].error((larger,))
    return {**ranks, **kept}


def _affordable(candidate: Candidate, rank: int, left: int) -> int:
    """The rank one step (a sixteenth) above `rank`, or as far as `left` parameters and the break-even allow."""
    larger = min(rank + max(1, rank // 16), candidate.break_even)
    while larger > rank and candidate.parameters(larger) > left:
        larger -= 1
    return larger
