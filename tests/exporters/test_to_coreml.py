import pytest
import torch
from exporter_networks import images, small_network
from torch import nn

from exporters.artifact import ExportError
from exporters.capture import capture
from exporters.writers.to_coreml import export, inspect


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    path = tmp_path_factory.mktemp("coreml") / "x.mlpackage"
    return path, export(capture(small_network(), images()), path)


def test_the_stored_weights_are_counted_and_the_description_read_back(package):
    path, written = package
    assert written.dtype == "float16"
    assert written.inspected == "7 of 7 stored weights match within float16, input image 1x3x12x12, output logits 1x10"
    assert inspect(capture(small_network(), images()), path) == written.inspected


def test_weights_of_another_network_are_found_out(package):
    module = small_network()
    with torch.no_grad():
        module[9].weight[3, 5] += 0.01
    with pytest.raises(
        ExportError, match=r"x.mlpackage does not hold the network's weights: 9.weight differ .*\(1 of 7"
    ):
        inspect(capture(module, images()), package[0])


def test_another_input_is_found_out(package):
    program = capture(small_network(), nn.functional.interpolate(images(), size=(16, 16)))
    expected = r"describes \[\('image', \(1, 3, 12, 12\)\)\], the network has \[\('image', \(1, 3, 16, 16\)\)\]"
    with pytest.raises(ExportError, match=expected):
        inspect(program, package[0])


class Scaled(nn.Module):
    """A scale that the converter merges into the convolution before it."""

    def __init__(self):
        super().__init__()
        self.conv, self.scale = nn.Conv2d(3, 8, 3), nn.Parameter(torch.linspace(0.5, 2, 8)[:, None, None])

    def forward(self, image):
        return (self.conv(image) * self.scale).flatten(1)


def test_a_scale_that_the_converter_merges_is_named(tmp_path):
    written = export(capture(Scaled().eval(), images()), tmp_path / "x.mlpackage")
    assert "0 of 3 stored weights match within float16 (scale, conv.weight, conv.bias merged" in written.inspected


def test_a_weight_that_float16_cannot_hold_is_stored_as_it_is(tmp_path):
    module = nn.Sequential(nn.Flatten(), nn.Linear(432, 4)).eval()
    with torch.no_grad():
        module[1].weight[0, 0] = 1e6
    written = export(capture(module, images()), tmp_path / "x.mlpackage")
    assert written.inspected.startswith("2 of 2 stored weights match within float16")


class SingularValues(nn.Module):
    def forward(self, image):
        return torch.linalg.svdvals(image.flatten(2)).flatten(1)


def test_an_operator_that_coreml_lacks_is_named(tmp_path):
    with pytest.raises(ExportError, match=r"CoreML cannot express the network: .*svd.*leave the mlpackage format out"):
        export(capture(SingularValues(), images()), tmp_path / "x.mlpackage")
