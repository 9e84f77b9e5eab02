"""float16: what is stored and computed in it, and numbers that it cannot hold."""

import numpy as np
import pytest
import torch
from exporter_networks import images, settled, small_network
from torch import nn

from bench.file_contents.readers import read
from exporters.artifact import ExportError, number_type
from exporters.capture import capture
from exporters.export import export, export_program
from exporters.parity import compare, logits_of, logits_of_program
from exporters.quantization.half import halve

IMAGES = images(8).numpy()
EXAMPLE = torch.from_numpy(IMAGES[:1])


def every_kind_of_layer():
    """An ordinary and a depthwise convolution, a hardsigmoid and a hardswish, a fully connected layer."""
    torch.manual_seed(0)
    return settled(
        nn.Sequential(
            nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Hardswish(), nn.Conv2d(8, 8, 3, groups=8), nn.Hardsigmoid(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 10),
        )
    )  # fmt: skip


@pytest.fixture(scope="module")
def module():
    return every_kind_of_layer()


@pytest.fixture(scope="module")
def halved(module):
    return halve(capture(module, EXAMPLE), IMAGES)


def test_weights_and_layers_are_float16_and_the_ends_float32(halved):
    assert number_type(halved) == "float16"
    assert {tensor.dtype for tensor in halved.state_dict.values()} == {torch.float16}
    values = [node.meta["val"].dtype for node in halved.graph.nodes if "conv" in str(node.target)]
    assert values == [torch.float16] * 2
    assert logits_of_program(halved, IMAGES).dtype == np.float32


def test_the_program_that_was_given_stays_float32():
    program = capture(small_network(), EXAMPLE)
    before = {name: tensor.clone() for name, tensor in program.state_dict.items()}
    halve(program)
    assert number_type(program) == "float32"
    assert all(torch.equal(before[name], tensor) for name, tensor in program.state_dict.items())


def test_logits_differ_by_rounding_alone(module, halved):
    found = compare(logits_of_program(halved, IMAGES), logits_of(module, IMAGES))
    assert 0 < found.relative_error < 1e-2


def test_a_tflite_stores_the_weights_of_layers_in_float16(module, halved, tmp_path):
    made = export_program(halved, "tflite", tmp_path / "n.tflite", images=IMAGES, reference=logits_of(module, IMAGES))
    assert (made.dtype, made.verdict, made.not_delegated) == ("float16", "passed", ())
    kernels, biases = 3 * 9 * 8 + 9 * 8 + 80, 8 + 8 + 10
    assert read(made.path).dtypes["float16"] == 2 * kernels
    assert 4 * biases <= read(made.path).dtypes["float32"] < 4 * biases + 64
    assert "in float32, unless an app sets XNNPACK's FORCE_FP16" in made.notes[0]


@pytest.mark.parametrize("format", ["pte", "onnx", "mlpackage"])
def test_a_file_stores_float16_alone(format, module, halved, tmp_path):
    path = tmp_path / f"n.{format}"
    made = export_program(halved, format, path, images=IMAGES, reference=logits_of(module, IMAGES))
    assert made.dtype == "float16"
    assert made.verdict == "passed"
    assert made.not_delegated == ()
    stored = {name: size for name, size in read(path).dtypes.items() if name.startswith("float")}
    weights = sum(2 * tensor.numel() for tensor in halved.state_dict.values())
    assert list(stored) == ["float16"]
    assert weights <= stored["float16"] < weights + 64  # numbers of the activations


def test_a_transposed_convolution_runs_in_float16_too(tmp_path):
    """XNNPACK wants its weights in float32."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.ConvTranspose2d(3, 4, 2, stride=2), nn.Flatten(), nn.Linear(4 * 24 * 24, 10)).eval()
    made = export(module, EXAMPLE, "pte", tmp_path / "n.pte", dtype="float16", images=IMAGES)
    assert made.verdict == "passed"
    assert read(made.path).dtypes == {"float16": 2 * (40 * 24 * 24 + 10), "float32": 4 * (3 * 16 + 4)}


def test_nothing_but_the_casts_at_the_ends_runs_outside_xnnpack(halved, tmp_path):
    made = export_program(halved, "pte", tmp_path / "n.pte")
    assert made.fallbacks == ("aten._to_dim_order_copy (the network itself)",)
    assert read(made.path).operators["dim_order_ops::_to_dim_order_copy"] == 2


def test_onnx_says_what_its_runtime_does(halved, tmp_path):
    (note,) = export_program(halved, "onnx", tmp_path / "n.onnx").notes
    assert "in float32 on x86 cores" in note


def test_a_module_is_exported_in_float16(module, tmp_path):
    made = export(module, EXAMPLE, "pte", tmp_path / "n.pte", dtype="float16", images=IMAGES)
    assert (made.dtype, made.verdict, made.parity.images) == ("float16", "passed", len(IMAGES))


class SharedAndTyped(nn.Module):
    """A layer that is used twice, and an operator that names its type."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(432, 432)

    def forward(self, image):
        once = self.layer(image.flatten(1))
        return self.layer(once + torch.ones(1, dtype=torch.float32)).to(torch.float32)


def test_a_shared_weight_stays_one_and_types_follow():
    halved = halve(capture(SharedAndTyped().eval(), EXAMPLE))
    assert sum(tensor.numel() for tensor in halved.state_dict.values()) == 432 * 433
    assert {node.meta["val"].dtype for node in halved.graph.nodes if "linear" in str(node.target)} == {torch.float16}


def scaled(weight=1.0, bias=0.0):
    module = small_network()
    with torch.no_grad():
        module[3][1].weight.mul_(weight)
        module[9].bias.add_(bias)
    return capture(module, EXAMPLE)


@pytest.mark.parametrize(
    ("scales", "expected"),
    [
        ({"bias": 1e5}, r"float16 holds numbers up to 65504, and 9\.bias reaches 1e\+05; export it in float32 or int8"),
        ({"weight": 1e6}, r"up to 65504, and 3\.1\.weight reaches"),
    ],
)
def test_a_weight_beyond_float16_is_named(scales, expected):
    with pytest.raises(ExportError, match=expected):
        halve(scaled(**scales), IMAGES)


@pytest.mark.parametrize(
    ("reach", "expected"),
    [
        (1e5, r"up to 65504, and the image reaches .* on image 2; export it in float32 or int8"),
        (6.5e4, r"up to 65504, and 0 reaches .* on image 2; export it in float32 or int8"),
    ],
)
def test_the_first_layer_that_overflows_on_an_image_is_named(reach, expected):
    program, loud = capture(small_network(), EXAMPLE), IMAGES.copy()
    halve(program, loud)
    loud[2] *= reach / np.abs(loud[2]).max()
    with pytest.raises(ExportError, match=expected):
        halve(program, loud)
