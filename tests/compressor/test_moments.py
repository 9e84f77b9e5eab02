"""Calibration: what is collected equals the moments of an explicitly unfolded input, and nothing else changes."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from layer_strategies import convolutions, example_for
from torch import Tensor, nn
from torch.nn import functional

from compressor.calibration import Moments, collect
from compressor.layer_shape import PlanError

ALL = 10_000
"""More positions than any layer here has."""


def unfolded(layer: nn.Conv2d, images: Tensor) -> Tensor:
    """Every window that the layer reads, by torch's own padding and unfold: (groups, windows, S * D)."""
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    if layer.padding == "same":
        totals = [d * (size - 1) for d, size in zip(layer.dilation, layer.kernel_size, strict=True)]
        sides = [side for total in reversed(totals) for side in (total // 2, total - total // 2)]
    else:
        numbers = (0, 0) if isinstance(layer.padding, str) else layer.padding
        sides = [side for number in reversed(numbers) for side in (number, number)]
    padded = functional.pad(images, sides, mode=mode)
    columns = functional.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride)
    return columns.unflatten(1, (layer.groups, -1)).permute(1, 0, 3, 2).flatten(1, 2)


def check(moments: Moments, windows: Tensor) -> None:
    assert moments.count == windows.shape[1]
    torch.testing.assert_close(moments.mean, windows.mean(1))
    torch.testing.assert_close(moments.matrix(), windows.mT @ windows / windows.shape[1])


@given(layer=convolutions())
def test_moments_are_those_of_the_unfolded_input(layer: nn.Conv2d) -> None:
    images = example_for(layer)
    moments = collect(nn.Sequential(layer), [images[:1], images[1:]], ["0"], positions=ALL)["0"]
    windows = unfolded(layer, images)
    check(moments, windows)
    outputs = windows @ layer.weight.detach().unflatten(0, (layer.groups, -1)).flatten(2).mT
    bias = 0 if layer.bias is None else layer.bias.detach().unflatten(0, (layer.groups, 1, -1))
    # The windows are those that the layer really reads: times its weight they are its outputs.
    true = layer(images).detach().unflatten(1, (layer.groups, -1)).flatten(3).permute(1, 0, 3, 2).flatten(1, 2)
    torch.testing.assert_close(outputs + bias, true)


def test_a_linear_layer_over_a_sequence_reads_every_position() -> None:
    layer, sequences = nn.Linear(6, 4).double(), torch.randn(3, 5, 6).double()
    check(collect(layer, [sequences], [""], positions=ALL)[""], sequences.reshape(1, 15, 6))
    assert collect(layer, [sequences], [""], positions=2)[""].count == 6


def test_a_layer_used_twice_counts_both_calls() -> None:
    layer = nn.Linear(4, 4).double()
    first = torch.randn(7, 4).double()
    moments = collect(nn.Sequential(layer, nn.ReLU(), layer), [first], ["0"])["0"]
    check(moments, torch.cat([first, layer(first).relu()])[None].detach())


def test_fewer_windows_than_inputs_are_kept_as_they_are() -> None:
    few, many = (collect(nn.Linear(9, 2), [torch.randn(count, 9)], [""])[""] for count in (8, 9))
    assert few.windows is not None
    assert few.second is None
    assert few.windows.shape == (1, 8, 9)
    assert many.windows is None
    torch.testing.assert_close(few.matrix(), few.windows.mT @ few.windows / 8)


def test_positions_are_drawn_by_the_seed_and_differ_between_images() -> None:
    layer = nn.Conv2d(1, 2, 3)
    ramp = torch.arange(100.0).reshape(1, 1, 10, 10).expand(4, -1, -1, -1)
    first, again, other = (collect(layer, [ramp], [""], positions=2, seed=seed)[""] for seed in (0, 0, 1))
    assert first.count == 8
    assert torch.equal(first.mean, again.mean)
    assert not torch.equal(first.mean, other.mean)
    assert first.windows is not None
    assert len(first.windows[0].unique(dim=0)) > 2


def test_the_network_stays_as_it_is() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout())
    network[2].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    loader = [(torch.randn(2, 3, 8, 8), torch.zeros(2))]
    heard: list[int] = []
    assert set(collect(network, loader * 3, ["0"], progress=heard.append)) == {"0"}
    assert heard == [2, 4, 6]
    assert [module.training for module in network.modules()] == [True, True, True, False]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not network[0]._forward_pre_hooks


def test_a_layer_that_never_runs_has_no_moments() -> None:
    network = nn.Sequential(nn.Linear(3, 3))
    network.idle = nn.Linear(3, 3)
    network.forward = lambda images: network[0](images)
    assert set(collect(network, [torch.randn(4, 3)], ["0", "idle"])) == {"0"}


def test_images_of_the_wrong_size_are_refused_with_the_cure() -> None:
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4 * 36, 2))
    with pytest.raises(PlanError, match=r"of the size that the network takes, and it does not take 3x9x9: .*; prepare"):
        collect(network, [torch.randn(2, 3, 9, 9)], ["0"])
    assert network.training


def test_calibration_without_images_or_without_numbers_is_refused() -> None:
    with pytest.raises(PlanError, match="moments come from calibration images, and there are none; give at least one"):
        collect(nn.Linear(3, 3), [], [""])
    with pytest.raises(PlanError, match="0 reads NaN or infinity on the calibration images; take others"):
        collect(nn.Sequential(nn.Linear(3, 3)), [torch.full((5, 3), torch.nan)], ["0"])
    with pytest.raises(PlanError, match="the network has no layer 'one'"):
        collect(nn.Sequential(nn.Linear(3, 3)), [torch.ones(5, 3)], ["one"])
