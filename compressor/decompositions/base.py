"""The interface of a factorization: `Method`, a row of `methods.METHODS`, and `Decomposition`, one layer's factors."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from compressor.calibration import Moments
from compressor.layer_shape import Cost, LayerShape, PlanError, Rank, dense_cost
from compressor.layers import Layer, conv_like, fill, layer_shape, linear_like, shift_bias

Measure = Literal["weights", "outputs"]
"""Reference of a relative error: the weight, or the layer's output on calibration images."""


@dataclass(frozen=True)
class Part:
    """One factor layer: its shape, and the axes (height, width) along which it takes the layer's stride, padding and
    dilation. Along each axis one part of a form does."""

    shape: LayerShape
    owns: tuple[bool, bool] = (False, False)


@dataclass(frozen=True)
class Factors:
    """Factors at one rank: relative error, stability number (None where a form has none), a weight for each part.

    `shift` (groups, T) is added to the bias, where the factors were fitted to outputs and the layer has one.
    """

    error: float
    stability: float | None
    weights: tuple[Tensor, ...]
    shift: Tensor | None = None


@dataclass(frozen=True)
class Solver:
    """A form's fit to one layer, as functions of the rank alone: not of the ranks that were asked for before.

    `numbers` gives error and stability number where a form knows them without computing the factors.
    """

    factors: Callable[[Rank], Factors]
    estimate: Callable[[Rank], float]
    numbers: Callable[[Rank], tuple[float, float | None]] | None = None


@dataclass(frozen=True)
class Method:
    """One form of factorization. Everything but `decompose` and `layers` reads the shape alone.

    `label` is its name in sentences. `supports` gives None, or the reason why the form cannot express a layer.
    `full_rank` is the largest rank allowed, for each group. `parts` are the factor layers, in order. `solver` takes a
    layer that the form supports, a seed and, for factors fitted to the layer's outputs, the moments of its inputs.
    """

    label: str
    supports: Callable[[LayerShape], str | None]
    full_rank: Callable[[LayerShape], Rank]
    parts: Callable[[LayerShape, Rank], tuple[Part, ...]]
    solver: Callable[[Layer, int, Moments | None], Solver]

    def cost(self, shape: LayerShape, rank: Rank) -> Cost:
        """Cost of the factor layers for one image: their parameters with the bias, MACs, and elements moved."""
        return sum((dense_cost(part.shape) for part in self.parts(shape, rank)), Cost(0, 0, 0))

    def layers(self, layer: Layer, rank: Rank) -> nn.Sequential:
        """Factor layers like the layer they replace, all zeros but for the bias of the last. PlanError if the form
        does not support the layer."""
        self._refuse(layer)
        new = nn.Sequential()
        for part in self.parts(layer_shape(layer), rank):
            shape, channels = part.shape, (part.shape.inputs, part.shape.outputs)
            if isinstance(layer, nn.Linear):
                new.append(linear_like(layer, channels, bias=shape.bias))
            else:
                new.append(
                    conv_like(
                        layer, channels, window=shape.window, groups=shape.groups, owns=part.owns, bias=shape.bias
                    )
                )
        return new.train(layer.training)

    def decompose(self, layer: Layer, seed: int, moments: Moments | None = None) -> Decomposition:
        """The layer's decomposition, fitted to its outputs where there are `moments` of its inputs, else to its weight.

        PlanError if the form does not support the layer, or the weight cannot be approximated.
        """
        self._refuse(layer)
        measure: Measure = "weights" if moments is None else "outputs"
        own = type(layer).__new__(type(layer))  # with the same tensors; stays as it is where the layer is factored
        vars(own).update(vars(layer))
        return Decomposition(self, own, self.solver(own, seed, moments), measure)

    def check_rank(self, rank: Rank, shape: LayerShape, weight: tuple[int, ...], name: str = "") -> None:
        """Raises PlanError where a rank is not one number for each mode, each from 1 to the full rank."""
        full = self.full_rank(shape)
        if len(rank) != len(full):
            law, cure = f"{self.label} takes {len(full)} number{'s' * (len(full) > 1)} for a rank", "correct it"
        elif min(rank) < 1:
            law, cure = f"{self.label} ranks start at 1", "raise it"
        elif any(number > most for number, most in zip(rank, full, strict=True)):
            law, cure = f"{self.label} ranks go up to {'x'.join(map(str, full))}", "lower it"
        else:
            return
        given, sizes = "x".join(map(str, rank)) or "()", "x".join(map(str, weight))
        layer, keep = (f"{name} ({sizes})", f" or pass --keep-layers {name}") if name else (f"a {sizes} weight", "")
        raise PlanError(f"rank {given} does not fit {layer}: {law}; {cure}{keep}")

    def _refuse(self, layer: Layer) -> None:
        reason = self.supports(layer_shape(layer))
        if reason:
            raise PlanError(f"{self.label} does not fit this layer: {reason}")


class Decomposition:
    """One layer's factors at any rank. Lazy: computes as many components as were asked for, and none twice.

    What comes out depends on the layer, the seed and the rank: the same seed gives the same factors bit for bit on the
    same number of threads. Most forms find components one after another, so that the first r serve every larger rank
    too and errors only fall; the others start anew for every rank.
    Factors fitted to moments of the layer's inputs make its output nearest instead of its weight, and `measure` says
    so; what they do to the mean goes into the bias, where the layer has one.

    Errors of all ranks are kept, weights of the last rank only: a planner tries many ranks, and then asks for the
    factors of one.
    """

    def __init__(self, method: Method, layer: Layer, solver: Solver, measure: Measure) -> None:
        self._method, self._layer, self._solver, self.measure = method, layer, solver, measure
        self._known: dict[Rank, tuple[float, float | None]] = {}
        self._last: tuple[Rank, Factors] | None = None

    def error(self, rank: Rank) -> float:
        """Relative error of the whole layer, all groups together; 0 for an all-zero weight.

        Of the weight (Frobenius norm), or with moments of the output over the calibration images: of its deviation from
        its mean where the layer has a bias, of all of it where it has none, both with a little noise on the inputs (see
        `output_fit.RIDGE`).
        """
        return self._numbers(rank)[0]

    def estimate(self, rank: Rank) -> float:
        """About what `error` will be, without a fit at the rank: cheap for hundreds of them, and never rising."""
        self._check(rank)
        return self._solver.estimate(rank)

    def stability(self, rank: Rank) -> float | None:
        """Sum of squared component norms over |K|^2 (above 1: terms that cancel), or None where a form has none."""
        return self._numbers(rank)[1]

    def factors(self, rank: Rank) -> nn.Sequential:
        """New layers that compute the convolution with the reconstructed kernel; the last one holds the bias."""
        self._check(rank)
        last = self._last
        found = last[1] if last is not None and last[0] == rank else self._fresh(rank)
        new = self._method.layers(self._layer, rank)
        for layer, weight in zip(new, found.weights, strict=True):
            fill(layer, weight)
        shift_bias(new, found.shift)
        return new

    def _numbers(self, rank: Rank) -> tuple[float, float | None]:
        self._check(rank)
        if rank not in self._known:
            if self._solver.numbers is not None:
                return self._solver.numbers(rank)
            self._fresh(rank)
        return self._known[rank]

    def _fresh(self, rank: Rank) -> Factors:
        found = self._solver.factors(rank)
        self._known[rank] = found.error, found.stability
        self._last = rank, found
        return found

    def _check(self, rank: Rank) -> None:
        self._method.check_rank(rank, layer_shape(self._layer), tuple(self._layer.weight.shape))
