"""Forms without a prefix law, where every rank is a run of its own: `tucker`, `cp-als` and `cp-polished`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from compressor.factors.method import Measure, check_rank
from compressor.kernel import Layer, fill, shift_bias
from compressor.shapes import Rank


@dataclass(frozen=True)
class Run:
    """What one rank gives: relative error, stability (None where a form has none), a weight for each factor layer.

    `shift` (groups, T) is added to the bias, where the factors were fitted to outputs and the layer has one.
    """

    error: float
    stability: float | None
    weights: tuple[Tensor, ...]
    shift: Tensor | None = None


class RunsByRank:
    """A `Decomposition` made of runs. `run` and `estimate` must depend on the rank alone, not on what was asked before.

    Errors of all ranks are remembered, weights of the rank asked for last only: a planner tries many ranks, and then
    asks for the factors of one.
    """

    def __init__(
        self,
        layer: Layer,
        run: Callable[[Rank], Run],
        estimate: Callable[[Rank], float],
        layers: Callable[[Layer, Rank], nn.Sequential],
        full: Rank,
        label: str,
        measure: Measure = "weights",
    ) -> None:
        self._layer, self._run, self._layers, self._full, self._label = layer, run, layers, full, label
        self._estimate, self.measure = estimate, measure
        self._known: dict[Rank, tuple[float, float | None]] = {}
        self._last: tuple[Rank, Run] | None = None

    def error(self, rank: Rank) -> float:
        return self._numbers(rank)[0]

    def estimate(self, rank: Rank) -> float:
        self._check(rank)
        return self._estimate(rank)

    def stability(self, rank: Rank) -> float | None:
        return self._numbers(rank)[1]

    def factors(self, rank: Rank) -> nn.Sequential:
        self._check(rank)
        last = self._last
        run = last[1] if last is not None and last[0] == rank else self._fresh(rank)
        new = self._layers(self._layer, rank)
        for layer, weight in zip(new, run.weights, strict=True):
            fill(layer, weight)
        shift_bias(new, run.shift)
        return new

    def _numbers(self, rank: Rank) -> tuple[float, float | None]:
        self._check(rank)
        if rank not in self._known:
            self._fresh(rank)
        return self._known[rank]

    def _fresh(self, rank: Rank) -> Run:
        run = self._run(rank)
        self._known[rank] = run.error, run.stability
        self._last = rank, run
        return run

    def _check(self, rank: Rank) -> None:
        check_rank(rank, self._full, self._label, tuple(self._layer.weight.shape))
