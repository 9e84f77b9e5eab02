"""Forms that are the SVD of one unfolding of the kernel, two layers each: `svd`, `channel` and `spatial`."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from compressor.decompositions.base import Measure, check_rank
from compressor.decompositions.output_metric import Metric
from compressor.layer_shape import Rank
from compressor.layers import Layer, fill, shift_bias

EXACT_UP_TO = 1024
"""Smaller sides up to this are worked out in float64, which takes less than a second; above, float32 halves the
wait, and only the error near full rank loses digits."""


class MatrixDecomposition:
    """Singular vectors of every group's matrix (groups, T * rows, columns), the strongest first.

    A form says what the matrix is: `layers` builds its two factors, of which the first reads `columns` weights for
    each output and the second `rows` for each pair of channels.

    Never a full SVD, which takes 15 s on AlexNet's fc6; one eigendecomposition of the Gram matrix takes 10 s of CPU
    time there and serves all ranks. (A random subspace of 256 + 64 vectors, iterated twice, took 2 s of CPU time and
    explained 6 % less energy at rank 256.) Exact at full rank however ill-conditioned the Gram matrix, since
    A = U (U^T A) for any orthonormal basis U.

    With a `metric` (whose rows must be output channels) U holds the strongest directions of the outputs instead: no
    factors of that rank have a smaller output error.
    """

    def __init__(
        self,
        layer: Layer,
        matrices: Tensor,
        layers: Callable[[Layer, Rank], nn.Sequential],
        label: str,
        metric: Metric | None = None,
    ) -> None:
        self._layer, self._layers, self._label, self._metric = layer, layers, label, metric
        self._outputs = layer.weight.shape[0] // matrices.shape[0]
        self.full = min(matrices.shape[1:])
        self._tall = matrices.shape[1] > matrices.shape[2] and metric is None
        self._wide = matrices.mT if self._tall else matrices
        self.measure: Measure = "weights" if metric is None else "outputs"

    def error(self, rank: Rank) -> float:
        count = self._checked(rank)
        total = self._tails[0]
        return math.sqrt(self._tails[count] / total) if total else 0.0

    def estimate(self, rank: Rank) -> float:
        return self.error(rank)

    def factors(self, rank: Rank) -> nn.Sequential:
        count = self._checked(rank)
        inputs, outputs = self.sides(count)
        new = self._layers(self._layer, rank)
        fill(new[0], inputs)
        fill(new[1], outputs.reshape(*outputs.shape[:2], self._outputs, -1).transpose(1, 2))
        if self._metric is not None:
            shift_bias(new, self._metric.shift(self._wide - outputs.mT @ inputs))
        return new

    def sides(self, count: int) -> tuple[Tensor, Tensor]:
        """(groups, count, columns) and (groups, count, T * rows): together the first `count` components."""
        own = self._spectrum[1][:, :, :count]
        # The far side of each pair, with its singular value; both get its square root.
        far = own.mT @ self._wide
        strength = torch.linalg.vector_norm(far, dim=2, keepdim=True)
        near = own.mT * strength.sqrt()
        far = far * torch.where(strength > 0, strength.rsqrt(), 0.0)
        return (near, far) if self._tall else (far, near)

    def stability(self, rank: Rank) -> None:
        """None: orthogonal components cannot cancel."""

    def _checked(self, rank: Rank) -> int:
        check_rank(rank, (self.full,), self._label, tuple(self._layer.weight.shape))
        return rank[0]

    @cached_property
    def _spectrum(self) -> tuple[Tensor, Tensor]:
        """Energy of each component (groups, side) in float64 and its vector (groups, side, side), strongest first."""
        wide = self._wide.double() if self._wide.shape[1] <= EXACT_UP_TO else self._wide
        gram = wide @ wide.mT if self._metric is None else self._metric.gram(wide).to(wide.dtype)
        values, vectors = torch.linalg.eigh(gram)
        return values.flip(1).double().clamp_min(0), vectors.flip(2).to(self._wide.dtype)

    @cached_property
    def _tails(self) -> list[float]:
        """Energy left after 0, 1, 2, ... components of every group: the errors at all ranks at once."""
        energies = self._spectrum[0].sum(0)[: self.full]
        return [*energies.flip(0).cumsum(0).flip(0).tolist(), 0.0]
