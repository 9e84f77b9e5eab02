"""choose(): one candidate for each layer, so that the objective is least within the limits. An integer programme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array, vstack

from compressor.layer_shape import PlanError
from compressor.plan import LayerVariant
from compressor.planning.options import OPTIONS

TIMED_OUT = 1
"""The solver's status."""


@dataclass(frozen=True)
class Candidate:
    """A layer variant with its costs and predicted loss. `latency` is in the cost model's unit: ms or work."""

    variant: LayerVariant
    params: float
    macs: float
    latency: float
    loss: float
    error: float = 0.0

    def figure(self, quantity: str) -> float:
        return float(getattr(self, quantity))


Candidates = Mapping[str, Sequence[Candidate]]
"""The candidates of each layer, by its name."""
Weights = Mapping[str, float]
"""Weight of each quantity (params, macs, latency, loss) in an objective."""


def choose(candidates: Candidates, weights: Weights, limits: Mapping[str, float]) -> dict[str, Candidate] | None:
    """The candidate of each layer with the least weighted sum, within the limits of the sums; None if there is none.

    A multiple-choice knapsack with several capacities, solved by HiGHS's branch and bound.
    """
    if not any(candidates.values()):
        return {} if all(limit >= 0 for limit in limits.values()) else None
    found = _solved(candidates, weights, limits, whole=True)
    if found.x is None:
        if found.status == TIMED_OUT:
            seconds = OPTIONS.solver_seconds
            raise PlanError(f"no choice within the limits was found in {seconds:g} s; pass fewer --methods")
        return None
    flat = [candidate for own in candidates.values() for candidate in own]
    return {one.variant.layer: one for one, taken in zip(flat, found.x, strict=True) if taken > 0.5}


def least(candidates: Candidates, quantity: str, limits: Mapping[str, float]) -> float:
    """A lower bound on the sum of a quantity within the limits: that of layers which mix their candidates.

    0 where nothing is within the limits.
    """
    if not any(candidates.values()):
        return 0.0
    found = _solved(candidates, {quantity: 1.0}, limits, whole=False)
    return 0.0 if found.x is None else float(found.fun)


def _solved(candidates: Candidates, weights: Weights, limits: Mapping[str, float], whole: bool) -> OptimizeResult:
    """The programme's solution, in the order of the candidates; `whole` ones, or parts of several in one layer."""
    flat = [(row, candidate) for row, name in enumerate(candidates) for candidate in candidates[name]]
    values = np.array([sum(weight * one.figure(q) for q, weight in weights.items()) for _, one in flat])
    rows = np.array([row for row, _ in flat])
    one_each = csr_array((np.ones(len(flat)), (rows, np.arange(len(flat)))), shape=(len(candidates), len(flat)))
    binding = {q: limit for q, limit in limits.items() if limit < most(candidates, q)}
    scales = {q: max(abs(limit), 1e-12) for q, limit in binding.items()}
    sums = [csr_array(np.array([[one.figure(q) / scales[q] for _, one in flat]])) for q in binding]
    capacities = [limit / scales[q] - OPTIONS.solver_tolerance for q, limit in binding.items()]
    upper = np.concatenate([np.ones(len(candidates)), capacities])
    lower = np.concatenate([np.ones(len(candidates)), np.full(len(binding), -np.inf)])
    return milp(
        values,
        constraints=LinearConstraint(vstack([one_each, *sums]), lower, upper),
        integrality=np.full(len(flat), int(whole)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": OPTIONS.solver_gap, "time_limit": OPTIONS.solver_seconds},
    )


def most(candidates: Candidates, quantity: str) -> float:
    """The largest possible sum; a limit above it binds nothing."""
    return sum(max(candidate.figure(quantity) for candidate in own) for own in candidates.values())


def undominated(candidates: Sequence[Candidate], quantities: Sequence[str]) -> list[Candidate]:
    """The candidates that no other beats or equals in every one of the quantities; of equals, the first."""
    table = np.array([[candidate.figure(q) for q in quantities] for candidate in candidates])
    left = []
    for index, row in enumerate(table):
        no_worse = (table <= row).all(axis=1)
        better = no_worse & (table < row).any(axis=1)
        if not better.any() and int(np.flatnonzero(no_worse)[0]) == index:
            left.append(candidates[index])
    return left


def total(chosen: Mapping[str, Candidate], quantity: str) -> float:
    """The sum of one quantity over the candidates chosen."""
    return sum(candidate.figure(quantity) for candidate in chosen.values())
