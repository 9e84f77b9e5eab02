"""The SVD over output channels: the whole window S -> R, then a 1x1 convolution R -> T (Zhang et al. 2016)."""

from __future__ import annotations

from torch import nn

from compressor.calibration import Moments
from compressor.decompositions.base import Decomposition, Method, windowed
from compressor.decompositions.matrix_svd import MatrixDecomposition
from compressor.decompositions.output_metric import Metric
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import Layer, conv_like, split_kernels

LABEL = "channel"


def decompose(layer: Layer, seed: int, moments: Moments | None = None) -> Decomposition:
    """Singular vectors of every group's T x SD unfolding, or of its outputs on the images of `moments`."""
    del seed  # nothing is drawn
    layer = windowed(layer, LABEL, supports)
    metric = Metric.of(layer, moments)
    return MatrixDecomposition(layer, split_kernels(layer).flatten(2), layers, LABEL, metric)


def supports(shape: LayerShape) -> str | None:
    if shape.kind == "linear":
        return "a fully connected layer has no window, so channel is the SVD; use svd"
    if shape.window == (1, 1):
        return "a 1x1 window has one position, so channel is the SVD; use svd"
    return None


def full_rank(shape: LayerShape) -> Rank:
    """min(T, SD)."""
    outputs, inputs, positions = shape.kernel
    return (min(outputs, inputs * positions),)


def parts(shape: LayerShape, rank: Rank) -> tuple[LayerShape, ...]:
    middle, groups = shape.groups * rank[0], shape.groups
    return (
        LayerShape("conv", shape.inputs, middle, groups, shape.window, shape.in_size, shape.out_size, False),
        LayerShape("conv", middle, shape.outputs, groups, (1, 1), shape.out_size, shape.out_size, shape.bias),
    )


def layers(layer: Layer, rank: Rank) -> nn.Sequential:
    layer = windowed(layer, LABEL, supports)
    middle, groups = layer.groups * rank[0], layer.groups
    height, width = layer.kernel_size
    new = nn.Sequential(
        conv_like(layer, (layer.in_channels, middle), window=(height, width), groups=groups, owns=(True, True)),
        conv_like(layer, (middle, layer.out_channels), groups=groups, bias=True),
    )
    return new.train(layer.training)


METHOD = Method(LABEL, supports, full_rank, parts, layers, decompose)
