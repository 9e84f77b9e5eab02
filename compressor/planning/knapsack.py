"""choose(): one option for each layer, so that the objective is least within the limits. An integer programme."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp
from scipy.sparse import csr_array, vstack

from compressor.layer_shape import PlanError
from compressor.planning.cost_model import LayerVariant

GAP = 1e-4
"""How far, relatively, the answer may lie from the best there is: the last digits would cost most of the time."""
SECONDS = 20.0
"""Time after which the best answer found so far is taken."""
TOLERANCE = 2e-6
"""Twice what the solver lets a constraint be missed by, so that a limit is a limit."""
TIMED_OUT = 1


@dataclass(frozen=True)
class Option:
    """One variant of a layer with what it costs and what it is predicted to lose. `latency` is in the costs' unit: ms,
    or work where no device was asked."""

    variant: LayerVariant
    params: float
    macs: float
    latency: float
    loss: float
    error: float = 0.0

    def figure(self, quantity: str) -> float:
        return float(getattr(self, quantity))


Options = Mapping[str, Sequence[Option]]
Weights = Mapping[str, float]
"""What each quantity (params, macs, latency, loss) weighs in an objective."""


def choose(options: Options, weights: Weights, limits: Mapping[str, float]) -> dict[str, Option] | None:
    """An option for each layer with the least weighted sum, within the limits of the sums; None if there is none.

    A multiple-choice knapsack with several capacities, solved by HiGHS's branch and bound.
    """
    if not any(options.values()):
        return {} if all(limit >= 0 for limit in limits.values()) else None
    found = _solved(options, weights, limits, whole=True)
    if found.status == TIMED_OUT and found.x is None:
        raise PlanError(f"no choice within the limits was found in {SECONDS:g} s; pass fewer --methods")
    if found.x is None:
        return None
    flat = [option for own in options.values() for option in own]
    chosen = [option for option, take in zip(flat, found.x, strict=True) if take > 0.5]
    return {option.variant.layer: option for option in chosen}


def least(options: Options, quantity: str, limits: Mapping[str, float]) -> float:
    """What the sum of a quantity cannot be below within the limits: that of layers which mix their options. 0 where
    nothing is within them."""
    if not any(options.values()):
        return 0.0
    found = _solved(options, {quantity: 1.0}, limits, whole=False)
    return 0.0 if found.x is None else float(found.fun)


def _solved(options: Options, weights: Weights, limits: Mapping[str, float], whole: bool) -> OptimizeResult:
    """The programme's solution, in the order of the options; `whole` ones, or parts of several in one layer."""
    flat = [(row, option) for row, name in enumerate(options) for option in options[name]]
    values = np.array([sum(weight * option.figure(q) for q, weight in weights.items()) for _, option in flat])
    rows = np.array([row for row, _ in flat])
    one_each = csr_array((np.ones(len(flat)), (rows, np.arange(len(flat)))), shape=(len(options), len(flat)))
    binding = {q: limit for q, limit in limits.items() if limit < most(options, q)}
    scales = {q: max(abs(limit), 1e-12) for q, limit in binding.items()}
    sums = [csr_array(np.array([[option.figure(q) / scales[q] for _, option in flat]])) for q in binding]
    upper = np.concatenate([np.ones(len(options)), [limit / scales[q] - TOLERANCE for q, limit in binding.items()]])
    lower = np.concatenate([np.ones(len(options)), np.full(len(binding), -np.inf)])
    return milp(
        values,
        constraints=LinearConstraint(vstack([one_each, *sums]), lower, upper),
        integrality=np.full(len(flat), int(whole)),
        bounds=Bounds(0, 1),
        options={"mip_rel_gap": GAP, "time_limit": SECONDS},
    )


def most(options: Options, quantity: str) -> float:
    """The largest sum there is; a limit above it binds nothing."""
    return sum(max(option.figure(quantity) for option in own) for own in options.values())


def undominated(options: Sequence[Option], quantities: Sequence[str]) -> list[Option]:
    """The options that no other beats or equals in every one of the quantities; of equals, the first."""
    left: list[Option] = []
    table = np.array([[option.figure(q) for q in quantities] for option in options])
    for place, row in enumerate(table):
        no_worse = (table <= row).all(axis=1)
        better = no_worse & (table < row).any(axis=1)
        twin = no_worse & ~better
        if not better.any() and int(np.flatnonzero(twin)[0]) == place:
            left.append(options[place])
    return left


def total(chosen: Mapping[str, Option], quantity: str) -> float:
    """The sum of one quantity over the options chosen."""
    return sum(option.figure(quantity) for option in chosen.values())
