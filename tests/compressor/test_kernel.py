"""Shared parts of factorizations: geometry, groups, and layers that copy another's settings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.layer_shape import LayerShape, PlanError
from compressor.layers import conv_like, find_layer, layer_shape, split_kernels


def test_the_shape_of_a_layer_with_its_sizes() -> None:
    layer = nn.Conv2d(8, 12, (3, 5), stride=2, groups=4, bias=False)
    expected = LayerShape("conv", 8, 12, 4, (3, 5), (15, 17), (7, 7), False)
    assert layer_shape(layer, (15, 17), (7, 7)) == expected
    assert expected.kernel == (3, 2, 15)
    assert layer_shape(nn.Linear(5, 7), (3, 1)) == LayerShape("linear", 5, 7, 1, (1, 1), (3, 1), (3, 1), True)


def test_kernels_are_split_by_group_and_are_copies() -> None:
    layer = nn.Conv2d(4, 6, (3, 5), groups=2, dtype=torch.bfloat16)
    kernels = split_kernels(layer)
    assert kernels.shape == (2, 3, 2, 15)
    assert kernels.dtype == torch.float32
    assert torch.equal(kernels[1], layer.weight[3:].float().flatten(2))
    kernels.zero_()
    assert layer.weight.abs().max() > 0


def test_each_factor_owns_the_axes_it_is_told() -> None:
    layer = nn.Conv2d(4, 6, 3, stride=(2, 3), padding=(1, 2), dilation=(1, 2), padding_mode="circular")
    tall = conv_like(layer, (4, 5), window=(3, 1), owns=(True, False))
    wide = conv_like(layer, (5, 6), window=(1, 3), owns=(False, True), bias=True)
    assert (tall.stride, tall.padding, tall.dilation, tall.bias) == ((2, 1), (1, 0), (1, 1), None)
    assert (wide.stride, wide.padding, wide.dilation) == ((1, 3), (0, 2), (1, 2))
    assert tall.padding_mode == wide.padding_mode == "circular"
    image = torch.randn(1, 4, 12, 13)
    assert wide(tall(image)).shape == layer(image).shape


def test_the_word_same_stays_with_the_axis_that_owns_it() -> None:
    layer = nn.Conv2d(4, 6, (3, 5), padding="same", padding_mode="reflect")
    tall = conv_like(layer, (4, 5), window=(3, 1), owns=(True, False))
    point = conv_like(layer, (5, 6))
    assert (tall.padding, point.padding, point.padding_mode) == ("same", (0, 0), "zeros")
    assert point(tall(torch.randn(1, 4, 9, 9))).shape == (1, 6, 9, 9)


class OwnForward(nn.Conv2d):
    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return super().forward(input) + 1


def test_a_subclass_with_a_forward_of_its_own_is_refused() -> None:
    with pytest.raises(PlanError, match=r"OwnForward has a forward pass of its own.*--keep-layers"):
        split_kernels(OwnForward(3, 3, 3))


def test_a_weight_that_is_not_finite_is_refused() -> None:
    layer = nn.Linear(3, 2)
    layer.weight.data[1, 1] = torch.nan
    with pytest.raises(PlanError, match=r"the 2x3 weight holds NaN or infinity.*mend the checkpoint"):
        split_kernels(layer)


def test_a_layer_is_found_by_any_of_its_names_or_refused_with_the_nearest() -> None:
    shared = nn.Conv2d(3, 3, 3)
    network = nn.ModuleDict({"first": shared, "second": shared, "norm": nn.BatchNorm2d(3)})
    assert find_layer(network, "second") is shared
    with pytest.raises(PlanError, match=r"no layer 'firsst'; the nearest are first"):
        find_layer(network, "firsst")
    with pytest.raises(PlanError, match=r"norm is a BatchNorm2d, neither a convolution nor"):
        find_layer(network, "norm")
