"""The table of methods: which form a layer gets, and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from compressor.calibration import collect
from compressor.decompositions.methods import METHODS, Decompositions, check_rank, decomposition, default_method
from compressor.layer_shape import Cost, PlanError
from compressor.layers import layer_shape

CONV2 = layer_shape(nn.Conv2d(64, 192, 5), (27, 27))


def test_windows_get_cp_and_matrices_the_svd() -> None:
    layers = [nn.Conv2d(4, 4, 3), nn.Conv2d(4, 4, (1, 7)), nn.Conv2d(4, 4, 1), nn.Linear(4, 4)]
    assert [default_method(layer_shape(layer)) for layer in layers] == ["cp", "cp", "svd", "svd"]


def test_costs_follow_the_table_of_the_design() -> None:
    weights, pixels = 10 * (64 + 25 + 192), 27 * 27
    assert METHODS["cp"].cost(CONV2, (10,)) == Cost(
        weights + 192, weights * pixels, weights + 192 + pixels * (64 + 10 + 10 + 10 + 10 + 192)
    )
    linear = layer_shape(nn.Linear(30, 20))
    assert METHODS["svd"].cost(linear, (5,)) == Cost(270, 250, 270 + 30 + 5 + 5 + 20)


def test_costs_of_window_forms_follow_the_table_of_the_design() -> None:
    shape = layer_shape(nn.Conv2d(64, 192, 3, stride=2, padding=1), (28, 28), (14, 14))
    inner, outer = 14 * 14, 28 * 28
    costs = {
        "tucker": ((10, 20), 10 * 64 + 10 * 20 * 9 + 20 * 192, 10 * 64 * outer + (10 * 20 * 9 + 20 * 192) * inner),
        "spatial": ((10,), 10 * 3 * (64 + 192), 10 * 3 * (64 * 14 * 28 + 192 * inner)),
        "channel": ((10,), 10 * (64 * 9 + 192), 10 * (64 * 9 + 192) * inner),
        "cp-polished": ((10,), 10 * (64 + 9 + 192), 10 * (64 * outer + (9 + 192) * inner)),
        "cp-als": ((10,), 10 * (64 + 9 + 192), 10 * (64 * outer + (9 + 192) * inner)),
    }
    for method, (rank, weights, macs) in costs.items():
        cost = METHODS[method].cost(shape, rank)
        assert (method, cost.parameters, cost.macs) == (method, weights + 192, macs)
    full = {method: METHODS[method].full_rank(shape) for method in costs}
    most = (64 * 9,)
    assert full == {"tucker": (64, 192), "spatial": (192,), "channel": (192,), "cp-polished": most, "cp-als": most}


def test_grouped_layers_have_the_rank_in_each_group() -> None:
    shape = layer_shape(nn.Conv2d(96, 256, 5, groups=2, bias=False), (27, 27))
    assert METHODS["cp"].cost(shape, (77,)).parameters == 2 * 77 * (48 + 25 + 128)


def test_a_rank_above_full_says_how_far_ranks_go() -> None:
    with pytest.raises(PlanError) as raised:
        check_rank("features.3", (192, 64, 5, 5), CONV2, "cp", (1700,))
    assert str(raised.value) == (
        "rank 1700 does not fit features.3 (192x64x5x5): CP ranks go up to 1600; "
        "lower it or pass --keep-layers features.3"
    )
    check_rank("features.3", (192, 64, 5, 5), CONV2, "cp", (1600,))


def test_unknown_and_unfit_methods_are_refused() -> None:
    known = ", ".join(METHODS)
    with pytest.raises(PlanError, match=rf"features.3 asks for the method 'qr'; choose one of {known}, or keep"):
        check_rank("features.3", (192, 64, 5, 5), CONV2, "qr", (3,))
    with pytest.raises(PlanError, match=r"svd does not fit features.3: .* use cp, or pass --keep-layers features.3"):
        check_rank("features.3", (192, 64, 5, 5), CONV2, "svd", (3,))


def test_a_decomposition_is_made_once() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3))
    ready: Decompositions = {}
    first = decomposition(ready, network, "0", "cp", 0)
    assert decomposition(ready, network, "0", "cp", 0) is first
    assert list(ready) == [("0", "cp")]
    network[0].weight.data[0] = torch.inf
    with pytest.raises(PlanError, match=r"0 cannot be factored: the 4x3x3x3 weight holds NaN or infinity"):
        decomposition({}, network, "0", "cp", 0)


@pytest.mark.parametrize("method", METHODS)
def test_with_moments_one_that_was_fitted_to_the_weight_is_not_taken(method: str) -> None:
    windowed = METHODS[method].supports(layer_shape(nn.Conv2d(3, 4, 3))) is None
    network = nn.Sequential(nn.Conv2d(3, 4, 3) if windowed else nn.Linear(6, 4))
    moments = collect(network, [torch.randn(20, 3, 6, 6)], ["0"])["0"]
    ready: Decompositions = {}
    plain = decomposition(ready, network, "0", method, 0)
    fitted = decomposition(ready, network, "0", method, 0, moments)
    assert (plain.measure, fitted.measure) == ("weights", "outputs")
    assert decomposition(ready, network, "0", method, 0, moments) is fitted
    assert ready == {("0", method): fitted}
