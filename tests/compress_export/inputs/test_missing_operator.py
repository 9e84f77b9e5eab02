"""A format that has no operator for a user's network: the other files are written, and the report has the reason."""

import json

import pytest

NET = """
import torch
from torch import nn
class Bessel(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Conv2d(3, 8, 3)
        self.head = nn.Linear(8, 4)
    def forward(self, image):
        features = self.trunk(image).mean((2, 3))
        return self.head(torch.special.bessel_j0(features))
"""
"""torch.onnx has no translation of a Bessel function; what runs a .ptl has the function itself."""


@pytest.fixture(scope="module")
def broken_run(tmp_path_factory, status_once):
    folder = tmp_path_factory.mktemp("bessel")
    (folder / "net.py").write_text(NET)
    words = ("net.py:Bessel", "--input", "3x8x8", "--weights", "none", "--set", "plan.costs=counted", "--name", "run")
    status = status_once(folder, *words, "--format", "ptl,onnx", "--device", "host", "--set", "bench.cap=0.1")
    return status, folder / "runs" / "run"


def test_the_other_files_are_written_and_the_status_is_1(broken_run):
    status, run = broken_run
    assert status == 1
    assert [row["format"] for row in json.loads((run / "artifacts.json").read_text())] == ["ptl", "ptl"]
    assert sorted(path.name for path in (run / "artifacts").iterdir()) == ["compressed.ptl", "original.ptl"]
    assert "bessel_j0" in json.loads((run / "unwritten.json").read_text())["onnx"]


@pytest.mark.parametrize("page", ["report.md", "report.html", "report.json"])
def test_every_page_has_a_row_with_the_reason(broken_run, page):
    text = (broken_run[1] / page).read_text()
    assert "bessel_j0" in text
    assert "Files of .onnx are missing: onnx: " in text


def test_the_command_of_the_report_asks_for_both(broken_run):
    assert json.loads((broken_run[1] / "report.json").read_text())["command"].count("ptl,onnx") == 1


def test_a_second_export_says_it_again_and_leaves_what_is_there(broken_run, call):
    _, run = broken_run
    before = (run / "artifacts.json").read_bytes()
    status, _, err = call(run.parents[1], "export", "runs/run", "--format", "onnx")
    assert (status, "Traceback" in err) == (1, False)
    assert "(files of .onnx are missing, the others are written)" in err.strip().splitlines()[-1]
    assert (run / "artifacts.json").read_bytes() == before
