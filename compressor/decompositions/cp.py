"""CP: 1x1 convolution S -> R, depthwise window on R channels, 1x1 convolution R -> T, found in three ways.

`cp` is the tensor power method (Astrid & Lee 2017): greedy components, errors at every smaller rank for nothing.
`cp-polished` fits all components together from there: the fit of ALS with components that hardly cancel. At a quarter
of the parameters of the 55 kernels of ResNet-56 (in brackets TensorLy's `parafac`, 200 sweeps in float32): mean error
0.488 (0.492), smaller on 49 kernels and 0.012 larger at worst; stability number at most 4.2 (149), 2.4 s of one
thread's CPU time (6.3 s); the power method alone has 0.570 in 0.7 s. results/weight_error.jsonl has it by kernel.
`cp-als` is plain alternating least squares, for comparison (Lebedev et al. 2015, with another ALS): its components may
cancel without bound, so read the stability number before using it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from math import prod

from torch import Tensor

from compressor.calibration import Moments
from compressor.decompositions.base import Factors, Method, Part, Solver
from compressor.decompositions.cp_joint_fit import (
    MOST,
    Sides,
    balanced,
    khatri_rao,
    parafac_sides,
    polish,
    rebuilt,
    strengths,
)
from compressor.decompositions.output_fit import (
    ExplainedEnergy,
    FactorChain,
    Features,
    Inner,
    Metric,
    output_factors,
    refine,
)
from compressor.decompositions.tensor_power_method import (
    Components,
    SingularComponents,
    energy_left,
    greedy_components,
    greedy_sides,
)
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import Layer, layer_shape, split_kernels

JOINT_GAIN = 1.3
"""The weight error of a joint fit is about this power of the greedy one: on ResNet-20's kernels 0.583 and 0.404 (at a
quarter and half of the parameters) became 0.510 and 0.260."""
OUTPUT_GAIN = 1.25
"""The output error after the search is about this power of that of the greedy components with the last side refitted:
on ResNet-20's kernels 0.295 and 0.146 (at a quarter and half of the parameters) became 0.221 and 0.087."""


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
        return _fitted_to_outputs(layer, kernels, moments, groups, sides)

    def numbers(rank: Rank) -> tuple[float, float]:
        """sqrt(|K|^2 - sum of d^2) / |K|, and the sum of d^2 over |K|^2: the terms never cancel. Both 0 for K = 0."""
        error = math.sqrt(energy_left(groups, rank[0]))
        return error, 1.0 - error**2 if any(group.energy for group in groups) else 0.0

    return Solver(
        lambda rank: Factors(*numbers(rank), _weights(sides(rank[0]))), lambda rank: numbers(rank)[0], numbers
    )


def polished(layer: Layer, seed: int, moments: Moments | None) -> Solver:
    """The same greedy components, computed once, fitted together anew at every rank."""
    kernels = split_kernels(layer)
    groups = greedy_components(kernels, seed)

    def sides(count: int) -> Sides:
        start = greedy_sides(groups, count)
        # Nothing of its rank fits a matrix better than its singular vectors.
        return start if isinstance(groups[0], SingularComponents) else polish(kernels, start)

    if moments is not None:
        return _fitted_to_outputs(layer, kernels, moments, groups, sides)
    return _fitted_to_weights(kernels, groups, sides)


def als(layer: Layer, seed: int, moments: Moments | None) -> Solver:
    """Components by TensorLy's `parafac` at every rank. Estimates are those of `polished`, which fits alike."""
    kernels = split_kernels(layer)
    groups, sides = greedy_components(kernels, seed), partial(parafac_sides, kernels, seed)
    if moments is not None:
        return _fitted_to_outputs(layer, kernels, moments, groups, sides, bound=math.inf)
    return _fitted_to_weights(kernels, groups, sides)


def _weights(sides: Sides) -> Sides:
    """The weights of the three layers, in their order: (groups, R, S), (groups, R, D), (groups, T, R)."""
    outputs, inputs, window = sides
    return inputs.mT, window.mT, outputs


def _fitted_to_weights(kernels: Tensor, groups: list[Components], sides: Callable[[int], Sides]) -> Solver:
    whole = float(kernels.double().square().sum())

    def factors(rank: Rank) -> Factors:
        found = sides(rank[0])
        if not whole:
            return Factors(0.0, 0.0, _weights(found))
        left = float((kernels.flatten(2) - rebuilt(found)).double().square().sum())
        return Factors(math.sqrt(left / whole), float(strengths(found).sum()) / whole, _weights(found))

    return Solver(factors, lambda rank: math.pow(energy_left(groups, rank[0]), JOINT_GAIN / 2))


def _fitted_to_outputs(
    layer: Layer,
    kernels: Tensor,
    moments: Moments,
    groups: list[Components],
    start: Callable[[int], Sides],
    bound: float = MOST,
) -> Solver:
    """Searches from `start`'s sides at every rank; what is returned has a stability number up to `bound`, as they must.

    Estimates come from the greedy components of `groups`, whatever the start.
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
        _, b, c = (side[:, :, first:] for side in greedy_sides(groups, end))
        return features((b, c))

    chain = FactorChain(rows, features, allowed=lambda outer, inner: strength(outer, *inner) <= bound * whole)
    explained = ExplainedEnergy(metric, flat, block, full_rank(layer_shape(layer))[0])

    def factors(rank: Rank) -> Factors:
        a, *inner = start(rank[0])
        a, (b, c) = refine(metric, flat, chain, a, tuple(inner))
        found = balanced((a, b, c))
        stability = strength(*found) / whole if whole else 0.0
        return output_factors(metric, flat, rebuilt(found), _weights(found), stability)

    return Solver(factors, lambda rank: math.pow(explained.error(rank[0]), OUTPUT_GAIN))


CP = Method("CP", supports, full_rank, parts, greedy)
CP_POLISHED = Method("polished CP", supports, full_rank, parts, polished)
CP_ALS = Method("CP-ALS", supports, full_rank, parts, als)
