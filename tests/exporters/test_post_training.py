"""Post-training quantization: what it keeps, what it balances, and what it refuses."""

import numpy as np
import onnx
import pytest
import torch
from exporter_networks import images, settled
from torch import nn

from bench.file_contents.readers import read
from exporters.artifact import ExportError, number_type
from exporters.capture import capture
from exporters.export import export, export_program
from exporters.quantization.post_training import FEWEST_IMAGES, PLAIN, Calibration, quantize
from exporters.writers import to_coreml

IMAGES = images(32).numpy()


def graph_of(program):
    graph = program.module(check_guards=False)
    graph._forward_pre_hooks.clear()
    return graph


def logits(program, batch=IMAGES):
    with torch.no_grad():
        return np.concatenate([graph_of(program)(torch.from_numpy(image[None])).numpy() for image in batch])


def factored(spread=1.0):
    """A convolution in two spatial factors, whose inner channels reach as far apart as `spread` says."""
    torch.manual_seed(0)
    first, second = nn.Conv2d(3, 8, (3, 1), padding=(1, 0), bias=False), nn.Conv2d(8, 16, (1, 3), padding=(0, 1))
    scale = torch.logspace(0, float(np.log10(spread)), 8)
    with torch.no_grad():
        first.weight.mul_(scale.view(-1, 1, 1, 1))
        second.weight.div_(scale.view(1, -1, 1, 1))
    return settled(
        nn.Sequential(
            nn.Sequential(first, second), nn.BatchNorm2d(16), nn.ReLU6(), nn.Conv2d(16, 16, 3, groups=16),
            nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10),
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def program():
    return capture(factored(), torch.from_numpy(IMAGES[:1]))


@pytest.fixture(scope="module")
def quantized(program):
    return quantize(program, IMAGES)


def test_every_layer_computes_in_int8(quantized):
    assert {layer.layer: layer.dtype for layer in quantized.layers} == {
        "0.0": "int8", "0.1": "int8", "3": "int8", "7": "int8",
    }  # fmt: skip
    assert number_type(quantized.program) == "int8"
    weights = [t for t in quantized.program.state_dict.values() if t.dtype == torch.int8]
    assert sum(w.numel() for w in weights) == 3 * 3 * 8 + 8 * 3 * 16 + 9 * 16 + 160


def test_logits_stay_near_those_of_the_float_program(program, quantized):
    signal, noise = logits(program), logits(quantized.program) - logits(program)
    ratio = 10 * np.log10((signal**2).sum() / (noise**2).sum())
    assert ratio > 25
    assert quantized.signal_to_noise == pytest.approx(ratio, abs=1.5)  # it is taken from the calibration images


def test_ranges_of_factors_are_balanced():
    wide = capture(factored(spread=300.0), torch.from_numpy(IMAGES[:1]))
    assert quantize(wide, IMAGES, PLAIN).signal_to_noise + 10 < quantize(wide, IMAGES).signal_to_noise


def test_relu6_ends_at_6_where_the_runtime_clamps(quantized):
    """The clamp is left to quantization: no ReLU6 stands in the graph, and what it gave cannot exceed 6."""
    nodes = list(quantized.program.graph.nodes)
    assert not [node for node in nodes if "hardtanh" in str(node.target) or "relu" in str(node.target)]
    ends = [
        (node.args[4] - node.args[2]) * node.args[1]
        for node in nodes
        if "quantize_per_tensor" in str(node.target) and node.args[2] == node.args[3] and "conv" in str(node.args[0])
    ]
    assert len(ends) >= 2  # after the first ReLU6, and after the ReLU
    assert ends[0] <= 6.0001


def test_a_layer_can_be_kept_in_float(program):
    kept = quantize(program, IMAGES, floats={"conv2d_2": "asked for"})
    assert [(row.layer, row.reason) for row in kept.layers if row.dtype == "float32"] == [("3", "asked for")]


def test_an_unknown_layer_is_not_kept_in_silence(program):
    with pytest.raises(ExportError, match="there is no operator 'nope' to keep in float32; layers are conv2d"):
        quantize(program, IMAGES, floats={"nope": ""})


def test_too_few_images_are_refused(program):
    with pytest.raises(ExportError, match=f"int8 is calibrated on {FEWEST_IMAGES} images at least, and there are 3"):
        quantize(program, IMAGES[:3])


def test_images_that_give_no_number_are_refused(program):
    with pytest.raises(ExportError, match="logits that are not finite on calibration images"):
        quantize(program, np.full_like(IMAGES, np.nan))


def test_a_program_fixed_to_one_image_is_calibrated_image_by_image():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.conv, self.head = nn.Conv2d(3, 4, 3, stride=4), nn.Linear(36, 10)

        def forward(self, image):
            return self.head(torch.relu(self.conv(image)).reshape(1, -1))

    done = quantize(capture(Fixed().eval(), torch.from_numpy(IMAGES[:1])), IMAGES[:8])
    assert done.images == 8
    assert done.signal_to_noise > 20


@pytest.mark.parametrize("format", ["pte", "onnx"])
def test_files_compute_what_the_quantized_program_does(quantized, format, tmp_path):
    wanted = logits(quantized.program)
    made = export_program(quantized.program, format, tmp_path / f"n.{format}", images=IMAGES, reference=wanted)
    assert made.dtype == "int8"
    assert made.not_delegated == ()
    assert made.verdict == "passed"


def test_a_coreml_package_holds_the_codes_and_scales_of_the_program(quantized, tmp_path):
    path = tmp_path / "n.mlpackage"
    made = export_program(quantized.program, "mlpackage", path, images=IMAGES, reference=logits(quantized.program))
    assert (made.dtype, made.verdict) == ("int8", "passed")
    assert to_coreml.inspect(quantized.program, path) == (
        "4 weights in int8 match, 6 activations are quantized, 7 of 7 stored weights match within float16, "
        "input image 1x3x12x12, output logits 1x10"
    )
    for name, change in (("3.weight", 1), ("0.1.weight_scale", 1e-3)):
        number = quantized.program.state_dict[name].view(-1)[3:4]
        before = number.clone()
        number += change
        with pytest.raises(ExportError, match=rf"does not hold the network's weights: {name} differ .*\(1 of 11\)"):
            to_coreml.inspect(quantized.program, path)
        number.copy_(before)


@pytest.mark.parametrize("format", ["pte", "onnx", "tflite", "mlpackage"])
def test_a_file_stores_each_weight_once_in_int8(format, quantized, tmp_path):
    contents = read(export_program(quantized.program, format, tmp_path / f"n.{format}").path)
    codes = [weight for weight in contents.weights if "int8" in weight.dtype and len(weight.shape) > 1]
    assert sum(weight.bytes for weight in codes) == 3 * 3 * 8 + 8 * 3 * 16 + 9 * 16 + 160
    assert not [weight for weight in contents.weights if "float" in weight.dtype and len(weight.shape) > 1]
    assert contents.number_type == "int8"


def test_numbers_of_an_onnx_file_are_named_after_layers_and_activations(quantized, tmp_path):
    contents = read(export_program(quantized.program, "onnx", tmp_path / "n.onnx").path)
    assert {weight.name for weight in contents.weights if len(weight.shape) > 1} == {
        "0.0.weight", "0.1.weight", "3.weight", "7.weight",
    }  # fmt: skip
    numbers = {weight.name for weight in contents.weights if weight.dtype != "int64"}
    assert {name.rpartition(".")[0] for name in numbers} == {"0.0", "0.1", "3", "7", "activation_ranges"}
    assert {"0.0.weight_scale", "7.weight_zero_point", "activation_ranges.image_scale"} <= numbers


def test_weights_that_only_float32_read_are_left_out(quantized):
    """Of float32 there are biases and scales."""
    assert sum(t.numel() for t in quantized.program.state_dict.values() if t.dtype == torch.float32) == 42 + 50


def test_biases_are_whole_steps_of_their_products(quantized):
    graph = graph_of(quantized.program)
    layers = [node for node in graph.graph.nodes if str(node.target).startswith(("aten.conv2d", "aten.linear"))]
    checked = 0
    for layer in layers:
        image, weight, bias = layer.args[:3]
        if bias is None:
            continue
        values = getattr(graph.get_submodule(str(bias.target).rpartition(".")[0]), str(bias.target).rpartition(".")[2])
        scales = weight.args[1]
        step = image.args[1] * getattr(graph.get_submodule(scales.target.rpartition(".")[0]),
                                       scales.target.rpartition(".")[2])  # fmt: skip
        codes = (values / step).detach()
        assert float((codes - codes.round()).abs().max()) < 0.02
        assert float(codes.abs().max()) > 10
        checked += 1
    assert checked >= 3


def test_calibration_is_repeatable(program, quantized):
    again = quantize(program, IMAGES, Calibration())
    assert again.signal_to_noise == quantized.signal_to_noise


def test_a_module_is_exported_in_int8(tmp_path):
    path, example = tmp_path / "n.pte", torch.from_numpy(IMAGES[:1])
    made = export(factored(), example, "pte", path, dtype="int8", images=IMAGES, calibration=IMAGES)
    assert (made.dtype, made.verdict) == ("int8", "passed")
    assert made.parity.images == len(IMAGES)


def test_a_program_of_a_type_that_the_format_does_not_take_is_refused(quantized, tmp_path):
    path = tmp_path / "n.ptl"
    with pytest.raises(ExportError, match="TorchScript Lite files are not written in int8"):
        export_program(quantized.program, "ptl", path)
    assert not path.exists()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dtype": "int8"}, "int8 is calibrated on real images, and there are none; pass calibration=images"),
        ({"calibration": IMAGES}, "images to calibrate on are for int8, not for float32; pass dtype='int8' or"),
    ],
)
def test_calibration_images_and_int8_go_together(options, expected, tmp_path):
    with pytest.raises(ExportError, match=expected):
        export(factored(), torch.from_numpy(IMAGES[:1]), "pte", tmp_path / "n.pte", **options)


class Outlier(nn.Module):
    """A network whose middle layers read an activation of which one channel reaches a thousand times as far."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first, self.wide = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3)
        self.one, self.two, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1), nn.Linear(8 * 4 * 4, 10)
        with torch.no_grad():
            self.wide.bias[3] = 1000.0
            for layer in (self.one, self.two):
                layer.weight[:, 3] = 1e-5

    def forward(self, x):
        x = self.wide(torch.relu(self.first(x)))  # two layers read it, so its channels cannot be balanced
        x = self.one(x) + self.two(x).relu()
        return self.last(x[:, :, :4, :4].flatten(1))


def test_the_noise_of_each_layer_shows_where_int8_loses():
    found = quantize(capture(Outlier().eval(), torch.from_numpy(IMAGES[:1])), IMAGES)
    noise = {layer.layer: layer.signal_to_noise for layer in found.layers}
    assert min(noise["first"], noise["wide"]) > 40 > 15 > max(noise["one"], noise["two"])
    assert found.signal_to_noise == pytest.approx(noise["last"], abs=3)


PADDED = nn.Sequential(
    nn.Conv2d(3, 8, 1), nn.ReLU6(), nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(8, 8, 3, 2, groups=8), nn.ReLU(),
    nn.ConstantPad2d((1, 1, 1, 1), 9.0), nn.Conv2d(8, 8, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
)  # fmt: skip


@pytest.fixture(scope="module")
def padded():
    torch.manual_seed(0)
    return quantize(capture(settled(PADDED), torch.from_numpy(IMAGES[:1])), IMAGES, PLAIN)


def test_zeros_around_an_image_keep_its_range_and_other_numbers_do_not(padded):
    graph = padded.program.graph
    pads = [node for node in graph.nodes if "pad" in str(node.target)]
    same = []
    for pad in pads:
        (after,) = pad.users
        same.append(after.args[1:3] == pad.args[0].args[1:3])
    assert same == [True, False]


def test_zeros_in_front_of_a_convolution_are_its_own(padded, tmp_path):
    """ExecuTorch pads int8 numbers there, and the exporter to ONNX merges a padding that nothing stands behind."""
    wanted = logits(padded.program)
    for format in ("pte", "onnx"):
        made = export_program(padded.program, format, tmp_path / f"n.{format}", images=IMAGES, reference=wanted)
        assert (made.verdict, made.not_delegated) == ("passed", ())
    nodes = onnx.load(tmp_path / "n.onnx").graph.node
    pads = [list(each.ints) for node in nodes for each in node.attribute if each.name == "pads"]
    assert pads.count([0, 0, 1, 1]) == 1
    assert [node.op_type for node in nodes].count("Pad") == 1  # the one of other numbers
