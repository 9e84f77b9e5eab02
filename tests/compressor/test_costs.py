import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode
from torchvision import models

from compressor.layer_shape import PlanError
from compressor.planning.cost_model import calls_of
from compressor.survey import NEVER_RUN, READ, survey


@pytest.mark.parametrize("name", ["alexnet", "mobilenet_v3_small", "shufflenet_v2_x1_0", "googlenet"])
def test_macs_agree_with_torchs_flop_counter(name):
    extra = {"aux_logits": False, "init_weights": False} if name == "googlenet" else {}
    network = models.get_model(name, weights=None, **extra).eval()
    images = torch.zeros(2, 3, 96, 96)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    found = survey(network, images)
    assert 2 * len(images) * found.macs == counter.get_total_flops()
    assert found.parameters == sum(p.numel() for p in network.parameters())
    assert found.bytes == 4 * found.parameters


class Odd(nn.Module):
    """Everything that a survey must not be fooled by."""

    def __init__(self):
        super().__init__()
        self.late = nn.Linear(8, 4)
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.twice = nn.Conv2d(8, 8, 3, padding=1)
        self.idle = nn.Linear(5, 5)
        self.read = nn.Linear(8, 8)
        self.tied, self.other = nn.Linear(8, 8), nn.Linear(8, 8)
        self.other.weight = self.tied.weight
        self.normed = parametrizations.weight_norm(nn.Linear(8, 8))
        self.looked_at = nn.Linear(8, 8)
        self.hooked = nn.Linear(8, 8)
        self.hooked.register_forward_hook(lambda _m, _i, output: output + 1)
        self.stored = nn.Linear(8, 8)
        self.stored.register_state_dict_post_hook(lambda *_arguments: None)

    def forward(self, x):
        x = self.twice(self.twice(self.stem(x))).mean((2, 3))
        x = nn.functional.linear(x, self.read.weight, self.read.bias)
        x = self.other(self.tied(self.normed(x)))
        x = self.looked_at(x.to(self.looked_at.weight.dtype))
        return self.late(self.stored(self.hooked(x)))


def test_layers_that_cannot_be_exchanged_are_kept_with_the_reason():
    rows = {layer.name: layer for layer in survey(Odd(), torch.zeros(2, 3, 16, 16)).layers}
    assert {name: row.must_keep for name, row in rows.items()} == {
        "stem": None,
        "twice": None,
        "late": None,
        "idle": NEVER_RUN,
        "read": READ,
        "tied": "its weight is tied to other",
        "other": "its weight is tied to tied",
        "normed": "its weight is computed by a parametrization",
        "looked_at": None,
        "hooked": None,
        "stored": "it carries hooks on its weights",
    }


def test_a_layer_called_twice_costs_twice_and_stores_once():
    row = survey(Odd(), torch.zeros(2, 3, 16, 16)).layer("twice")
    assert (row.calls, row.cost.parameters, row.cost.macs) == (2, 8 * 8 * 9 + 8, 2 * 8 * 8 * 9 * 8 * 8)


def test_layers_come_in_the_order_in_which_they_run():
    names = [layer.name for layer in survey(Odd(), torch.zeros(2, 3, 16, 16)).layers if layer.calls]
    assert names == ["stem", "twice", "normed", "tied", "other", "looked_at", "hooked", "stored", "late"]


def test_the_survey_leaves_the_network_as_it_was():
    network = Odd().train()
    network.stem.eval()
    survey(network, torch.zeros(2, 3, 16, 16))
    assert network.training
    assert not network.stem.training
    assert not network.stem._forward_hooks
    assert len(network.hooked._forward_hooks) == 1


def test_attention_is_kept():
    layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
    rows = {row.name: row.must_keep for row in survey(layer, torch.zeros(2, 5, 16)).layers}
    assert rows["self_attn.out_proj"] is not None


class Same(nn.Conv2d):
    def forward(self, x):
        return super().forward(nn.functional.pad(x, (0, 1, 0, 1)))


def test_a_subclass_with_its_own_forward_is_kept():
    row = survey(nn.Sequential(Same(3, 4, 2)), torch.zeros(1, 3, 8, 8)).layers[0]
    assert row.must_keep == "Same has a forward of its own"


def test_copied_inputs_are_counted_once():
    network = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d(6), nn.Flatten(), nn.Linear(144, 2)
    )
    images = torch.rand(32, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    assert survey(network, images).layer("4").distinct_inputs == 4
    assert survey(network, images[:8]).layer("4").distinct_inputs is None
    assert survey(network[:1].append(nn.Flatten()).append(nn.Linear(196, 2)), images).layer("2").distinct_inputs is None


def test_an_image_that_does_not_fit_is_refused():
    with pytest.raises(PlanError, match=r"does not take a 4x8x8 image: .*; pass the size with --input"):
        survey(nn.Conv2d(3, 4, 3), torch.zeros(1, 4, 8, 8))


class Folded(nn.Module):
    """Convolves patches and maps windows that lie in the batch, then positions that lie before it; adds a table."""

    def __init__(self):
        super().__init__()
        self.conv, self.windows, self.before = nn.Conv2d(3, 8, 3, padding=1), nn.Linear(8, 8), nn.Linear(8, 8)
        self.table = nn.Linear(2, 8)

    def forward(self, x):
        patches = x.unfold(2, 4, 4).unfold(3, 4, 4).permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, 4, 4)
        x = self.windows(self.conv(patches).flatten(2).transpose(1, 2)).reshape(-1, 9 * 16, 8)
        return self.before(x.transpose(0, 1)).mean(0) + self.table(torch.zeros(5, 2)).mean(0)


@pytest.mark.parametrize("count", [1, 4])
def test_what_is_folded_into_the_batch_costs_as_much_as_it_computes(count):
    network, images = Folded(), torch.zeros(count, 3, 12, 12)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network(images)
    found = survey(network, images)
    once = 2 * 5 * 8  # the table is mapped once, whatever the number of images
    assert 2 * (count * (found.macs - once) + once) == counter.get_total_flops()
    assert found.layer("table").cost.macs == once
    assert found.layer("conv").shape.out_size == (4, 4)
    assert [calls_of(layer) for layer in found.layers] == [9, 1, 1, 1]
    assert found.layer("windows").shape.in_size == found.layer("before").shape.in_size == (9 * 16, 1)
    assert found.layer("conv").cost.traffic == 9 * (16 * (3 + 8) + 3 * 8 * 9 + 8)
