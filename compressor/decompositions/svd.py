"""The SVD of a fully connected layer or a 1x1 convolution: S -> R -> T, from the Gram matrix of the smaller side."""

from __future__ import annotations

from math import prod

from torch import nn

from compressor.calibration import Moments
from compressor.decompositions.base import Decomposition, Method, refuse
from compressor.decompositions.matrix_svd import MatrixDecomposition
from compressor.decompositions.output_metric import Metric
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import Layer, conv_like, layer_shape, linear_like, split_kernels

LABEL = "SVD"


def decompose(layer: Layer, seed: int, moments: Moments | None = None) -> Decomposition:
    """Singular vectors of every group's T x S matrix, or of its outputs on the images of `moments`."""
    del seed  # nothing is drawn
    refuse(LABEL, supports(layer_shape(layer)))
    return MatrixDecomposition(layer, split_kernels(layer).squeeze(3), layers, LABEL, Metric.of(layer, moments))


def supports(shape: LayerShape) -> str | None:
    if prod(shape.window) > 1:
        height, width = shape.window
        return f"svd factors fully connected layers and 1x1 windows, not {height}x{width}; use cp"
    return None


def full_rank(shape: LayerShape) -> Rank:
    outputs, inputs, _ = shape.kernel
    return (min(outputs, inputs),)


def parts(shape: LayerShape, rank: Rank) -> tuple[LayerShape, ...]:
    middle, groups, one = shape.groups * rank[0], shape.groups, (1, 1)
    return (
        LayerShape(shape.kind, shape.inputs, middle, groups, one, shape.in_size, shape.out_size, False),
        LayerShape(shape.kind, middle, shape.outputs, groups, one, shape.out_size, shape.out_size, shape.bias),
    )


def layers(layer: Layer, rank: Rank) -> nn.Sequential:
    refuse(LABEL, supports(layer_shape(layer)))
    if isinstance(layer, nn.Linear):
        first: Layer = linear_like(layer, (layer.in_features, rank[0]))
        last: Layer = linear_like(layer, (rank[0], layer.out_features), bias=True)
    else:
        middle = layer.groups * rank[0]
        first = conv_like(layer, (layer.in_channels, middle), groups=layer.groups, owns=(True, True))
        last = conv_like(layer, (middle, layer.out_channels), groups=layer.groups, bias=True)
    return nn.Sequential(first, last).train(layer.training)


METHOD = Method(LABEL, supports, full_rank, parts, layers, decompose)
