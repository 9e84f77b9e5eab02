"""Users' networks, a row a case: compressed they compute what they did, or the reason is said in a sentence."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
import user_networks as own
from torch import Tensor, nn
from torch.func import functional_call

from compressor.decompositions.methods import METHODS
from compressor.equivalence import DIFFERS, check_deterministic
from compressor.layer_shape import PlanError
from compressor.layers import find_layer, layer_shape
from compressor.plan import LayerPlan, Plan
from compressor.surgery import CompressedModel, compress, load_weights, save_weights, skeleton
from compressor.survey import NEVER_RUN, READ, survey

IMAGES = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LAYERS = ("one", "two", "wide", "head")


def built(make: Callable[[], nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    return make().eval()


def factored(network: nn.Module, names: tuple[str, ...], part: float) -> CompressedModel:
    """The network with those layers at that part of their full rank."""
    rows = []
    for name in names:
        layer = find_layer(network, name)
        shape = layer_shape(layer)
        method = "svd" if shape.window == (1, 1) else "channel"
        (full,) = METHODS[method].full_rank(shape)
        rows.append(LayerPlan(name, tuple(layer.weight.shape), method, (max(1, round(part * full)),), "test"))
    return compress(network, Plan(tuple(rows), "given", "test"), images=IMAGES)


def outputs(network: nn.Module) -> Tensor:
    with torch.no_grad():
        return network(IMAGES)


@dataclass(frozen=True)
class Asked:
    """A forward that asks something of its layers: those that are kept, with the reason."""

    make: Callable[[], nn.Module]
    kept: dict[str, str] = field(default_factory=dict)


FACTORED = [
    Asked(own.Base),
    Asked(own.AsksIsinstance),
    Asked(own.AsksType),
    Asked(own.AsksForNoSequential),
    Asked(own.ReadsFeatures),
    Asked(own.ReadsGeometry),
    Asked(own.ReadsShape),
    Asked(own.ReadsType),
    Asked(own.ReadsBias),
    Asked(own.ReadsMark),
    Asked(own.OwnClass),
    Asked(own.PlainList),
    Asked(own.KeyedByModule),
    Asked(own.Hooked),
    Asked(own.HookedBefore),
    Asked(own.HookedSize),
    Asked(own.Shifted),
    Asked(own.WalksModules, {"one": DIFFERS, "two": DIFFERS}),
    Asked(own.Patched, {"two": "Conv2d has a forward of its own"}),
    Asked(own.Functional, {"one": READ}),
]


@pytest.mark.parametrize("case", FACTORED, ids=lambda case: case.make.__name__)
def test_factors_are_the_layer_to_the_code_around_it(case: Asked, tmp_path) -> None:
    network = built(case.make)
    before, found = outputs(network), survey(network, IMAGES)
    assert {row.name: row.must_keep for row in found.layers if row.must_keep} == case.kept
    free = tuple(name for name in LAYERS if name not in case.kept)
    whole = factored(network, free, 1.0).module
    torch.testing.assert_close(outputs(whole), before, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    half = factored(network, free, 0.5)
    weights = {f"{name}.weight": half.module.get_submodule(name).weight for name in free}
    with torch.no_grad():
        expected = functional_call(network, weights, (IMAGES,))
    assert float((expected - before).abs().max()) > 1e-3 * float(before.std())
    torch.testing.assert_close(outputs(half.module), expected, rtol=1e-4, atol=1e-5 * float(before.abs().max()))
    for name in free:
        old, new = network.get_submodule(name), half.module.get_submodule(name)
        assert type(new) is type(old)
        assert new.weight.shape == old.weight.shape
        assert repr(new).splitlines()[0].startswith(repr(old).split("(")[0])
    # written, and read into the plan's skeleton
    save_weights(half.module, tmp_path / "weights.safetensors")
    again = built(case.make)
    skeleton(again, half.plan.layers)
    load_weights(again, tmp_path / "weights.safetensors")
    assert torch.equal(outputs(again), outputs(half.module))


def test_a_difference_that_shows_at_a_rank_alone_names_the_layer() -> None:
    network = built(own.CountsParameters)
    assert {row.name for row in survey(network, IMAGES).layers if row.must_keep} == set()
    with pytest.raises(PlanError, match=r"^two: with factors in its place the network .* standard deviations: .*"
                       r"pass --keep-layers two$"):  # fmt: skip
        factored(network, LAYERS, 0.5)
    torch.testing.assert_close(outputs(factored(network, ("one", "wide"), 1.0).module), outputs(network))


def test_a_factored_layer_copies_trains_and_tells_what_it_is() -> None:
    network = factored(built(own.Base), LAYERS, 0.5).module
    twin = copy.deepcopy(network)
    with torch.no_grad():
        twin.get_submodule("one.0").weight.mul_(2)
    torch.testing.assert_close(twin.one.weight, 2 * network.one.weight)
    assert not torch.equal(outputs(twin), outputs(network))
    network(IMAGES).sum().backward()
    assert all(value.grad is not None for value in network.parameters())
    parts = ("0.weight", "1.weight", "1.bias")
    assert set(network.state_dict()) == {f"{name}.{part}" for name in LAYERS for part in parts}
    with pytest.raises(PlanError, match=r"wide is factored already, into wide.0, wide.1; name one of these"):
        find_layer(network, "wide")
    with pytest.raises(TypeError, match=r"the weight of a factored layer is worked out of its factors"):
        network.wide.weight = nn.Parameter(torch.zeros(24, 192))
    assert network.half().one.weight.dtype == torch.float16


@dataclass(frozen=True)
class Counted:
    """MACs of one image, worked out by hand, in and outside the listed layers, and what no counter knows."""

    make: Callable[[], nn.Module]
    layers: int
    elsewhere: int
    uncounted: tuple[str, ...] = ()
    never: tuple[str, ...] = ()


BASE = 64 * 12 * (27 + 108) + 192 * 24 + 24 * 5
COUNTED = [
    Counted(own.Base, BASE, 0),
    Counted(own.HookedSize, BASE, 0),
    Counted(own.ReadsShape, BASE, 0),
    Counted(own.Functional, BASE - 64 * 12 * 27, 64 * 12 * 27),
    Counted(own.Grown, 16 * 8 * 27 + 16 * 5, 16 * 8 * 16 * 16),
    Counted(own.Sequence, 64 * 4 * 3 + 16 * 5, 8 * 16 * 32 * 3),
    Counted(own.Volume, 64 * 6 * 27 + 4 * 5, 6 * 64 * 4 * 27),
    Counted(own.Products, 64 * 8 * 27 + 16 * 5, 64 * 8 * 16),
    Counted(own.Attends, 16 * 16 * 12 + 16 * (2 * 16 * 32) + 16 * 5, 16 * 16 * 16 * 4 + 2 * 16 * 16 * 16),
    Counted(own.Fourier, 64 * 4 * 27 + 4 * 5, 0, ("aten::_fft_r2c",)),
]


@pytest.mark.parametrize("case", COUNTED, ids=lambda case: case.make.__name__)
def test_the_whole_network_is_counted(case: Counted) -> None:
    found = survey(built(case.make), IMAGES)
    assert (sum(layer.cost.macs for layer in found.layers), found.macs_elsewhere) == (case.layers, case.elsewhere)
    assert found.uncounted == case.uncounted
    assert not any(layer.must_keep == NEVER_RUN for layer in found.layers if layer.name != "encoder.self_attn.out_proj")


def test_a_recurrent_layer_is_counted_or_named() -> None:
    found = survey(built(own.Recurrent), IMAGES)
    counted = found.macs_elsewhere >= 8 * 4 * 8 * (32 + 8)
    assert counted or found.uncounted == ("aten::mkldnn_rnn_layer",)


def test_a_factored_network_counts_its_factors_and_no_reading_of_its_weights() -> None:
    small = survey(factored(built(own.ReadsShape), LAYERS, 0.25).module, IMAGES)
    assert small.macs_elsewhere == 0
    assert {layer.name for layer in small.layers} == {f"{name}.{part}" for name in LAYERS for part in "01"}


DETERMINISTIC = [
    pytest.param(own.Base, "", id="Base"),
    pytest.param(own.DropsInTraining, "", id="DropsInTraining"),
    pytest.param(lambda: own.Normalized(nn.BatchNorm2d(12)), "", id="BatchNorm"),
    pytest.param(lambda: own.Normalized(nn.GroupNorm(3, 12)), "", id="GroupNorm"),
    pytest.param(lambda: own.Normalized(nn.InstanceNorm2d(12)), "", id="InstanceNorm"),
    pytest.param(own.Drops, r"other outputs in a second pass: its forward \(Drops\) draws at random or ch", id="Drops"),
    pytest.param(own.Noisy, r"second pass: noise \(NoiseBlock\) draws at random", id="Noisy"),
    pytest.param(own.Remembers, r"second pass: its forward \(Remembers\) draws at random or ch", id="Remembers"),
    pytest.param(
        lambda: own.Normalized(nn.BatchNorm2d(12, track_running_stats=False)),
        r"depend on the other images of its batch \(norm normalizes by its batch: track_running_stats=False\), and an "
        r"exported file takes one image: .*; give BatchNorm running statistics, or take",
        id="batch statistics",
    ),
    pytest.param(own.BatchNormByHand, r"depend on the other images of its batch, and", id="BatchNormByHand"),
    pytest.param(own.StaysInTraining, r"depend on the other images|in a second pass", id="StaysInTraining"),
    pytest.param(own.Tapped, r"a copy of the network gives other outputs than the network: a function", id="Tapped"),
    pytest.param(own.Centres, r"depend on the other images of its batch, and", id="Centres"),
    pytest.param(
        lambda: nn.Sequential(nn.Flatten(0), nn.Linear(192, 5)),
        r"does not take 2 images at once: .*; a batch of any size must pass through its forward",
        id="one image only",
    ),
]


@pytest.mark.parametrize(("make", "message"), DETERMINISTIC)
def test_outputs_are_an_images_own(make: Callable[[], nn.Module], message: str) -> None:
    network = built(make)
    if not message:
        check_deterministic(network, IMAGES)
        return
    with pytest.raises(PlanError, match=message):
        check_deterministic(network, IMAGES)
