"""What a factorization offers: `Method`, a row of `methods.METHODS`, and `Decomposition`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import Tensor, nn

from compressor.calibration import Moments
from compressor.layer_shape import Cost, LayerShape, PlanError, Rank, dense_cost
from compressor.layers import Layer, fill, layer_shape, shift_bias


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


Measure = Literal["weights", "outputs"]
"""What an error is relative to: the weight, or the layer's output on calibration images."""


class Decomposition(Protocol):
    """One layer's factors at any rank. Lazy: computes as many components as were asked for, and none twice.

    What comes out depends on the layer, the seed and the rank, not on what was asked before: the same seed gives the
    same factors bit for bit on the same number of threads. Most forms find components one after another, so that the
    first r serve every larger rank too and errors only fall; those made of `runs` start anew for every rank.
    Factors fitted to moments of the layer's inputs make its output nearest instead of its weight, and `measure` says
    so; what they do to the mean goes into the bias, where the layer has one.
    """

    @property
    def measure(self) -> Measure:
        """What `error` and `estimate` are relative to."""
        ...

    def error(self, rank: Rank) -> float:
        """Relative error of the whole layer, all groups together; 0 for an all-zero weight.

        Of the weight (Frobenius norm), or with moments of the output over the calibration images: of its deviation from
        its mean where the layer has a bias, of all of it where it has none, both with a little noise on the inputs (see
        `metric.RIDGE`).
        """
        ...

    def estimate(self, rank: Rank) -> float:
        """About what `error` will be, without a run for the rank: cheap for hundreds of them, and never rising."""
        ...

    def factors(self, rank: Rank) -> nn.Sequential:
        """New layers that compute the convolution with the reconstructed kernel; the last one holds the bias."""
        ...

    def stability(self, rank: Rank) -> float | None:
        """Sum of squared component norms over |K|^2 (above 1: terms that cancel), or None where a form has none."""
        ...


class Decompose(Protocol):
    """A layer and a seed, and moments of its inputs if its outputs are to be fitted -> a Decomposition."""

    def __call__(self, layer: Layer, seed: int, moments: Moments | None = None) -> Decomposition: ...


@dataclass(frozen=True)
class Method:
    """One form of factorization. Everything but `decompose` and `layers` reads the shape alone.

    `label` is its name in sentences. `supports` gives None, or the reason why the form cannot express a layer.
    `full_rank` is the largest rank allowed, for each group. `parts` are the shapes of the factor layers, in order.
    `layers` builds them like the layer they replace, all zeros; `decompose` takes the layer, a seed and, for factors
    fitted to the layer's outputs, the moments of its inputs.
    """

    label: str
    supports: Callable[[LayerShape], str | None]
    full_rank: Callable[[LayerShape], Rank]
    parts: Callable[[LayerShape, Rank], tuple[LayerShape, ...]]
    layers: Callable[[Layer, Rank], nn.Sequential]
    decompose: Decompose

    def cost(self, shape: LayerShape, rank: Rank) -> Cost:
        """Cost of the factor layers for one image: their parameters with the bias, MACs, and elements moved."""
        return sum((dense_cost(part) for part in self.parts(shape, rank)), Cost(0, 0, 0))


def check_rank(rank: Rank, full: Rank, label: str, weight: tuple[int, ...], name: str = "") -> None:
    """Raises PlanError where a rank is not one number for each number of `full`, each from 1 to it."""
    if len(rank) != len(full):
        law, cure = f"{label} takes {len(full)} number{'s' * (len(full) > 1)} for a rank", "correct it"
    elif min(rank) < 1:
        law, cure = f"{label} ranks start at 1", "raise it"
    elif any(own > most for own, most in zip(rank, full, strict=True)):
        law, cure = f"{label} ranks go up to {'x'.join(map(str, full))}", "lower it"
    else:
        return
    given, sizes = "x".join(map(str, rank)) or "()", "x".join(map(str, weight))
    place, keep = (f"{name} ({sizes})", f" or pass --keep-layers {name}") if name else (f"a {sizes} weight", "")
    raise PlanError(f"rank {given} does not fit {place}: {law}; {cure}{keep}")


def refuse(label: str, reason: str | None) -> None:
    """Raises PlanError with the reason, if there is one, why the form `label` does not fit a layer."""
    if reason:
        raise PlanError(f"{label} does not fit this layer: {reason}")


def windowed(layer: Layer, label: str, supports: Callable[[LayerShape], str | None]) -> nn.Conv2d:
    """The layer, a convolution that the form `supports`; PlanError with the reason for any other."""
    reason = supports(layer_shape(layer))
    if reason or isinstance(layer, nn.Linear):
        raise PlanError(f"{label} does not fit this layer: {reason}")
    return layer
