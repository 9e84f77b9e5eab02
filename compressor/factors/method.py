"""What a factorization offers: `Method`, a row of the table in `compressor.methods`, and `Decomposition`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from torch import nn

from compressor.kernel import Layer, layer_shape
from compressor.moments import Moments
from compressor.shapes import Cost, LayerShape, PlanError, Rank, dense_cost

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
