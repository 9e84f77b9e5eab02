import pytest
import torch
from exporter_networks import images, settled
from test_rewrites import Dynamic
from torch import nn

from exporters.artifact import ExportError
from exporters.capture import capture
from exporters.writers.to_executorch import export


class SecondIsDynamic(nn.Module):
    """A layer whose weight depends on the image, which XNNPACK cannot take."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 3, 3), Dynamic(3, 8, 3)

    def forward(self, image):
        return self.second(self.first(image))


def test_a_convolution_that_xnnpack_refuses_is_named_and_the_file_kept(tmp_path):
    written = export(capture(SecondIsDynamic().eval(), images()), tmp_path / "x.pte")
    assert written.not_delegated == ("second",)
    assert "aten.convolution (second)" in written.fallbacks
    assert (tmp_path / "x.pte").stat().st_size > 0


def test_other_operators_outside_the_delegate_are_listed_but_are_no_layers(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 4)).eval()
    written = export(capture(module, images()), tmp_path / "x.pte")
    assert written.not_delegated == ()
    assert written.fallbacks == ("aten._adaptive_avg_pool2d (1)",)


def test_a_batch_norm_that_could_not_be_folded_is_delegated(tmp_path):
    torch.manual_seed(0)
    module = settled(nn.Sequential(nn.BatchNorm2d(3), nn.ReLU(), nn.Conv2d(3, 8, 3), nn.Flatten()))
    assert export(capture(module, images()), tmp_path / "x.pte").fallbacks == ()


@pytest.mark.parametrize(
    ("layer", "upsampling", "attention"),
    [
        (nn.ReLU(), False, False),
        (nn.Upsample(scale_factor=2, mode="bilinear"), True, False),
        (nn.Softmax(dim=-1), False, True),
    ],
    ids=["neither", "bilinear", "softmax"],
)
def test_graphs_are_only_looked_for_where_they_may_be(tmp_path, monkeypatch, layer, upsampling, attention):
    from executorch.backends.xnnpack.partition.graphs import bilinear_2d, sdpa

    looked, places = [], ((bilinear_2d, "get_graphs_dict"), (sdpa, "get_graphs"))
    for module, name in places:
        whole = getattr(module, name)
        monkeypatch.setattr(module, name, lambda name=name, whole=whole: looked.append(name) or whole())
    before = [getattr(module, name) for module, name in places]
    module = nn.Sequential(nn.Conv2d(3, 4, 3), layer).eval()
    assert export(capture(module, images()), tmp_path / "x.pte").fallbacks == ()
    assert [name in looked for _, name in places] == [upsampling, attention]
    assert [getattr(module, name) for module, name in places] == before


class SingularValues(nn.Module):
    def forward(self, image):
        return torch.linalg.svdvals(image.flatten(2)).flatten(1)


def test_an_operator_that_executorch_lacks_is_named(tmp_path):
    with pytest.raises(ExportError, match=r"ExecuTorch cannot lower the network: .*_linalg_svd.*leave the pte format"):
        export(capture(SingularValues(), images()), tmp_path / "x.pte")


def test_a_hardsigmoid_does_not_leave_the_delegate(tmp_path):
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Hardsigmoid(), nn.Flatten(), nn.Linear(800, 4)).eval()
    assert export(capture(module, images()), tmp_path / "x.pte").fallbacks == ()
