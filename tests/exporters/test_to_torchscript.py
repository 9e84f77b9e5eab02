import pytest
from exporter_networks import images, small_network
from torch.jit.mobile import _get_model_bytecode_version

from exporters.artifact import ExportError
from exporters.capture import capture
from exporters.writers import to_torchscript


def test_the_file_holds_bytecode_that_the_last_phone_runtimes_read(tmp_path):
    to_torchscript.export(capture(small_network(), images()), tmp_path / "x.ptl")
    assert _get_model_bytecode_version(str(tmp_path / "x.ptl")) == 8


def test_newer_bytecode_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(to_torchscript, "NEWEST_BYTECODE", 7)
    with pytest.raises(
        ExportError, match=r"read bytecode up to 7, torch .* wrote 8; leave the ptl format out or install"
    ):
        to_torchscript.export(capture(small_network(), images()), tmp_path / "x.ptl")


def test_what_tracing_meets_is_told_in_a_sentence(tmp_path):
    with pytest.raises(ExportError, match=r"TorchScript cannot trace the network: .*; leave the ptl format out"):
        to_torchscript.export(capture(small_network(), images()), tmp_path / "no folder" / "x.ptl")
