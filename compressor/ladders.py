"""Which ranks of a method a planner considers for a layer: ladders of ranks at which the factors still pay."""

from __future__ import annotations

from compressor.methods import METHODS
from compressor.shapes import LayerShape, Rank, dense_cost

RUNGS = 20
"""Ranks of a ladder; the steps between them are what a limit can miss by."""
RUNGS_OF_LARGE = 64
"""Ranks of a ladder where the layer holds a large share of the network, so that one step is a small one."""
LARGE = 0.05
LEAST = 1 / 48
"""The lowest rung as a share of the highest rank."""
HIGHEST_CP = 0.5
"""Where a CP's ladder ends, as a share of its break-even: greedy components cost time with the square of the rank."""
PAIR_STEPS = 7
PAIR_SPREAD = 2
"""Tucker's two ranks: how many shares of each side, and how many steps the two may lie apart."""


def ladder(shape: LayerShape, method: str, multiple: int = 1, share: float = 0.0) -> tuple[Rank, ...]:
    """Ranks in rising order at which a method has fewer parameters or MACs than the layer.

    Ranks are rounded to what `multiple` says; `share` is the layer's part in the network.
    """
    full = METHODS[method].full_rank(shape)
    rungs = RUNGS_OF_LARGE if share >= LARGE else RUNGS
    ranks = _pairs(full, multiple) if len(full) == 2 else _single(shape, method, multiple, rungs)
    return tuple(sorted({rank for rank in ranks if _pays(shape, method, rank)}))


def anchors(ranks: tuple[Rank, ...], count: int) -> tuple[Rank, ...]:
    """`count` of a ladder's ranks, evenly spread from the first to the last: where cost is measured first."""
    if len(ranks) <= count:
        return ranks
    last = len(ranks) - 1
    return tuple(ranks[round(place * last / (count - 1))] for place in range(count))


def _pays(shape: LayerShape, method: str, rank: Rank) -> bool:
    dense, cost = dense_cost(shape), METHODS[method].cost(shape, rank)
    return cost.parameters < dense.parameters or cost.macs < dense.macs


def _single(shape: LayerShape, method: str, multiple: int, rungs: int) -> list[Rank]:
    most = _most(shape, method)
    if most < 1:
        return []
    if method.startswith("cp"):
        most = max(1, round(most * HIGHEST_CP))
    least = max(1.0, most * LEAST)
    step = (most / least) ** (1 / max(1, rungs - 1))
    return [(_rounded(least * step**place, multiple, most),) for place in range(rungs)]


def _most(shape: LayerShape, method: str) -> int:
    """The largest rank that pays; 0 where none does. Costs rise with the rank, so halving finds it."""
    low, high = 0, METHODS[method].full_rank(shape)[0]
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if _pays(shape, method, (middle,)) else (low, middle - 1)
    return low


def _pairs(full: Rank, multiple: int) -> list[Rank]:
    shares = [0.06 * (1 / 0.06) ** (place / PAIR_STEPS) for place in range(PAIR_STEPS + 1)]
    near = [
        (first, second)
        for place, first in enumerate(shares)
        for other, second in enumerate(shares)
        if abs(place - other) <= PAIR_SPREAD
    ]
    return [tuple(_rounded(s * side, multiple, side) for s, side in zip(pair, full, strict=True)) for pair in near]


def _rounded(rank: float, multiple: int, most: int) -> int:
    """The nearest multiple; below four of them a quarter of it is the step, for one multiple would be a large one."""
    step = multiple if rank >= 4 * multiple else max(1, multiple // 4)
    return min(most, max(1, step * round(rank / step)))
