"""Factors fitted to a layer's outputs: the metric of its inputs, least squares in it, and the search for the factors.

A form's kernels are X @ rows(inner): `inner` are the factors before the last. For any inner factors the best X is a
closed form (`regress`), so only these are searched (variable projection: Golub and Pereyra 1973), by L-BFGS from the
factors that fit the weights (`refine`). No step makes it worse, so no output error is above that of those factors.

At a quarter of the parameters of the 3x3 kernels of ResNet-20, output error on images that were not fitted: the power
method's CP 0.428, last factor refitted 0.297, 20 steps 0.226, 60 steps 0.216; spatial 0.508, 0.348, 0.316; Tucker-2
0.551, 0.383, 0.368. Starting from a kernel whitened by the covariance of its input channels and window positions (CP
0.343, refitted 0.307, 20 steps 0.236) ended no better.
"""

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

RIDGE = 1e-3
"""Least white noise on the inputs, as a fraction of their mean power: keeps the metric definite where they are copies
or dead. Few windows ask for more, or what is fitted is their accidents: the noise is at least inputs / windows. So
ResNet-18's fc (512 inputs, rank 84, 256 images) has an output error of 0.350 on other images; plainly fitted 0.372,
with the least noise 0.378. A 1x1 layer (256 inputs, 1,024 windows) was best at 0.3, where the rule gives 0.25."""
FLOOR = {torch.float32: 1e-5, torch.float64: 1e-10}
"""Added to the diagonal of normal equations whose features have length one: keeps them solvable where some agree, and
lets no rounding count as something new."""
BLOCK = 32
"""Components taken in at once. Blocks are always the same, so that no estimate depends on what was asked before."""
ROUND = 5
"""Steps of the search between looks at what they gained."""
ROUNDS = 5
LEAST_GAIN = 0.01
"""A round that takes less than this fraction off the squared error is the last."""

Sizes = tuple[int, int, int]
"""Of the axes S, Dh, Dw of a group's inputs."""
Inner = tuple[Tensor, ...]
"""Factors before the last."""


class Metric:
    """|E|^2 = tr(E C E^T) for a change E of a layer's kernels (groups, T, S * D), all groups together.

    C is the second moment of the inputs, the uncentred one. Where the layer has a bias it is the covariance instead:
    the bias takes up the mean of a change, as `shift` tells. PlanError for moments of another layer.
    """

    def __init__(self, layer: Layer, moments: Moments) -> None:
        kernels = split_kernels(layer)
        groups, width = len(kernels), kernels.shape[2] * kernels.shape[3]
        height, across = layer.kernel_size if isinstance(layer, nn.Conv2d) else (1, 1)
        self.sizes: Sizes = (kernels.shape[2], height, across)
        if tuple(moments.mean.shape) != (groups, width):
            given, wanted = "x".join(map(str, moments.mean.shape)), f"{groups}x{width}"
            raise PlanError(
                f"moments must be those of the layer's own inputs: these are {given} (groups x inputs), the layer "
                f"reads {wanted}; collect them from this network"
            )
        self._mean = moments.mean if layer.bias is not None else None
        self._count = moments.count
        self._windows = moments.windows
        self._second = moments.second
        if self._mean is not None and self._windows is not None:
            self._windows = self._windows - self._mean.unsqueeze(1)
        if self._second is not None:
            power = self._second.diagonal(dim1=1, dim2=2).sum(1)  # the trace of C, without the ridge
            power = power if self._mean is None else (power - self._mean.square().sum(1)).clamp_min(0)
        else:
            assert self._windows is not None  # one of the two is always there
            power = self._windows.square().sum((1, 2)) / self._count
        power = power / width
        noise = max(RIDGE, width / moments.count)
        self._ridge = torch.where(power > 0, noise * power, 1.0)[:, None, None]

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

    def features(self, vectors: Tensor, axes: tuple[int, ...]) -> Features:
        """Features of `spread` vectors; their product with C takes a fraction of the general one's work."""
        vectors = vectors.detach().to(self.dtype)
        rows = spread(vectors, self.sizes, axes)
        if self._second is None:
            return Features(rows, self.through(rows))
        groups, width, _ = self._second.shape
        others = [axis for axis in range(3) if axis not in axes]
        order = [0, *(axis + 1 for axis in (*axes, *others)), 4]
        cube = self._second.reshape(groups, *self.sizes, width).permute(order)
        product = vectors @ cube.reshape(groups, vectors.shape[2], -1)
        return Features(rows, self._finished(product.reshape(rows.shape), rows))

    def energy(self, change: Tensor) -> float:
        """|E|^2."""
        change = change.to(self.dtype)
        return max(0.0, float((self.through(change) * change).double().sum()))

    def gram(self, rows: Tensor) -> Tensor:
        """rows @ C @ rows^T in float64, symmetric to the last bit."""
        rows = rows.to(self.dtype)
        return Features(rows, self.through(rows)).gram

    def shift(self, change: Tensor) -> Tensor | None:
        """E @ mean as (groups, T), which the bias takes up, or None where the layer has no bias."""
        return None if self._mean is None else (change.to(self.dtype) @ self._mean.unsqueeze(2)).squeeze(2)

    def lost(self, kernels: Tensor, approximation: Tensor) -> tuple[float, Tensor | None]:
        """Relative output error of an approximation of kernels (groups, T, S * D), and its `shift`."""
        left = kernels.to(self.dtype) - approximation
        whole = self.energy(kernels)
        return math.sqrt(self.energy(left) / whole) if whole else 0.0, self.shift(left)

    def _finished(self, products: Tensor, rows: Tensor) -> Tensor:
        """rows @ C from their products with the second moment: less those with the mean, where that is taken up."""
        whole = products + self._ridge * rows
        return whole if self._mean is None else whole - (rows @ self._mean.unsqueeze(2)) * self._mean.unsqueeze(1)


@dataclass(frozen=True)
class Features:
    """Rows (groups, F, S * D) that the factors before the last make for it, and rows @ C."""

    rows: Tensor
    through: Tensor

    @cached_property
    def gram(self) -> Tensor:
        """rows @ C @ rows^T in float64, symmetric to the last bit."""
        product = (self.through @ self.rows.mT).double()
        return (product + product.mT) / 2


def spread(vectors: Tensor, sizes: Sizes, axes: tuple[int, ...]) -> Tensor:
    """Vectors (groups, R, size of some `axes` of S, Dh, Dw) at every position of the other axes.

    Gives (groups, R * positions, S * D): the rows that a factor over these axes makes for one over the others.
    """
    others = [axis for axis in range(3) if axis not in axes]
    positions = [torch.eye(sizes[axis], dtype=vectors.dtype) for axis in others]
    names = "".join("shw"[axis] for axis in axes)
    pairs = ["xyz"[axis] + "shw"[axis] for axis in others]
    made = "".join("xyz"[axis] for axis in others)
    cube = vectors.reshape(*vectors.shape[:2], *(sizes[axis] for axis in axes))
    product = torch.einsum(f"gr{names},{','.join(pairs)}->gr{made}shw", cube, *positions)
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


class ExplainedEnergy:
    """Energy of kernels (groups, T, S * D) explained by features, after refitting the last factor to them.

    `block(first, end)` gives the features of those of the `most` components, `rows` of them for a component. By
    Gram-Schmidt in the metric every component adds what it explains beyond those before it, as in a regression.
    """

    def __init__(
        self, metric: Metric, kernels: Tensor, block: Callable[[int, int], Features], most: int, rows: int = 1
    ) -> None:
        self._metric, self._block, self._most, self._rows = metric, block, most, rows
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
        while len(self._sums) <= count * self._rows:
            self._extend()
        explained = float(self._sums[count * self._rows, :outputs].sum())
        return math.sqrt(min(1.0, max(0.0, 1 - explained / self._whole)))

    def _extend(self) -> None:
        first = (len(self._sums) - 1) // self._rows
        new = self._block(first, min(first + BLOCK, self._most))
        lengths = (new.through * new.rows).sum(2, keepdim=True).clamp_min(0).sqrt()
        scale = torch.where(lengths > 0, lengths, 1.0)
        known = (new.rows / scale) @ self._basis.through.mT
        fresh = Features(new.rows / scale - known @ self._basis.rows, new.through / scale - known @ self._basis.through)
        floor = FLOOR[self._metric.dtype] * torch.eye(fresh.gram.shape[1], dtype=torch.float64)
        lower = torch.linalg.cholesky(fresh.gram + floor).to(fresh.rows.dtype)
        rows, through = (
            torch.linalg.solve_triangular(lower, part, upper=False) for part in (fresh.rows, fresh.through)
        )
        self._basis = Features(torch.cat([self._basis.rows, rows], 1), torch.cat([self._basis.through, through], 1))
        gained = (through @ self._kernels.mT).double().square().sum(0)
        self._sums = torch.cat([self._sums, self._sums[-1] + gained.cumsum(0)])


@dataclass(frozen=True)
class FactorChain:
    """A form's kernels as X @ rows(inner).

    `rows` gives (groups, F, S * D), and torch must be able to differentiate it; `features` gives them with their
    product with the metric. `solve` gives the best X, (groups, T, F), for features. `allowed` says whether a solution
    may be returned.
    """

    rows: Callable[[Inner], Tensor]
    features: Callable[[Inner], Features]
    solve: Callable[[Metric, Tensor, Features], Tensor] = regress
    allowed: Callable[[Tensor, Inner], bool] = lambda _outer, _inner: True


def refine(metric: Metric, kernels: Tensor, chain: FactorChain, outer: Tensor, inner: Inner) -> tuple[Tensor, Inner]:
    """X and inner factors with the least output error that the search from those given finds; never a larger one."""
    goal = kernels.to(metric.dtype)
    best = outer.to(metric.dtype), tuple(side.to(metric.dtype) for side in inner)
    whole = metric.energy(goal)
    if not whole:
        return best
    aim = metric.through(goal)
    least = metric.energy(goal - best[0] @ chain.rows(best[1])) / whole
    last = least
    moving = [side.clone(memory_format=torch.contiguous_format).requires_grad_(True) for side in best[1]]
    search = torch.optim.LBFGS(moving, max_iter=ROUND, max_eval=2 * ROUND, line_search_fn="strong_wolfe")

    def loss() -> float:
        nonlocal best, least, last
        search.zero_grad()
        rows = chain.rows(tuple(moving))
        with torch.no_grad():
            features = chain.features(tuple(moving))
            solved = chain.solve(metric, goal, features)
            through = aim - solved @ features.through
            last = float((through * (goal - solved @ features.rows)).double().sum()) / whole
            here = tuple(side.clone() for side in moving)
            if last < least and chain.allowed(solved, here):
                best, least = (solved, here), last
        # At the best X the gradient by the inner factors is that with X held still.
        rows.backward(solved.mT @ through * (-2 / whole))  # type: ignore[no-untyped-call]  # torch publishes no types
        return last

    before = math.inf
    for _ in range(ROUNDS):
        search.step(loss)  # type: ignore[no-untyped-call]  # torch publishes no types
        if last > (1 - LEAST_GAIN) * before:
            break
        before = last
    return best
