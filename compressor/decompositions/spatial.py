"""Separable windows: one side on S -> R, the other on R -> T.

Jaderberg et al. 2014, scheme 2; by the SVD of an unfolding, Tai et al. 2016, theorem 1.
"""

from __future__ import annotations

import math
from functools import partial

import torch

from compressor.calibration import Moments
from compressor.decompositions.base import Factors, Method, Part, Solver
from compressor.decompositions.output_fit import ExplainedEnergy, FactorChain, Metric, output_factors, refine, spread
from compressor.decompositions.svd import SingularVectors
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import Layer, layer_shape, split_kernels

GAIN = 1.09
"""The output error after the search is about this power of that of the plain first layer with the second refitted: on
ResNet-20's kernels 0.345 and 0.183 (at a quarter and half of the parameters) became 0.313 and 0.158."""


def height_first(shape: LayerShape) -> bool:
    """True where Dh x 1 on the inputs and 1 x Dw on the outputs take at most the parameters of the other order.

    S·Dh + T·Dw <= S·Dw + T·Dh: the long side goes to the smaller number of channels. Of the shape's fields only
    channels and window decide, for these alone are known to the layer too; at equal strides the MACs agree.
    """
    height, width = shape.window
    return (height - width) * (shape.inputs - shape.outputs) <= 0


def supports(shape: LayerShape) -> str | None:
    if shape.kind == "linear":
        return "a fully connected layer has no window to separate; use svd"
    height, width = shape.window
    if height == width == 1:
        return "a 1x1 window has one position, so spatial is the SVD; use svd"
    if 1 in shape.window:
        return f"a {height}x{width} window has one side already, so there is nothing to separate; use channel"
    return None


def full_rank(shape: LayerShape) -> Rank:
    """The smaller side of the unfolding."""
    outputs, inputs, _ = shape.kernel
    height, width = shape.window
    first, second = (height, width) if height_first(shape) else (width, height)
    return (min(outputs * second, inputs * first),)


def parts(shape: LayerShape, rank: Rank) -> tuple[Part, ...]:
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


def solver(layer: Layer, _seed: int, moments: Moments | None) -> Solver:
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
        return output_factors(metric, flat, approximation, weights)

    return Solver(factors, lambda rank: math.pow(explained.error(rank[0]), GAIN))


METHOD = Method("spatial", supports, full_rank, parts, solver)
