"""CP by the tensor power method: 1x1 convolution, depthwise window, 1x1 convolution (Astrid & Lee 2017)."""

from __future__ import annotations

import math
from functools import partial

from torch import nn

from compressor.calibration import Moments
from compressor.decompositions.base import Decomposition, Measure, Method, check_rank, windowed
from compressor.decompositions.cp_layers import LABEL, full_rank, layers, parts, supports, weights
from compressor.decompositions.cp_output_fit import fitted_to_outputs
from compressor.decompositions.tensor_power_method import greedy_components, greedy_sides
from compressor.layer_shape import Rank
from compressor.layers import Layer, fill, layer_shape, split_kernels


def decompose(layer: Layer, seed: int, moments: Moments | None = None) -> Decomposition:
    """Greedy components of every group's T x S x D kernel; with `moments`, the search for others starts from them."""
    if moments is None:
        return CpDecomposition(layer, seed)
    groups = greedy_components(split_kernels(windowed(layer, LABEL, supports)), seed)
    return fitted_to_outputs(layer, moments, groups, partial(greedy_sides, groups), LABEL)


class CpDecomposition:
    """Greedy rank-one components of every group's T x S x D kernel."""

    measure: Measure = "weights"

    def __init__(self, layer: Layer, seed: int) -> None:
        self._layer = windowed(layer, LABEL, supports)
        self._groups = greedy_components(split_kernels(layer), seed)
        self._energy = sum(group.energy for group in self._groups)

    def error(self, rank: Rank) -> float:
        """sqrt(|K|^2 - sum of d^2) / |K|, from the law of DESIGN section 3, in float64."""
        count = self._checked(rank)
        if not self._energy:
            return 0.0
        left = sum(group.left(count) for group in self._groups)
        return math.sqrt(max(left, 0.0) / self._energy)

    def estimate(self, rank: Rank) -> float:
        return self.error(rank)

    def factors(self, rank: Rank) -> nn.Sequential:
        count = self._checked(rank)
        new = layers(self._layer, rank)
        for layer, weight in zip(new, weights(greedy_sides(self._groups, count)), strict=True):
            fill(layer, weight)
        return new

    def stability(self, rank: Rank) -> float:
        """Sum of d^2 over |K|^2: 1 - error^2 for the power method, whose terms never cancel; 0 for a zero kernel."""
        return 1.0 - self.error(rank) ** 2 if self._energy else 0.0

    def _checked(self, rank: Rank) -> int:
        check_rank(rank, full_rank(layer_shape(self._layer)), LABEL, tuple(self._layer.weight.shape))
        return rank[0]


METHOD = Method(LABEL, supports, full_rank, parts, layers, decompose)
