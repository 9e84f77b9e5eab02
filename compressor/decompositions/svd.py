"""Two layers by the SVD of an unfolding of each group's kernel, under three names.

`svd` is for fully connected layers and 1x1 windows, where both factors are matrices. `channel` puts the window S -> R
before a 1x1 convolution R -> T (Zhang et al. 2016, Accelerating Very Deep Convolutional Networks); with moments of the
layer's inputs it is their low-rank approximation of the responses, section 3.1. `spatial` separates the window: one
side on S -> R, the other on R -> T (Jaderberg et al. 2014, scheme 2; by the SVD, Tai et al. 2016, theorem 1).
"""

from __future__ import annotations

import math
from functools import cached_property, partial
from math import prod

import torch
from torch import Tensor

from compressor.calibration import Moments
from compressor.decompositions.base import Factors, Method, Part, Solver
from compressor.decompositions.output_fit import ExplainedEnergy, FactorChain, Metric, refine, spread
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import Layer, layer_shape, split_kernels

EXACT_UP_TO = 1024
"""Smaller sides up to this are worked out in float64, which takes less than a second; above, float32 halves the
wait, and only the error near full rank loses digits."""
SEARCH_GAIN = 1.09
"""The output error after the search is about this power of that of the plain first layer with the second refitted: on
ResNet-20's kernels 0.345 and 0.183 (at a quarter and half of the parameters) became 0.313 and 0.158."""


class SingularVectors:
    """Singular vectors of every group's matrix (groups, rows, columns), the strongest first.

    Never a full SVD, which takes 15 s on AlexNet's fc6; one eigendecomposition of the Gram matrix takes 10 s of CPU
    time there and serves all ranks. (A random subspace of 256 + 64 vectors, iterated twice, took 2 s of CPU time and
    explained 6 % less energy at rank 256.) Exact at full rank however ill-conditioned the Gram matrix, since
    A = U (U^T A) for any orthonormal basis U.

    With a `metric` (whose rows must be output channels) U holds the strongest directions of the outputs instead: no
    factors of that rank have a smaller output error.
    """

    def __init__(self, matrices: Tensor, metric: Metric | None = None) -> None:
        self._matrices, self._metric = matrices, metric
        self.full = min(matrices.shape[1:])
        self._tall = matrices.shape[1] > matrices.shape[2] and metric is None
        self._wide = matrices.mT if self._tall else matrices

    def numbers(self, rank: Rank) -> tuple[float, None]:
        """Relative error, and no stability number: orthogonal components cannot cancel."""
        left = self._energies_left
        return math.sqrt(left[rank[0]] / left[0]) if left[0] else 0.0, None

    def sides(self, count: int) -> tuple[Tensor, Tensor]:
        """(groups, count, columns) and (groups, count, rows): together the first `count` components."""
        vectors = self._spectrum[1][:, :, :count]
        # The far side of each pair, with its singular value; both get its square root.
        far = vectors.mT @ self._wide
        strength = torch.linalg.vector_norm(far, dim=2, keepdim=True)
        near = vectors.mT * strength.sqrt()
        far = far * torch.where(strength > 0, strength.rsqrt(), 0.0)
        return (near, far) if self._tall else (far, near)

    def factors(self, second: int, rank: Rank) -> Factors:
        """Weights of two layers, of which the last has `second` positions for each of its output channels."""
        inputs, outputs = self.sides(rank[0])
        shift = None if self._metric is None else self._metric.shift(self._matrices - outputs.mT @ inputs)
        return Factors(
            *self.numbers(rank), (inputs, outputs.reshape(*outputs.shape[:2], -1, second).transpose(1, 2)), shift
        )

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Energy of each component (groups, side) in float64 and its vector (groups, side, side), strongest first."""
        wide = self._wide.double() if self._wide.shape[1] <= EXACT_UP_TO else self._wide
        gram = wide @ wide.mT if self._metric is None else self._metric.gram(wide).to(wide.dtype)
        values, vectors = torch.linalg.eigh(gram)
        return values.flip(1).double().clamp_min(0), vectors.flip(2).to(self._wide.dtype)

    @cached_property
    def _energies_left(self) -> list[float]:
        """Energy left after 0, 1, 2, ... components of every group: the errors at all ranks at once."""
        energies = self._spectrum[0].sum(0)[: self.full]
        return [*energies.flip(0).cumsum(0).flip(0).tolist(), 0.0]


def full_rank(shape: LayerShape) -> Rank:
    """min(T, SD)."""
    outputs, inputs, positions = shape.kernel
    return (min(outputs, inputs * positions),)


def parts(shape: LayerShape, rank: Rank) -> tuple[Part, ...]:
    kind, middle, groups = shape.kind, shape.groups * rank[0], shape.groups
    first = LayerShape(kind, shape.inputs, middle, groups, shape.window, shape.in_size, shape.out_size, False)
    last = LayerShape(kind, middle, shape.outputs, groups, (1, 1), shape.out_size, shape.out_size, shape.bias)
    return Part(first, (True, True)), Part(last)


def solver(layer: Layer, _seed: int, moments: Moments | None) -> Solver:
    """Singular vectors of every group's T x SD matrix, or of its outputs on the images of `moments`."""
    metric = None if moments is None else Metric(layer, moments)
    vectors = SingularVectors(split_kernels(layer).flatten(2), metric)
    return Solver(partial(vectors.factors, 1), lambda rank: vectors.numbers(rank)[0], vectors.numbers)


def matrices_only(shape: LayerShape) -> str | None:
    if prod(shape.window) > 1:
        height, width = shape.window
        return f"svd factors fully connected layers and 1x1 windows, not {height}x{width}; use cp"
    return None


def windows_only(shape: LayerShape) -> str | None:
    if shape.kind == "linear":
        return "a fully connected layer has no window, so channel is the SVD; use svd"
    if shape.window == (1, 1):
        return "a 1x1 window has one position, so channel is the SVD; use svd"
    return None


def height_first(shape: LayerShape) -> bool:
    """True where Dh x 1 on the inputs and 1 x Dw on the outputs take at most the parameters of the other order.

    S·Dh + T·Dw <= S·Dw + T·Dh: the long side goes to the smaller number of channels. Of the shape's fields only
    channels and window decide, for these alone are known to the layer too; at equal strides the MACs agree.
    """
    height, width = shape.window
    return (height - width) * (shape.inputs - shape.outputs) <= 0


def separable(shape: LayerShape) -> str | None:
    if shape.kind == "linear":
        return "a fully connected layer has no window to separate; use svd"
    height, width = shape.window
    if height == width == 1:
        return "a 1x1 window has one position, so spatial is the SVD; use svd"
    if 1 in shape.window:
        return f"a {height}x{width} window has one side already, so there is nothing to separate; use channel"
    return None


def separable_rank(shape: LayerShape) -> Rank:
    """The smaller side of the unfolding."""
    outputs, inputs, _ = shape.kernel
    height, width = shape.window
    first, second = (height, width) if height_first(shape) else (width, height)
    return (min(outputs * second, inputs * first),)


def separable_parts(shape: LayerShape, rank: Rank) -> tuple[Part, ...]:
    middle, groups = shape.groups * rank[0], shape.groups
    tall, wide = ((shape.window[0], 1), (True, False)), ((1, shape.window[1]), (False, True))
    if height_first(shape):
        (first, owns), (second, others), between = tall, wide, (shape.out_size[0], shape.in_size[1])
    else:
        (first, owns), (second, others), between = wide, tall, (shape.in_size[0], shape.out_size[1])
    return (
        Part(LayerShape("conv", shape.inputs, middle, groups, first, shape.in_size, between, False), owns),
        Part(LayerShape("conv", middle, shape.outputs, groups, second, between, shape.out_size, shape.bias), others),
    )


def separable_solver(layer: Layer, _seed: int, moments: Moments | None) -> Solver:
    """Singular vectors of every group's unfolding: (T * Dw) x (S * Dh), or (T * Dh) x (S * Dw) with the width first.

    With `moments` these are where the search for the least output error starts.
    """
    shape, flat = layer_shape(layer), split_kernels(layer)
    height, width = shape.window
    kernels = flat.reshape(*flat.shape[:3], height, width)
    if height_first(shape):
        kernels = kernels.mT
    # Rows: output channels and the second window. Columns: input channels and the first.
    vectors = SingularVectors(kernels.transpose(2, 3).flatten(3).flatten(1, 2))
    # Axes of a group's inputs that the first layer sums over, and the side of the second's window.
    axes, second = ((0, 1), width) if height_first(shape) else ((0, 2), height)
    if moments is None:
        return Solver(partial(vectors.factors, second), lambda rank: vectors.numbers(rank)[0], vectors.numbers)

    metric, flat = Metric(layer, moments), flat.flatten(2)
    chain = FactorChain(
        lambda inner: spread(inner[0], metric.sizes, axes), lambda inner: metric.features(inner[0], axes)
    )
    explained = ExplainedEnergy(
        metric, flat, lambda first, end: metric.features(vectors.sides(end)[0][:, first:], axes), vectors.full, second
    )

    def factors(rank: Rank) -> Factors:
        first, start = vectors.factors(second, rank).weights
        outer, (inner,) = refine(metric, flat, chain, start.flatten(2), (first,))
        approximation = outer @ chain.rows((inner,))
        # Both layers get the same part of each component's size.
        outer = outer.reshape(*outer.shape[:2], -1, second)
        sizes = inner.norm(dim=2), outer.norm(dim=(1, 3))
        balance = torch.where((sizes[0] > 0) & (sizes[1] > 0), (sizes[1] / sizes[0]).sqrt(), 1.0)
        weights = inner * balance[:, :, None], outer / balance[:, None, :, None]
        error, shift = metric.lost(flat, approximation)
        return Factors(error, None, weights, shift)

    return Solver(factors, lambda rank: math.pow(explained.error(rank[0]), SEARCH_GAIN))


SVD = Method("SVD", matrices_only, full_rank, parts, solver)
CHANNEL = Method("channel", windows_only, full_rank, parts, solver)
SPATIAL = Method("spatial", separable, separable_rank, separable_parts, separable_solver)
