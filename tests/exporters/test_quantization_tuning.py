"""Quantization-aware tuning: the module computes what the program does, and the tuned program what the module does."""

import numpy as np
import pytest
import torch
from torch import nn

from exporters.capture import capture
from exporters.parity import logits_of_program
from exporters.quantization.post_training import PLAIN, quantize
from exporters.quantization.tuning import trainable, trained

IMAGES = np.random.default_rng(0).standard_normal((32, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    found = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.ReLU6(), nn.Conv2d(8, 16, 1),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
    ).eval()  # fmt: skip
    for layer in (found[0], found[2], found[4], found[7]):  # untrained weights are all but zero
        nn.init.kaiming_normal_(layer.weight)
    with torch.no_grad():  # one channel reaches far beyond the others, which leaves them few of the 256 values
        found[0].weight[0] *= 20
        found[2].weight[0] /= 20
    return found


@pytest.fixture(scope="module")
def quantized(network):
    return quantize(capture(network, torch.from_numpy(IMAGES[:1])), IMAGES, PLAIN)


def test_the_module_to_be_trained_computes_what_the_program_does(quantized):
    module = trainable(quantized.source)
    wanted = logits_of_program(quantized.program, IMAGES)
    found = module(torch.from_numpy(IMAGES)).detach().numpy()
    assert np.abs(found - wanted).max() <= 0.02 * wanted.std()
    assert sum(value.requires_grad for value in module.parameters()) == 8  # weights and biases of four layers


def test_training_brings_the_int8_network_nearer_to_the_float_one(network, quantized):
    module, images = trainable(quantized.source), torch.from_numpy(IMAGES)
    module.train()
    optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=0.01, weight_decay=0)
    with torch.no_grad():
        wanted = network(images)
    losses = []
    for _ in range(100):
        loss = (module(images) - wanted).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-10:]) < 0.92 * losses[0]
    found = trained(quantized, module.state_dict(), "tuned")
    own = module.eval()(images).detach().numpy()
    assert np.abs(logits_of_program(found.program, IMAGES) - own).max() <= 0.02 * own.std()
    assert found.notes[-1] == "tuned"
    assert found.signal_to_noise > quantized.signal_to_noise


def test_a_program_for_one_image_at_a_time_is_not_trained():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.head = nn.Linear(3 * 12 * 12, 4)

        def forward(self, x):
            return self.head(x.reshape(1, 432))

    program = capture(Fixed().eval(), torch.from_numpy(IMAGES[:1]))
    assert trainable(quantize(program, IMAGES).source) is None
