"""CP: 1x1 convolution S -> R, depthwise window on R channels, 1x1 convolution R -> T, found in three ways.

`cp` is the tensor power method (Astrid & Lee 2017): greedy components, errors at every smaller rank for nothing.
`cp-polished` fits all components together, from orthogonal ones: the fit of ALS with components that hardly cancel. At
a quarter of the parameters of the 55 kernels of ResNet-56 (in brackets TensorLy's `parafac`, 200 sweeps in float32):
mean error 0.488 (0.492), smaller on 49 kernels and 0.012 larger at worst; stability number at most 4.2 (149); the power
method alone has 0.570, and joint fits from its components 0.488 too. results/weight_error.jsonl has it by kernel.
`cp-als` is plain alternating least squares, for comparison (Lebedev et al. 2015, with another ALS): its components may
cancel without bound, so read the stability number before using it.

Plain ALS lets components grow that cancel each other: on trained kernels the sum of squared component norms (the
stability number) reached 470 times |K|^2. In `polish` each least-squares problem carries a ridge, in proportion to what
is left to explain and stiffer the larger the stability number; what is returned is the best sweep within the bound.
Sweeps and the normal equations are those of Kolda and Bader 2009, section 3.4.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from functools import cache, partial
from math import prod

import torch
from torch import Tensor

from compressor.calibration import Moments
from compressor.decompositions.base import Factors, Method, Part, Solver
from compressor.decompositions.output_fit import ExplainedEnergy, FactorChain, Features, Inner, Metric, refine
from compressor.decompositions.slicewise_svd import SlicewiseComponents
from compressor.decompositions.tensor_power_method import (
    energy_left,
    greedy_components,
    greedy_sides,
)
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import Layer, layer_shape, split_kernels

Sides = tuple[Tensor, Tensor, Tensor]
"""Factor matrices a (groups, T, R), b (groups, S, R), c (groups, D, R): K[t, s, d] = sum of a[t, r] b[s, r] c[d, r]."""

SWEEPS = 60
"""As many as from the power method's components in 50, on average over those kernels; 45 leave 0.2 to 1.2 % more."""
RIDGE = 1.2e-3
"""Ridge for |K| = 1, as a fraction of the energy that is left: halved or doubled, mean errors move by under 0.002."""
STIFF_FROM = 2.0
"""Stability number above which the ridge grows, with the square of their ratio."""
MOST = 5.0
"""The largest stability number that is returned."""
MOMENTUM = 0.95
"""Most of a sweep's movement that is added to it (as Ang et al. 2019 do): 50 sweeps then fit like 200 without."""
FLOOR = 1e-9
"""Least ridge: keeps the normal equations solvable in float64 where components are parallel or zero."""
ROUNDING = 32 * torch.finfo(torch.float32).eps
"""A sweep solves its normal equations in float64 where a ridge is below this fraction of their trace."""
PARAFAC_SWEEPS = 200
PARAFAC_RIDGE = 1e-10
"""For |K| = 1 and in float64: so little that fits stay, enough to solve for more components than a kernel has."""
SHORT_FIT = 0.2, 10
"""Fraction of a kernel's parameters, and sweeps, of the fit that tells how much a joint fit gains on it."""
JOINT_GAIN = 0.91, 0.72
"""The error of a joint fit is a power of that of the orthogonal components it starts from: at a fraction f of the
parameters about the first plus f times the second, times the short fit's. On fourteen kernels of trained networks, from
16x16x9 to 128x128x9, estimates at 0.08 to 0.45 of the parameters are within 6 % of the error; a first layer with a 7x7
window is 11 % better at 0.3 than the error. One power for all kernels was off by up to a quarter."""
MOST_GAIN = 2.0
"""A kernel that the short fit finds exactly has no larger power: it tells nothing of smaller ranks."""
OUTPUT_GAIN = 1.2, 0.5
"""The output error after the search is about this power (the second times the fraction of the parameters is added) of
that of the orthogonal components with the last side refitted: on five kernels of ResNet-20 1.15 to 1.35 at an eighth
of the parameters, 1.20 to 1.45 at a quarter, 1.26 to 1.60 at 0.45."""
GREEDY_OUTPUT_GAIN = 1.25, 0.0
"""The same of greedy components: on ResNet-20's kernels 0.295 and 0.146 (at a quarter and half of the parameters)
became 0.221 and 0.087."""


def supports(shape: LayerShape) -> str | None:
    if shape.kind == "linear":
        return "a fully connected layer has no window, so CP is the SVD with a layer more; use svd"
    if prod(shape.window) == 1:
        return "a 1x1 window has one position, so CP is the SVD with a layer more; use svd"
    return None


def full_rank(shape: LayerShape) -> Rank:
    """min(TS, TD, SD): no three-way tensor has a larger rank. What is computed is seldom exact even there."""
    outputs, inputs, positions = shape.kernel
    return (min(outputs * inputs, outputs * positions, inputs * positions),)


def parts(shape: LayerShape, rank: Rank) -> tuple[Part, ...]:
    middle, groups, one = shape.groups * rank[0], shape.groups, (1, 1)
    before = LayerShape("conv", shape.inputs, middle, groups, one, shape.in_size, shape.in_size, False)
    window = LayerShape("conv", middle, middle, middle, shape.window, shape.in_size, shape.out_size, False)
    after = LayerShape("conv", middle, shape.outputs, groups, one, shape.out_size, shape.out_size, shape.bias)
    return Part(before), Part(window, (True, True)), Part(after)


def greedy(layer: Layer, seed: int, moments: Moments | None) -> Solver:
    """Greedy rank-one components of every group's T x S x D kernel; with `moments`, the search starts from them."""
    kernels = split_kernels(layer)
    groups = greedy_components(kernels, seed)
    sides = partial(greedy_sides, groups)
    if moments is not None:
        return _fitted_to_outputs(layer, kernels, moments, sides, sides, GREEDY_OUTPUT_GAIN)

    def numbers(rank: Rank) -> tuple[float, float]:
        """sqrt(|K|^2 - sum of d^2) / |K|, and the sum of d^2 over |K|^2: the terms never cancel. Both 0 for K = 0."""
        error = math.sqrt(energy_left(groups, rank[0]))
        return error, 1.0 - error**2 if any(group.energy for group in groups) else 0.0

    return Solver(
        lambda rank: Factors(*numbers(rank), _weights(sides(rank[0]))), lambda rank: numbers(rank)[0], numbers
    )


def polished(layer: Layer, _seed: int, moments: Moments | None) -> Solver:
    """Orthogonal components, worked out once for all ranks, fitted together anew at every rank."""
    kernels = split_kernels(layer)
    components = SlicewiseComponents(kernels)

    def sides(count: int) -> Sides:
        start = components.sides(count)
        # Nothing of its rank fits a matrix better than its singular vectors.
        return start if min(kernels.shape[1:]) == 1 else polish(kernels, start)

    if moments is not None:
        return _fitted_to_outputs(layer, kernels, moments, components.sides, sides, OUTPUT_GAIN)
    return _fitted_to_weights(kernels, components, sides)


def als(layer: Layer, seed: int, moments: Moments | None) -> Solver:
    """Components by TensorLy's `parafac` at every rank. Estimates are those of `polished`, which fits alike."""
    kernels = split_kernels(layer)
    components, sides = SlicewiseComponents(kernels), partial(parafac_sides, kernels, seed)
    if moments is not None:
        return _fitted_to_outputs(layer, kernels, moments, components.sides, sides, OUTPUT_GAIN, math.inf)
    return _fitted_to_weights(kernels, components, sides)


def _weights(sides: Sides) -> Sides:
    """The weights of the three layers, in their order: (groups, R, S), (groups, R, D), (groups, T, R)."""
    outputs, inputs, window = sides
    return inputs.mT, window.mT, outputs


def _dense_rank(kernels: Tensor) -> float:
    """The rank at which factors are as large as a kernel."""
    return prod(kernels.shape[1:]) / sum(kernels.shape[1:])


def _fitted_to_weights(kernels: Tensor, components: SlicewiseComponents, sides: Callable[[int], Sides]) -> Solver:
    whole = float(kernels.double().square().sum())

    def factors(rank: Rank) -> Factors:
        found = sides(rank[0])
        if not whole:
            return Factors(0.0, 0.0, _weights(found))
        left = float((kernels.flatten(2) - rebuilt(found)).double().square().sum())
        return Factors(math.sqrt(left / whole), float(strengths(found).sum()) / whole, _weights(found))

    dense = _dense_rank(kernels)

    @cache
    def gain() -> float:
        fraction, sweeps = SHORT_FIT
        count = max(1, round(fraction * dense))
        before, short = components.left(count), polish(kernels, components.sides(count), sweeps)
        after = float((kernels.flatten(2) - rebuilt(short)).double().square().sum()) / whole
        return min(MOST_GAIN, math.log(after) / math.log(before)) if 0 < after < before < 1 else 1.0

    def estimate(rank: Rank) -> float:
        left = components.left(rank[0])
        if not left or min(kernels.shape[1:]) == 1:
            return math.sqrt(left)
        least, slope = JOINT_GAIN
        return math.pow(left, gain() * (least + slope * min(1.0, rank[0] / dense)) / 2)

    return Solver(factors, estimate)


def _fitted_to_outputs(
    layer: Layer,
    kernels: Tensor,
    moments: Moments,
    nested: Callable[[int], Sides],
    start: Callable[[int], Sides],
    gain: tuple[float, float],
    bound: float = MOST,
) -> Solver:
    """Searches from `start`'s sides at every rank; what is returned has a stability number up to `bound`, as they must.

    Estimates come from `nested` components, of which the first of many are those of few, and their `gain`.
    """
    metric, flat = Metric(layer, moments), kernels.flatten(2)
    whole = float(kernels.double().square().sum())

    def rows(inner: Inner) -> Tensor:
        """(groups, R, S * D)."""
        b, c = inner
        return khatri_rao(b, c).mT

    def features(inner: Inner) -> Features:
        made = rows(inner).to(metric.dtype)
        return Features(made, metric.through(made))

    def strength(a: Tensor, b: Tensor, c: Tensor) -> float:
        return float(strengths((a, b, c)).sum())

    def block(first: int, end: int) -> Features:
        _, b, c = (side[:, :, first:] for side in nested(end))
        return features((b, c))

    chain = FactorChain(rows, features, allowed=lambda outer, inner: strength(outer, *inner) <= bound * whole)
    explained = ExplainedEnergy(metric, flat, block, full_rank(layer_shape(layer))[0])

    def factors(rank: Rank) -> Factors:
        a, *inner = start(rank[0])
        a, (b, c) = refine(metric, flat, chain, a, tuple(inner))
        found = balanced((a, b, c))
        stability = strength(*found) / whole if whole else 0.0
        error, shift = metric.lost(flat, rebuilt(found))
        return Factors(error, stability, _weights(found), shift)

    def estimate(rank: Rank) -> float:
        return math.pow(explained.error(rank[0]), gain[0] + gain[1] * min(1.0, rank[0] / _dense_rank(kernels)))

    return Solver(factors, estimate)


def balanced(sides: Sides) -> Sides:
    """The same components, each with the same norm on its three sides: the least sum of squares for what they make."""
    norms = [torch.linalg.vector_norm(side, dim=1, keepdim=True) for side in sides]
    root = (norms[0] * norms[1] * norms[2]).pow(1 / 3)
    a, b, c = (side * (root / norm.clamp_min(1e-30)) for side, norm in zip(sides, norms, strict=True))
    return a, b, c


def strengths(sides: Sides) -> Tensor:
    """Sum of squared component norms of each group, in float64: sum over r of |a_r|^2 |b_r|^2 |c_r|^2."""
    a, b, c = (side.double().square().sum(1) for side in sides)
    return (a * b * c).sum(1)


def rebuilt(sides: Sides) -> Tensor:
    """The kernels (groups, T, S * D) that the sides make."""
    a, b, c = sides
    return a @ khatri_rao(b, c).mT


def khatri_rao(b: Tensor, c: Tensor) -> Tensor:
    """Columnwise products of every pair of rows: (groups, S, R), (groups, D, R) -> (groups, S * D, R)."""
    return (b.unsqueeze(2) * c.unsqueeze(1)).flatten(1, 2)


def polish(kernels: Tensor, sides: Sides, sweeps: int = SWEEPS) -> Sides:
    """Sides that fit (groups, T, S, D) kernels at least as well as those given, with a stability number up to MOST.

    The given ones must be within that bound, as orthogonal components are. All groups sweep together.
    """
    # |K| of each group as (groups, 1, 1), 1 for a zero kernel; no square of it overflows or vanishes.
    largest = kernels.abs().amax((1, 2, 3), keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    scale = (largest * torch.linalg.vector_norm(kernels / largest, dim=(1, 2, 3), keepdim=True)).squeeze(3)
    scale = torch.where(scale > 0, scale, 1.0)
    # The longest mode comes first and the shortest, mostly the window, last.
    order = sorted(range(3), key=lambda mode: -kernels.shape[mode + 1])
    cube = (kernels / scale.unsqueeze(3)).permute(0, *(mode + 1 for mode in order))
    flat = cube.flatten(2)
    # Rows (second, third) by the first mode, and rows (first, third) by the second.
    unfoldings = flat.mT.contiguous(), cube.permute(0, 1, 3, 2).flatten(1, 2).contiguous()
    a, b, c = (sides[mode] / scale.pow(1 / 3) for mode in order)
    current = best = balanced((a, b, c))
    whole = flat.double().square().sum((1, 2))
    strength, left = strengths(best), (rebuilt(best) - flat).double().square().sum((1, 2))
    least, penalty = left, _penalty(best)
    momentum = torch.full_like(left, MOMENTUM / 2)
    for _ in range(sweeps):
        ridge = RIDGE * left * (strength / STIFF_FROM).clamp_min(1.0).square() + FLOOR
        goal = left + ridge * penalty
        fresh, explained = _sweep(unfoldings, b, c, ridge)
        left = (whole - explained).clamp_min(0.0)
        strength, penalty = strengths(fresh), _penalty(fresh)
        better = (left < least) & (strength <= MOST)
        least = torch.where(better, left, least)
        mask = better[:, None, None]
        a, b, c = (torch.where(mask, new, old) for new, old in zip(fresh, best, strict=True))
        best = a, b, c
        rose = left + ridge * penalty > goal
        momentum = torch.where(rose, momentum / 2, (momentum * 1.1).clamp_max(MOMENTUM))
        step = torch.where(rose, 0.0, momentum).to(flat.dtype)[:, None, None]
        b, c = (new + step * (new - old) for new, old in zip(fresh[1:], current[1:], strict=True))
        current = fresh
    a, b, c = (best[order.index(mode)] * scale.pow(1 / 3) for mode in range(3))
    return a, b, c


def _sweep(unfoldings: tuple[Tensor, Tensor], b: Tensor, c: Tensor, ridge: Tensor) -> tuple[Sides, Tensor]:
    """New sides, balanced, and |K|^2 - |K - rebuilt|^2 of each group from the Grams, without rebuilding.

    Each side solves (Hadamard product of the other two's Grams + ridge) X = K * Khatri-Rao product. Products of the
    kernel with a long side take most of the time, and each serves two: that with b a and c, that with a b and c.
    """
    by_first, by_second = unfoldings
    groups, _, rank = b.shape
    least = ROUNDING * (b.square().sum(1) * c.square().sum(1)).sum(1)
    dtype = torch.float64 if bool((ridge < least).any()) else b.dtype
    ridge = ridge.to(dtype)
    gram_b = _gram(b, dtype)
    planes = (by_second @ b).reshape(groups, -1, c.shape[1], rank)
    a = _solve((planes * c.unsqueeze(1)).sum(2), gram_b * _gram(c, dtype), ridge)
    gram_a = _gram(a, dtype)
    c = _solve((planes * a.unsqueeze(2)).sum(1), gram_a * gram_b, ridge)
    planes = (by_first @ a).reshape(groups, -1, c.shape[1], rank)
    b = _solve((planes * c.unsqueeze(1)).sum(2), gram_a * _gram(c, dtype), ridge)
    gram_b = _gram(b, dtype)
    of_c = (planes * b.unsqueeze(2)).sum(1)
    c = _solve(of_c, gram_a * gram_b, ridge)
    inner = (c.double() * of_c.double()).sum((1, 2))
    explained = 2 * inner - (gram_a * gram_b * _gram(c, dtype)).sum((1, 2), dtype=torch.float64)
    return balanced((a, b, c)), explained


def _solve(products: Tensor, gram: Tensor, ridge: Tensor) -> Tensor:
    """(groups, side, R) from the normal equations, by Cholesky in the type of the Gram matrix."""
    damped = gram + torch.diag_embed(ridge.unsqueeze(1).expand(-1, gram.shape[1]))
    solved: Tensor = torch.cholesky_solve(products.to(gram.dtype).mT, torch.linalg.cholesky(damped))
    return solved.mT.to(products.dtype)


def _gram(side: Tensor, dtype: torch.dtype) -> Tensor:
    exact = side.to(dtype)
    return exact.mT @ exact


def _penalty(sides: Sides) -> Tensor:
    return sum((side.double().square().sum((1, 2)) for side in sides), torch.zeros(()))


def parafac_sides(kernels: Tensor, seed: int, count: int) -> Sides:
    """Sides of `count` components by TensorLy's `parafac`; a group's own seed is `seed` plus its number."""
    from tensorly.decomposition import parafac

    groups = []
    for number, kernel in enumerate(kernels):
        scale = float(torch.linalg.vector_norm(kernel, dtype=torch.float64))
        if not scale:
            groups.append([torch.zeros(size, count, dtype=kernel.dtype) for size in kernel.shape])
            continue
        unit = (kernel.double() / scale).numpy()
        with warnings.catch_warnings():
            # A mode with fewer singular vectors than components starts the others at random, as it should, and says so.
            warnings.filterwarnings("ignore", "Trying to compute SVD with n_eigenvecs", UserWarning)
            found = parafac(unit, count, PARAFAC_SWEEPS, init="svd", random_state=seed + number, l2_reg=PARAFAC_RIDGE)
        sides = [torch.from_numpy(side) for side in found.factors]
        norms = [torch.linalg.vector_norm(side, dim=0) for side in sides]
        root = (scale * norms[0] * norms[1] * norms[2]).pow(1 / 3)
        pairs = zip(sides, norms, strict=True)
        groups.append([(side * (root / norm.clamp_min(1e-300))).to(kernel.dtype) for side, norm in pairs])
    a, b, c = (torch.stack(sides) for sides in zip(*groups, strict=True))
    return a, b, c


CP = Method("CP", supports, full_rank, parts, greedy)
CP_POLISHED = Method("polished CP", supports, full_rank, parts, polished)
CP_ALS = Method("CP-ALS", supports, full_rank, parts, als)
