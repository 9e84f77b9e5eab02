"""The metric of data-aware factors: what a change of a layer's kernels does to its outputs on calibration images."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from compressor.calibration import Moments
from compressor.layer_shape import PlanError
from compressor.layers import Layer, split_kernels

BLOCK = 32
"""Components taken in at once. Blocks are always the same, so that no estimate depends on what was asked before."""


class Explained:
    """Energy of kernels (groups, T, S * D) explained by features, after refitting the last factor to them.

    `block(first, end)` gives the features of those of the `most` components, `each` rows for a component. By
    Gram-Schmidt in the metric every component adds what it explains beyond those before it, as in a regression.
    """

    def __init__(
        self, metric: Metric, kernels: Tensor, block: Callable[[int, int], Features], most: int, each: int = 1
    ) -> None:
        self._metric, self._block, self._most, self._each = metric, block, most, each
        self._kernels = kernels.to(metric.dtype)
        self._whole = metric.energy(kernels)
        nothing = self._kernels[:, :0]
        self._basis = Features(nothing, nothing)
        self._sums = torch.zeros(1, kernels.shape[1], dtype=torch.float64)

    def error(self, count: int, outputs: int | None = None) -> float:
        """Relative output error with the first `count` components, of the first `outputs` output channels alone if
        the others are given up."""
        if not self._whole:
            return 0.0
        while len(self._sums) <= count * self._each:
            self._extend()
        explained = float(self._sums[count * self._each, :outputs].sum())
        return math.sqrt(min(1.0, max(0.0, 1 - explained / self._whole)))

    def _extend(self) -> None:
        first = (len(self._sums) - 1) // self._each
        new = self._block(first, min(first + BLOCK, self._most))
        lengths = (new.through * new.rows).sum(2, keepdim=True).clamp_min(0).sqrt()
        scale = torch.where(lengths > 0, lengths, 1.0)
        known = (new.rows / scale) @ self._basis.through.mT
        fresh = Features(new.rows / scale - known @ self._basis.rows, new.through / scale - known @ self._basis.through)
        floor = FLOOR[self._metric.dtype] * torch.eye(fresh.gram.shape[1], dtype=torch.float64)
        lower = torch.linalg.cholesky(fresh.gram + floor).to(fresh.rows.dtype)
        rows, through = (torch.linalg.solve_triangular(lower, own, upper=False) for own in (fresh.rows, fresh.through))
        self._basis = Features(torch.cat([self._basis.rows, rows], 1), torch.cat([self._basis.through, through], 1))
        gained = (through @ self._kernels.mT).double().square().sum(0)
        self._sums = torch.cat([self._sums, self._sums[-1] + gained.cumsum(0)])


RIDGE = 1e-3
"""Least white noise on the inputs, as a share of their mean power: keeps the metric definite where they are copies or
dead. Few windows ask for more, or what is fitted is their accidents: the noise is at least inputs / windows. So
ResNet-18's fc (512 inputs, rank 84, 256 images) has an output error of 0.350 on other images; plainly fitted 0.372,
with the least noise 0.378. A 1x1 layer (256 inputs, 1,024 windows) was best at 0.3, where the rule gives 0.25."""


FLOOR = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Added to the diagonal of normal equations whose features have length one: keeps them solvable where some agree, and
lets no rounding count as something new."""


Sizes = tuple[int, int, int]
"""Of the axes S, Dh, Dw of a group's inputs."""


class Metric:
    """|E|^2 = tr(E C E^T) for a change E of a layer's kernels (groups, T, S * D), all groups together.

    C is the second moment of the inputs, the uncentred one. Where the layer has a bias it is the covariance instead:
    the bias takes up the mean of a change, as `shift` tells.
    """

    def __init__(self, layer: Layer, moments: Moments) -> None:
        kernels = split_kernels(layer)
        groups, width = len(kernels), kernels.shape[2] * kernels.shape[3]
        height, across = layer.kernel_size if isinstance(layer, nn.Conv2d) else (1, 1)
        self.sizes: Sizes = (kernels.shape[2], height, across)
        if tuple(moments.mean.shape) != (groups, width):
            given, own = "x".join(map(str, moments.mean.shape)), f"{groups}x{width}"
            raise PlanError(
                f"moments must be those of the layer's own inputs: these are {given} (groups x inputs), the layer "
                f"reads {own}; collect them from this network"
            )
        self._mean = moments.mean if layer.bias is not None else None
        self._count = moments.count
        self._windows = moments.windows
        self._second = moments.second
        if self._mean is not None and self._windows is not None:
            self._windows = self._windows - self._mean.unsqueeze(1)
        power = self._power() / width
        self.noise = max(RIDGE, width / moments.count)
        self._ridge = torch.where(power > 0, self.noise * power, 1.0)[:, None, None]

    @classmethod
    def of(cls, layer: Layer, moments: Moments | None) -> Metric | None:
        """The metric that the moments give, if there are any."""
        return None if moments is None else cls(layer, moments)

    @property
    def dtype(self) -> torch.dtype:
        return self._ridge.dtype

    def through(self, rows: Tensor) -> Tensor:
        """rows @ C, for (groups, any, S * D)."""
        rows = rows.to(self.dtype)
        if self._second is not None:
            return self._finished(rows @ self._second, rows)
        assert self._windows is not None  # one of the two is always there
        return (rows @ self._windows.mT) @ self._windows / self._count + self._ridge * rows

    def features(self, vectors: Tensor, kept: tuple[int, ...]) -> Features:
        """Of `spread` vectors; their product with C takes a fraction of the general one's work."""
        own = vectors.detach().to(self.dtype)
        rows = spread(own, self.sizes, kept)
        if self._second is None:
            return Features(rows, self.through(rows))
        groups, width, _ = self._second.shape
        others = [axis for axis in range(3) if axis not in kept]
        order = [0, *(axis + 1 for axis in (*kept, *others)), 4]
        cube = self._second.reshape(groups, *self.sizes, width).permute(order)
        product = own @ cube.reshape(groups, own.shape[2], -1)
        return Features(rows, self._finished(product.reshape(rows.shape), rows))

    def energy(self, change: Tensor) -> float:
        """|E|^2."""
        own = change.to(self.dtype)
        return max(0.0, float((self.through(own) * own).double().sum()))

    def gram(self, rows: Tensor) -> Tensor:
        """rows @ C @ rows^T in float64, symmetric to the last bit."""
        own = rows.to(self.dtype)
        return Features(own, self.through(own)).gram

    def shift(self, change: Tensor) -> Tensor | None:
        """What the bias takes up of a change: E @ mean as (groups, T), or None where the layer has no bias."""
        return None if self._mean is None else (change.to(self.dtype) @ self._mean.unsqueeze(2)).squeeze(2)

    def _finished(self, products: Tensor, rows: Tensor) -> Tensor:
        """rows @ C from their products with the second moment: less those with the mean, where that is taken up."""
        whole = products + self._ridge * rows
        return whole if self._mean is None else whole - (rows @ self._mean.unsqueeze(2)) * self._mean.unsqueeze(1)

    def _power(self) -> Tensor:
        """Trace of C for each group, without the ridge."""
        if self._second is not None:
            whole = self._second.diagonal(dim1=1, dim2=2).sum(1)
            return whole if self._mean is None else (whole - self._mean.square().sum(1)).clamp_min(0)
        assert self._windows is not None  # one of the two is always there
        return self._windows.square().sum((1, 2)) / self._count


@dataclass(frozen=True)
class Features:
    """What the factors before the last give it: rows (groups, F, S * D), and rows @ C."""

    rows: Tensor
    through: Tensor

    @cached_property
    def gram(self) -> Tensor:
        """rows @ C @ rows^T in float64, symmetric to the last bit."""
        product = (self.through @ self.rows.mT).double()
        return (product + product.mT) / 2


def spread(vectors: Tensor, sizes: Sizes, kept: tuple[int, ...]) -> Tensor:
    """Vectors (groups, R, size of the `kept` of the axes S, Dh, Dw) at every place of the other axes.

    Gives (groups, R * places, S * D): the rows that a factor over the kept axes makes for one over the others.
    """
    others = [axis for axis in range(3) if axis not in kept]
    places = [torch.eye(sizes[axis], dtype=vectors.dtype) for axis in others]
    names = "".join("shw"[axis] for axis in kept)
    pairs = ["xyz"[axis] + "shw"[axis] for axis in others]
    made = "".join("xyz"[axis] for axis in others)
    own = vectors.reshape(*vectors.shape[:2], *(sizes[axis] for axis in kept))
    product = torch.einsum(f"gr{names},{','.join(pairs)}->gr{made}shw", own, *places)
    return product.reshape(len(vectors), -1, sizes[0] * sizes[1] * sizes[2])


def regress(metric: Metric, kernels: Tensor, features: Features) -> Tensor:
    """Coefficients X (groups, T, F) that bring X @ rows nearest to kernels (groups, T, S * D)."""
    gram = features.gram
    lengths = gram.diagonal(dim1=1, dim2=2).clamp_min(0).sqrt()
    scale = torch.where(lengths > 0, lengths, 1.0).unsqueeze(2)
    unit = gram / (scale * scale.mT) + torch.eye(gram.shape[1], dtype=gram.dtype) * FLOOR[metric.dtype]
    products = (features.through @ kernels.to(metric.dtype).mT).double() / scale
    solved: Tensor = torch.cholesky_solve(products, torch.linalg.cholesky(unit)) / scale
    return solved.mT.to(metric.dtype)
