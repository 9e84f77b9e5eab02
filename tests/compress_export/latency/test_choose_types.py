"""Number types by layer: the cheapest choice among all, and layers in float32 where int8 leaves too much noise."""

from itertools import product

import numpy as np
import pytest
import torch
from torch import nn

from compress_export.latency.choose_types import (
    added_noise,
    cheapest_types,
    choose_types,
    least_price,
    predicted_cost,
)
from compress_export.latency.program_operators import number_types
from exporters.capture import capture
from exporters.quantization.noise import OperatorNoise
from exporters.quantization.post_training import quantize


class Net(nn.Module):
    """A sum between convolutions, an activation that has a table in int8, and one that has none."""

    def __init__(self, width=16):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.three, self.head = nn.Conv2d(width, width, 1), nn.Linear(width, 10)
        for layer in (self.one, self.two, self.three, self.head):  # untrained weights are all but zero
            nn.init.kaiming_normal_(layer.weight)

    def forward(self, x):
        x = torch.relu(self.one(x))
        x = x + nn.functional.softplus(self.two(x))
        return self.head(nn.functional.silu(self.three(x)).mean((2, 3)))


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).standard_normal((16, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def program(images):
    torch.manual_seed(0)
    return capture(Net().eval(), torch.from_numpy(images[:1]))


def free(program):
    """The operators that may be in int8 and choose for themselves."""
    possible = number_types(program, "int8")
    return [name for name, dtype in possible.items() if dtype == "int8" and "relu" not in name]


def every_choice(program):
    names = free(program)
    for types in product(("int8", "float32"), repeat=len(names)):
        chosen = dict(zip(names, types, strict=True))
        yield {name: chosen.get(name, chosen["conv2d"] if "relu" in name else "float32")
               for name in number_types(program, "int8")}  # fmt: skip


def test_the_cheapest_types_are_those_of_all_choices(program, monkeypatch):
    monkeypatch.setattr("compress_export.latency.choose_types.WORTH", 1.0)
    found = cheapest_types(program)
    assert set(free(program)) == {"conv2d", "conv2d_1", "add", "conv2d_2", "silu", "linear"}
    assert found["softplus"] == found["mean"] == "float32"
    assert predicted_cost(program, found) == pytest.approx(
        min(predicted_cost(program, c) for c in every_choice(program))
    )


def test_noise_with_a_price_turns_its_operators_to_float(program):
    noises = {"conv2d_1": OperatorNoise(weights=0.3), "conv2d_2": OperatorNoise(weights=0.001, output=0.002)}
    types = cheapest_types(program)
    assert types["conv2d_1"] == types["conv2d_2"] == "int8"
    assert added_noise(program, noises, types) == pytest.approx(0.303)
    price = least_price(program, noises, 0.01)
    dear = cheapest_types(program, noises, price)
    assert (dear["conv2d_1"], dear["conv2d_2"]) == ("float32", "int8")
    assert added_noise(program, noises, dear) == pytest.approx(0.003)
    # all in float, nothing is rounded
    assert added_noise(program, noises, number_types(program, "float32")) == 0


def test_an_output_is_rounded_for_its_reader_too(program):
    noises = {"add": OperatorNoise(output=0.5)}
    types = number_types(program, "float32") | {"conv2d_2": "int8"}
    assert added_noise(program, noises, types) == 0.5


def test_int8_is_kept_where_the_logits_are_good_enough(program, images):
    found = choose_types(program, images, 15.0)
    assert {layer.layer: layer.dtype for layer in found.layers} == {
        "one": "int8", "two": "int8", "three": "int8", "head": "float32",  # a conversion costs more than it
    }  # fmt: skip
    assert "is not predicted to take 2 % less" in found.layers[-1].reason
    assert found.signal_to_noise == pytest.approx(quantize(program, images).signal_to_noise, abs=6)
    assert "predicted cost in instructions of a Cortex-A76" in found.notes[-1]


def test_a_noisy_layer_stays_in_float(images):
    torch.manual_seed(0)
    net = Net(32).eval()
    with torch.no_grad():  # one weight of a channel a thousand times the others: they round to nothing
        net.two.weight[:, 0, 0, 0] *= 1000
    program = capture(net, torch.from_numpy(images[:1]))
    ruined = quantize(program, images)
    noise = ruined.operator_noise()
    assert max(noise, key=lambda name: noise[name].weights) == "conv2d_1"
    least = ruined.signal_to_noise + 9
    found = choose_types(program, images, least)
    kept = {layer.layer: layer.reason for layer in found.layers if layer.dtype != "int8"}
    assert "two" in kept
    assert found.signal_to_noise >= least


def test_no_int8_is_left_where_none_is_good_enough(program, images):
    found = choose_types(program, images, 120.0)
    assert {layer.dtype for layer in found.layers} <= {"float16", "float32"}
    assert "is predicted to cost least, and int8 leaves the logits below 120 dB" in found.layers[0].reason
    assert found.source is None


def test_float16_is_not_chosen_where_a_number_is_too_large_for_it(images):
    torch.manual_seed(0)
    net = Net().eval()
    with torch.no_grad():
        net.head.weight.mul_(1e6)
    found = choose_types(capture(net, torch.from_numpy(images[:1])), images, 120.0)
    assert {layer.dtype for layer in found.layers} == {"float32"}
    assert "in float16" not in found.notes[0]
