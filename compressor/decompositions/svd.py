"""The SVD of the T x SD matrix of a layer: its window S -> R, then a 1x1 convolution R -> T.

One form under two names: `svd` for fully connected layers and 1x1 windows, where both factors are matrices, and
`channel` for larger windows (Zhang et al. 2016, Accelerating Very Deep Convolutional Networks). With moments of the
layer's inputs it is their low-rank approximation of the responses, section 3.1.
"""

from __future__ import annotations

import math
from functools import cached_property, partial
from math import prod

import torch
from torch import Tensor

from compressor.calibration import Moments
from compressor.decompositions.base import Factors, Method, Part, Solver
from compressor.decompositions.output_fit import Metric
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import Layer, split_kernels

EXACT_UP_TO = 1024
"""Smaller sides up to this are worked out in float64, which takes less than a second; above, float32 halves the
wait, and only the error near full rank loses digits."""


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


def _matrices_only(shape: LayerShape) -> str | None:
    if prod(shape.window) > 1:
        height, width = shape.window
        return f"svd factors fully connected layers and 1x1 windows, not {height}x{width}; use cp"
    return None


def _windows_only(shape: LayerShape) -> str | None:
    if shape.kind == "linear":
        return "a fully connected layer has no window, so channel is the SVD; use svd"
    if shape.window == (1, 1):
        return "a 1x1 window has one position, so channel is the SVD; use svd"
    return None


SVD = Method("SVD", _matrices_only, full_rank, parts, solver)
CHANNEL = Method("channel", _windows_only, full_rank, parts, solver)
