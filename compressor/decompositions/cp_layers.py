"""The form of every CP: 1x1 convolution S -> R, depthwise window on R channels, 1x1 convolution R -> T."""

from __future__ import annotations

import math
from math import prod

import torch
from torch import Tensor, nn

from compressor.decompositions.base import Run, windowed
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import Layer, conv_like

LABEL = "CP"

Sides = tuple[Tensor, Tensor, Tensor]
"""Factor matrices a (groups, T, R), b (groups, S, R), c (groups, D, R): K[t, s, d] = sum of a[t, r] b[s, r] c[d, r]."""


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


def parts(shape: LayerShape, rank: Rank) -> tuple[LayerShape, ...]:
    middle, groups = shape.groups * rank[0], shape.groups
    one = (1, 1)
    return (
        LayerShape("conv", shape.inputs, middle, groups, one, shape.in_size, shape.in_size, False),
        LayerShape("conv", middle, middle, middle, shape.window, shape.in_size, shape.out_size, False),
        LayerShape("conv", middle, shape.outputs, groups, one, shape.out_size, shape.out_size, shape.bias),
    )


def layers(layer: Layer, rank: Rank) -> nn.Sequential:
    layer = windowed(layer, LABEL, supports)
    middle = layer.groups * rank[0]
    height, width = layer.kernel_size
    new = nn.Sequential(
        conv_like(layer, (layer.in_channels, middle), groups=layer.groups),
        conv_like(layer, (middle, middle), window=(height, width), groups=middle, owns=(True, True)),
        conv_like(layer, (middle, layer.out_channels), groups=layer.groups, bias=True),
    )
    return new.train(layer.training)


def weights(sides: Sides) -> Sides:
    """The weights of the three layers, in their order: (groups, R, S), (groups, R, D), (groups, T, R)."""
    outputs, inputs, window = sides
    return inputs.mT, window.mT, outputs


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


def run_of(kernels: Tensor, sides: Sides) -> Run:
    """The run that found these sides for (groups, T, S, D) kernels: error by rebuilding, stability number, weights."""
    whole = float(kernels.double().square().sum())
    if not whole:
        return Run(0.0, 0.0, weights(sides))
    left = float((kernels.flatten(2) - rebuilt(sides)).double().square().sum())
    return Run(math.sqrt(left / whole), float(strengths(sides).sum()) / whole, weights(sides))
