import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from exporter_networks import SIZE, images, settled, small_network
from test_to_executorch import SecondIsDynamic, SingularValues
from torch import nn

from exporters.artifact import ExportError
from exporters.capture import capture
from exporters.parity import compare, logits_of_program
from exporters.quantization.post_training import PLAIN, quantize
from exporters.writers import to_litert

TINY = Path(__file__).parents[1] / "bench/files/tiny.tflite"
IMAGES = images(16).numpy()


def interpreter(path):
    with to_litert.quiet_stderr():
        from ai_edge_litert.interpreter import Interpreter

        found = Interpreter(str(path))
        found.allocate_tensors()
    return found


def test_one_file_takes_image_and_gives_logits_and_nothing_is_said(tmp_path, capfd):
    to_litert.export(capture(small_network(), images()), tmp_path / "x.tflite")
    assert [entry.name for entry in tmp_path.iterdir()] == ["x.tflite"]
    to_litert.load(tmp_path / "x.tflite", 1)
    assert capfd.readouterr() == ("", "")
    found = interpreter(tmp_path / "x.tflite")
    assert found.get_signature_list() == {"serving_default": {"inputs": ["image"], "outputs": ["logits"]}}
    assert [list(each["shape"]) for each in found.get_input_details()] == [[1, 3, SIZE, SIZE]]
    assert {"0", "3.0", "3.1", "9"} <= {to_litert.layer_of(each["name"]) for each in found.get_tensor_details()}


def test_the_converter_is_as_it_was_afterwards(tmp_path):
    from litert_converter.mlir._mlir_libs import converter_api_ext
    from litert_torch.backend import debuginfo

    before = debuginfo.build_mlir_debuginfo, converter_api_ext.ConvertToTFLConfig
    with pytest.raises(ExportError):
        to_litert.export(capture(SingularValues(), images()), tmp_path / "x.tflite")
    assert (debuginfo.build_mlir_debuginfo, converter_api_ext.ConvertToTFLConfig) == before


def test_what_xnnpack_refuses_is_named_and_the_file_kept(tmp_path):
    written = to_litert.export(capture(SecondIsDynamic().eval(), images()), tmp_path / "x.tflite")
    assert written.not_delegated == ("second",)
    assert "CONV_2D (second)" in written.fallbacks
    assert (tmp_path / "x.tflite").stat().st_size > 0


def test_other_operators_outside_the_delegate_are_listed_but_are_no_layers(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"), nn.Flatten()).eval()
    written = to_litert.export(capture(module, images()), tmp_path / "x.tflite")
    assert (written.not_delegated, written.fallbacks) == ((), ("MIRROR_PAD (litert_torch.mark_tensor)",))


def test_an_operator_that_litert_lacks_is_named(tmp_path):
    with pytest.raises(
        ExportError, match=r"LiteRT cannot express the network: .*_linalg_svd.*; leave the tflite format out"
    ):
        to_litert.export(capture(SingularValues(), images()), tmp_path / "x.tflite")


def test_an_int8_file_gives_the_programs_own_codes_between_float_ends(tmp_path):
    program = quantize(capture(small_network(), images()), IMAGES, PLAIN).program
    written = to_litert.export(program, tmp_path / "x.tflite")
    assert (written.dtype, written.not_delegated, written.fallbacks) == ("int8", (), ())
    run = to_litert.load(tmp_path / "x.tflite", 1)
    given = np.concatenate([run(image[None]) for image in IMAGES])
    np.testing.assert_allclose(given, logits_of_program(program, IMAGES), atol=1e-6)
    kinds = [np.dtype(each["dtype"]).name for each in interpreter(tmp_path / "x.tflite").get_tensor_details()]
    assert kinds.count("float32") == 2  # the image and the logits


@pytest.mark.parametrize(
    ("layer", "pooling", "dtype", "fallbacks"),
    [
        (nn.ReLU(), nn.MaxPool2d(3, 2, 1), "float32", ()),
        (nn.ReLU(), nn.MaxPool2d(3, 2, (1, 0)), "int8", ()),
        (nn.Identity(), nn.MaxPool2d(3, 2, 1), "float32", ("PADV2 (aten.max_pool2d_with_indices)",)),
    ],
    ids=["after a ReLU", "one side, int8", "of any values"],
)
def test_a_padded_pooling_of_positive_values_stays_in_the_delegate(tmp_path, layer, pooling, dtype, fallbacks):
    torch.manual_seed(0)
    module = settled(nn.Sequential(nn.Conv2d(3, 8, 3), layer, pooling, nn.Conv2d(8, 8, 2), nn.Flatten()))
    program = capture(module, images())
    program = quantize(program, IMAGES, PLAIN).program if dtype == "int8" else program
    assert to_litert.export(program, tmp_path / "x.tflite").fallbacks == fallbacks
    run = to_litert.load(tmp_path / "x.tflite", 1)
    found = compare(np.concatenate([run(image[None]) for image in IMAGES]), logits_of_program(program, IMAGES))
    assert found.rms_error < (1e-2 if dtype == "int8" else 1e-6)


@pytest.mark.parametrize("inplace", [False, True])
def test_a_hardswish_between_int8_layers_stays_in_the_delegate(tmp_path, inplace):
    torch.manual_seed(0)
    module = settled(nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardswish(inplace), nn.Conv2d(8, 8, 3), nn.Flatten()))
    program = quantize(capture(module, images()), IMAGES, PLAIN).program
    assert to_litert.export(program, tmp_path / "x.tflite").fallbacks == ()
    run = to_litert.load(tmp_path / "x.tflite", 1)
    found = compare(np.concatenate([run(image[None]) for image in IMAGES]), logits_of_program(program, IMAGES))
    assert found.rms_error < 5e-3


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("features.3;1", "features.3"),
        ("aten.relu;;3;12", "3"),
        ("9;;aten.mm;", "9"),
        ("aten.mean;1", ""),
        ("serving_default_image", ""),
    ],
)
def test_a_tensors_name_tells_its_layer(name, layer):
    assert to_litert.layer_of(name) == layer


def test_a_file_runs_without_what_wrote_it():
    code = (
        "import sys, numpy as np; from pathlib import Path; from exporters.writers.to_litert import load; "
        f"print(load(Path({str(TINY)!r}), 1)(np.ones((1, 3, 16, 16), np.float32)).shape, "
        "*(name for name in ('torch', 'jax', 'transformers', 'litert_torch') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "(1, 5)\n"


def test_an_image_of_another_order_is_refused():
    run = to_litert.load(TINY, 1)
    with pytest.raises(ExportError, match=r"takes images of shape \(1, 3, 16, 16\), and this one is \(1, 16, 16, 3\);"):
        run(np.ones((1, 16, 16, 3), np.float32))


def test_a_file_whose_ends_are_int8_is_refused(tmp_path):
    from litert_torch import convert
    from litert_torch.quantize.pt2e_quantizer import PT2EQuantizer, get_symmetric_quantization_config
    from litert_torch.quantize.quant_config import QuantConfig

    program = quantize(capture(small_network(), images()), IMAGES, PLAIN).program
    plain = QuantConfig(PT2EQuantizer().set_global(get_symmetric_quantization_config()))
    with to_litert.quiet(), to_litert.quiet_stderr():
        network = to_litert._named(to_litert._network(program, "int8"))
        model = convert(network, sample_kwargs={"image": torch.from_numpy(IMAGES[:1])}, quant_config=plain)
        model.export(str(tmp_path / "x.tflite"))
    with pytest.raises(ExportError, match=r"x\.tflite takes int8 of shape \(1, 3, 12, 12\), and images are float32"):
        to_litert.load(tmp_path / "x.tflite", 1)
