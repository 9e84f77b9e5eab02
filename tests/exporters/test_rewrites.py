import pytest
import torch
from exporter_networks import images, settled
from test_program import error, operators
from torch import nn

from exporters.capture import capture
from exporters.graph_passes import graph_of, make_functional, write_out_silus

# torch tells of an extra copy whenever a window is even and the padding "same"
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


def has_norm(module, channels=3):
    return any("batch_norm" in name for name in operators(capture(module, images(2, channels))))


FOLDED = {
    "no bias": lambda: [nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8)],
    "groups": lambda: [nn.Conv2d(3, 9, (3, 5), groups=3), nn.BatchNorm2d(9)],
    "same": lambda: [nn.Conv2d(3, 8, (4, 3), padding="same", dilation=(1, 2)), nn.BatchNorm2d(8)],
    "plain norm": lambda: [nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8, affine=False)],
    "transposed": lambda: [nn.ConvTranspose2d(3, 8, 3, stride=2), nn.BatchNorm2d(8)],
    "grouped transposed": lambda: [nn.ConvTranspose2d(3, 6, 3, groups=3, bias=False), nn.BatchNorm2d(6)],
    "linear": lambda: [nn.Flatten(), nn.Linear(432, 8, bias=False), nn.BatchNorm1d(8)],
    "conv1d": lambda: [nn.Flatten(2), nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8)],
    "last of a chain": lambda: [nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 8, 1)), nn.BatchNorm2d(8)],
}
KEPT = {
    "first": lambda: [nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)],
    "after an activation": lambda: [nn.Conv2d(3, 8, 3), nn.ReLU(), nn.BatchNorm2d(8)],
    "linear over a sequence": lambda: [nn.Flatten(2), nn.Linear(144, 9), nn.BatchNorm1d(3)],
    "no statistics": lambda: [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8, track_running_stats=False)],
}


def built(layers):
    torch.manual_seed(0)
    module = nn.Sequential(*layers, nn.Flatten())
    for part in module.modules():
        if isinstance(part, nn.BatchNorm1d | nn.BatchNorm2d) and part.affine:
            nn.init.uniform_(part.weight, -1.5, 1.5)
            nn.init.normal_(part.bias)
    return settled(module)


@pytest.mark.parametrize("layers", FOLDED.values(), ids=FOLDED)
def test_batch_norm_after_a_layer_is_folded(layers):
    module = built(layers())
    assert not has_norm(module)
    assert error(module) < 1e-5


@pytest.mark.parametrize("layers", KEPT.values(), ids=KEPT)
def test_batch_norm_elsewhere_stays(layers):
    module = built(layers())
    assert has_norm(module)
    assert error(module) < 1e-5


class Twice(nn.Module):
    """One convolution used twice, with one BatchNorm or two."""

    def __init__(self, norms):
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3) for _ in range(norms)])

    def forward(self, image):
        first = self.norms[0](self.conv(image)).relu()
        return self.norms[-1](self.conv(first)).flatten(1)


def test_a_shared_layer_is_folded_only_when_all_its_uses_agree():
    torch.manual_seed(0)
    one, two = settled(Twice(1)), settled(Twice(2))
    assert not has_norm(one)
    assert has_norm(two)
    assert error(one) < 1e-5
    assert error(two) < 1e-5
    assert sorted(capture(one, images()).state_dict) == ["conv.bias", "conv.weight"]


class Branches(nn.Module):
    """The convolution's answer is read beside its BatchNorm."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)

    def forward(self, image):
        plain = self.conv(image)
        return (self.norm(plain) + plain).flatten(1)


class TiedBias(nn.Module):
    """A bias that a layer without BatchNorm reads too."""

    def __init__(self):
        super().__init__()
        self.first, self.norm, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3)
        self.second.bias = self.first.bias

    def forward(self, image):
        return self.second(self.norm(self.first(image))).flatten(1)


def test_a_layer_whose_answer_is_read_elsewhere_is_not_folded():
    torch.manual_seed(0)
    assert has_norm(settled(Branches()))
    assert error(settled(Branches())) < 1e-5


def test_a_tied_bias_keeps_its_value_for_the_other_layer():
    torch.manual_seed(0)
    module = settled(TiedBias())
    assert not has_norm(module)
    assert error(module) < 1e-5


class Standardized(nn.Conv2d):
    """Weight standardization: the weight is computed at each call."""

    def forward(self, image):
        weight = self.weight - self.weight.mean(dim=(1, 2, 3), keepdim=True)
        return nn.functional.conv2d(image, weight, self.bias)


class Dynamic(nn.Conv2d):
    def forward(self, image):
        return nn.functional.conv2d(image, self.weight * image.mean(), self.bias).flatten(1)


def test_a_weight_computed_from_parameters_becomes_a_constant():
    module = built([Standardized(3, 8, 3), nn.BatchNorm2d(8)])
    program = capture(module, images())
    assert operators(program) == ["aten.conv2d.default", "aten.flatten.using_ints"]
    assert error(module) < 1e-5


def test_a_weight_computed_from_the_image_is_left():
    program = capture(Dynamic(3, 8, 3).eval(), images())
    assert "aten.mul.Tensor" in operators(program)
    assert error(Dynamic(3, 8, 3).eval()) < 1e-5


@pytest.mark.parametrize(("window", "padding"), [((3, 3), 1), ((4, 5), "same"), ((1, 3), (0, 2))])
def test_circular_padding_becomes_slices(window, padding):
    module = built([nn.Conv2d(3, 8, window, padding=padding, padding_mode="circular")])
    assert not any("pad" in name for name in operators(capture(module, images())))
    assert error(module) < 1e-5


class AllChannels(nn.Module):
    def forward(self, image):
        return (image + 1)[:, :3].flatten(1)


class SingleCat(nn.Module):
    def forward(self, image):
        return torch.cat([image], 1).flatten(1)


def test_operators_that_do_nothing_are_dropped():
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(12), nn.Dropout(), nn.Flatten())
    assert operators(capture(pool, images())) == ["aten.flatten.using_ints"]
    assert operators(capture(SingleCat(), images())) == ["aten.flatten.using_ints"]
    assert operators(capture(AllChannels(), images())) == ["aten.add.Tensor", "aten.flatten.using_ints"]
    smaller = nn.Sequential(nn.AdaptiveAvgPool2d(6), nn.Flatten())
    assert len(operators(capture(smaller, images()))) == 2


class AuxiliaryHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.head, self.auxiliary = nn.Linear(432, 4), nn.Linear(432, 4)

    def forward(self, image):
        logits = self.head(image.flatten(1))
        return (logits, self.auxiliary(image.flatten(1))) if self.training else logits


def test_weights_that_eval_mode_never_reads_are_left_out():
    assert sorted(capture(AuxiliaryHead(), images()).state_dict) == ["head.bias", "head.weight"]


class Overwrites(nn.Module):
    """In-place operators, and `&`, whose operator's name ends in underscores without being one."""

    def __init__(self):
        super().__init__()
        self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 4)

    def forward(self, image):
        x = nn.functional.silu(self.conv(image), inplace=True).relu_()
        x.add_(1.0)
        return self.head((x * ((x > 0) & (x < 3))).mean((2, 3)))


def test_nothing_is_overwritten_and_silus_are_products_under_their_own_name():
    module, batch = Overwrites().eval(), images()
    program = capture(module, batch)
    graph = graph_of(program)
    (silu,) = (node.name for node in graph.graph.nodes if "silu" in str(node.target))
    make_functional(graph)
    write_out_silus(graph)
    names = {node.name: str(node.target) for node in graph.graph.nodes if node.op == "call_function"}
    assert names[silu] == "aten.mul.Tensor"
    assert not [name for name in names.values() if name.split(".")[1].endswith("_") and not name.startswith("aten.__")]
    torch.testing.assert_close(graph(batch), module(batch))
