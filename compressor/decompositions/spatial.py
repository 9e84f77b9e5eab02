"""Separable windows: one side on S -> R, the other on R -> T (Jaderberg et al. 2014; by SVD, Tai et al. 2016)."""

from __future__ import annotations

import math

import torch
from torch import nn

from compressor.calibration import Moments
from compressor.decompositions.base import Decomposition, Method, Run, RunsByRank, windowed
from compressor.decompositions.matrix_svd import MatrixDecomposition
from compressor.decompositions.output_fit import Form, output_run, refine
from compressor.decompositions.output_metric import Explained, Metric, regress, spread
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import Layer, conv_like, layer_shape, split_kernels

LABEL = "spatial"
GAIN = 1.09
"""The output error after the search is about this power of that of the plain first layer with the second refitted: on
ResNet-20's kernels 0.345 and 0.183 (at a quarter and half of the parameters) became 0.313 and 0.158."""


def decompose(layer: Layer, seed: int, moments: Moments | None = None) -> Decomposition:
    """Singular vectors of every group's unfolding: (T * Dw) x (S * Dh), or (T * Dh) x (S * Dw) with the width first.

    With `moments` these are where the search for the least output error starts.
    """
    del seed  # nothing is drawn
    layer = windowed(layer, LABEL, supports)
    kernels = split_kernels(layer)
    kernels = kernels.reshape(*kernels.shape[:3], *layer.kernel_size)
    if height_first(layer_shape(layer)):
        kernels = kernels.mT
    # Rows: output channels and the second window. Columns: input channels and the first.
    matrices = kernels.transpose(2, 3).flatten(3).flatten(1, 2)
    plain = MatrixDecomposition(layer, matrices, layers, LABEL)
    return plain if moments is None else _fitted_to_outputs(layer, plain, Metric(layer, moments))


def _fitted_to_outputs(layer: nn.Conv2d, plain: MatrixDecomposition, metric: Metric) -> Decomposition:
    kernels, shape = split_kernels(layer).flatten(2), layer_shape(layer)
    # Axes of a group's inputs that the first layer sums over, and the side of the second's window.
    kept, second = ((0, 1), layer.kernel_size[1]) if height_first(shape) else ((0, 2), layer.kernel_size[0])
    form = Form(
        lambda inner: spread(inner[0], metric.sizes, kept), lambda inner: metric.features(inner[0], kept), regress
    )
    explained = Explained(
        metric, kernels, lambda first, end: metric.features(plain.sides(end)[0][:, first:], kept), plain.full, second
    )

    def run(rank: Rank) -> Run:
        first, last = plain.sides(rank[0])
        start = last.reshape(*last.shape[:2], -1, second).transpose(1, 2).flatten(2)
        outer, (inner,) = refine(metric, kernels, form, start, (first,))
        approximation = outer @ form.rows((inner,))
        # Both layers get the same share of each component's size.
        outer = outer.reshape(*outer.shape[:2], -1, second)
        sizes = inner.norm(dim=2), outer.norm(dim=(1, 3))
        balance = torch.where((sizes[0] > 0) & (sizes[1] > 0), (sizes[1] / sizes[0]).sqrt(), 1.0)
        weights = inner * balance[:, :, None], outer / balance[:, None, :, None]
        return output_run(metric, kernels, approximation, weights)

    def estimate(rank: Rank) -> float:
        return math.pow(explained.error(rank[0]), GAIN)

    return RunsByRank(layer, run, estimate, layers, full_rank(shape), LABEL, "outputs")


def height_first(shape: LayerShape) -> bool:
    """Whether Dh x 1 on the inputs and 1 x Dw on the outputs take at most the parameters of the other order.

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


def parts(shape: LayerShape, rank: Rank) -> tuple[LayerShape, ...]:
    middle, groups = shape.groups * rank[0], shape.groups
    height, width = shape.window
    if height_first(shape):
        first, second, between = (height, 1), (1, width), (shape.out_size[0], shape.in_size[1])
    else:
        first, second, between = (1, width), (height, 1), (shape.in_size[0], shape.out_size[1])
    return (
        LayerShape("conv", shape.inputs, middle, groups, first, shape.in_size, between, False),
        LayerShape("conv", middle, shape.outputs, groups, second, between, shape.out_size, shape.bias),
    )


def layers(layer: Layer, rank: Rank) -> nn.Sequential:
    layer = windowed(layer, LABEL, supports)
    middle, groups = layer.groups * rank[0], layer.groups
    height, width = layer.kernel_size
    tall, wide = ((height, 1), (True, False)), ((1, width), (False, True))
    first, second = (tall, wide) if height_first(layer_shape(layer)) else (wide, tall)
    new = nn.Sequential(
        conv_like(layer, (layer.in_channels, middle), window=first[0], groups=groups, owns=first[1]),
        conv_like(layer, (middle, layer.out_channels), window=second[0], groups=groups, owns=second[1], bias=True),
    )
    return new.train(layer.training)


METHOD = Method(LABEL, supports, full_rank, parts, layers, decompose)
