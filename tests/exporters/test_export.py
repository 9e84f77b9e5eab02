from dataclasses import replace

import numpy as np
import pytest
import torch
from exporter_networks import SIZE, images, settled, small_network
from torch import nn

from exporters.artifact import ExportError, read_artifacts, size_and_sha256, write_artifacts
from exporters.export import export
from exporters.formats import FORMATS
from exporters.parity import check, logits_of

# torch tells of an extra copy whenever a window is even and the padding "same"
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths")


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """exported(format) is the small network's Artifact in that format, alone in its folder, written once."""
    made = {}

    def artifact_of(name):
        if name not in made:
            path = tmp_path_factory.mktemp("exported") / f"compressed.{name}"
            made[name] = export(small_network(), images(), name, path, images=images().numpy())
        return made[name]

    return artifact_of


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_a_file_that_matches_the_module(exported, tmp_path, name):
    artifact = exported(name)
    path = artifact.path
    assert [entry.name for entry in path.parent.iterdir()] == [f"compressed.{name}"]
    assert (artifact.bytes, artifact.sha256) == size_and_sha256(path)
    assert (artifact.network, artifact.format, artifact.input) == ("compressed", name, (1, 3, SIZE, SIZE))
    assert list(artifact.toolkits) == list(FORMATS[name].writer.REQUIRES)
    assert artifact.not_delegated == ()
    assert artifact.verdict == "passed"
    inside = replace(artifact, path=tmp_path / path.name)
    write_artifacts(tmp_path / "artifacts.json", [inside])
    assert read_artifacts(tmp_path / "artifacts.json") == (inside,)


@pytest.mark.parametrize("name", FORMATS)
def test_a_loaded_file_gives_logits_of_its_own(exported, name):
    run = FORMATS[name].writer.load(exported(name).path, 2)
    first = run(images()[:1].numpy())
    kept = first.copy()
    second = run(images()[1:2].numpy())
    assert first.shape == (1, 10)
    assert first.dtype == np.float32
    assert np.array_equal(first, kept), "the next run overwrote the answer"
    assert not np.array_equal(first, second)


@pytest.mark.parametrize("name", FORMATS)
def test_parity_finds_a_file_of_another_network(exported, name):
    reference = logits_of(small_network(seed=1), images().numpy())
    assert check(exported(name).path, name, images().numpy(), reference).relative_error > 0.1


def test_an_export_that_differs_from_its_reference_has_failed(tmp_path):
    assert export(small_network(), images(), "ptl", tmp_path / "y.ptl").parity is None
    reference = logits_of(small_network(seed=1), images().numpy())
    artifact = export(
        small_network(), images(), "ptl", tmp_path / "x.ptl", images=images().numpy(), reference=reference
    )
    assert artifact.verdict == "failed"
    assert artifact.parity.relative_error > 0.1


@pytest.mark.parametrize("name", FORMATS)
def test_convolutions_of_every_geometry_in_a_row_are_exported(tmp_path, name):
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 8, 3, padding=1, padding_mode="reflect"),
        nn.Conv2d(8, 8, (3, 5), padding=(1, 2), padding_mode="circular"),
        nn.BatchNorm2d(8),
        nn.Conv2d(8, 12, 3, stride=(2, 1), padding=(1, 2), padding_mode="replicate"),
        nn.ReLU(),
        nn.Conv2d(12, 12, (4, 3), padding="same", dilation=(1, 2), groups=3, bias=False),
        nn.BatchNorm2d(12),
        nn.Conv2d(12, 12, 3, dilation=(2, 3)),
        nn.Conv2d(12, 24, (1, 7), padding=(0, 3), groups=12),  # depthwise, two of each
        nn.BatchNorm2d(24),
        nn.ReLU(),
        nn.ConvTranspose2d(24, 6, 3, groups=3, stride=2),
        nn.BatchNorm2d(6),
        nn.Flatten(),
    ]
    module = settled(nn.Sequential(*layers))
    artifact = export(module, images(), name, tmp_path / f"x.{name}", images=images(3).numpy())
    assert artifact.verdict == "passed"
    assert artifact.not_delegated == ()


def test_a_failed_export_leaves_the_old_file_and_nothing_half_written(tmp_path):
    (tmp_path / "x.onnx").write_text("old")

    class Odd(nn.Module):
        def forward(self, image):
            return torch.linalg.svdvals(image.flatten(2)).flatten(1)

    with pytest.raises(ExportError, match=r"ONNX cannot express the network: .*svd.*leave the onnx format out"):
        export(Odd(), images(), "onnx", tmp_path / "x.onnx")
    assert [(entry.name, entry.read_text()) for entry in tmp_path.iterdir()] == [("x.onnx", "old")]


def test_a_wrong_suffix_or_format_is_refused_before_any_work(tmp_path):
    with pytest.raises(ExportError, match=r"a CoreML file is called \*.mlpackage, not x.onnx; rename it"):
        export(small_network(), images(), "mlpackage", tmp_path / "x.onnx")
    with pytest.raises(ExportError, match=r"there is no format 'pt'"):
        export(small_network(), images(), "pt", tmp_path / "x.pt")


def test_the_callers_threads_are_as_many_afterwards(tmp_path):
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        export(small_network(), images(), "ptl", tmp_path / "x.ptl", images=images().numpy())
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
