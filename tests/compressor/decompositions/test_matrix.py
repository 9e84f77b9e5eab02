"""Forms that are one SVD: which unfolding, which order, and that nothing of that rank fits better."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from compressor.decompositions.methods import METHODS
from compressor.decompositions.svd import height_first
from compressor.layers import layer_shape


def errors_of(matrix: Tensor, ranks: tuple[int, ...]) -> list[float]:
    """Least relative error of a matrix at each rank (Eckart and Young)."""
    singular = torch.linalg.svdvals(matrix.detach().double())
    return [float(singular[rank:].norm() / singular.norm()) for rank in ranks]


def test_channel_has_the_least_error_of_the_unfolding_by_outputs() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(6, 20, (3, 5))
    decomposition, ranks = METHODS["channel"].decompose(layer, 0), (1, 7, 19)
    assert [decomposition.error((rank,)) for rank in ranks] == pytest.approx(errors_of(layer.weight.flatten(1), ranks))


def test_spatial_has_the_least_error_of_the_unfolding_by_sides() -> None:
    torch.manual_seed(0)
    ranks = (1, 7, 17)
    for layer, order in ((nn.Conv2d(6, 9, (3, 5)), (0, 2, 1, 3)), (nn.Conv2d(9, 6, (3, 5)), (0, 3, 1, 2))):
        rows = layer.weight.shape[0] * (3 if order[1] == 2 else 5)
        decomposition = METHODS["spatial"].decompose(layer, 0)
        unfolded = layer.weight.permute(order).reshape(rows, -1)
        assert [decomposition.error((rank,)) for rank in ranks] == pytest.approx(errors_of(unfolded, ranks))


def test_a_separable_kernel_comes_back_at_rank_one() -> None:
    layer = nn.Conv2d(1, 1, (5, 7))
    layer.weight.data = torch.outer(torch.randn(5), torch.randn(7))[None, None]
    assert METHODS["spatial"].decompose(layer, 0).error((1,)) < 1e-6


@pytest.mark.parametrize(
    ("channels", "window", "tall"),
    [((64, 64), (3, 3), True), ((64, 192), (5, 3), True), ((64, 192), (3, 5), False), ((192, 64), (5, 3), False)],
)
def test_spatial_takes_the_order_with_fewer_parameters(
    channels: tuple[int, int], window: tuple[int, int], tall: bool
) -> None:
    inputs, outputs = channels
    height, width = window
    shape = layer_shape(nn.Conv2d(*channels, window, bias=False), (14, 14))
    assert height_first(shape) is tall
    orders = inputs * height + outputs * width, inputs * width + outputs * height
    assert METHODS["spatial"].cost(shape, (10,)).parameters == 10 * min(orders)
    first, second = METHODS["spatial"].layers(nn.Conv2d(*channels, window, stride=2, padding=1), (10,))
    assert (first.kernel_size, first.stride) == (((height, 1), (2, 1)) if tall else ((1, width), (1, 2)))
    assert (second.stride, second.padding) == (((1, 2), (0, 1)) if tall else ((2, 1), (1, 0)))
