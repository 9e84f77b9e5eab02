"""Networks that are no classifiers from end to end: a segmenter by pictures alone and by masks, an embedder with an
evaluation of the user's own and a budget on it, and one of torchvision's segmenters in a file."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

PAGE = Path(__file__).resolve().parents[3] / "docs" / "tasks.md"

SEGMENTER = """
from torch import nn
def block(inputs, outputs, stride=1):
    layer = nn.Conv2d(inputs, outputs, 3, stride, 1)
    return nn.Sequential(layer, nn.BatchNorm2d(outputs), nn.ReLU())
class Segmenter(nn.Module):
    def __init__(self):
        super().__init__()
        self.down = nn.Sequential(block(3, 16), block(16, 32, 2), block(32, 48), block(48, 32))
        self.up = nn.Upsample(scale_factor=2, mode="nearest")
        self.head = nn.Sequential(block(32, 16), nn.Conv2d(16, 3, 1))
    def forward(self, image):
        return {"mask": self.head(self.up(self.down(image)))}
def build():
    return Segmenter()
"""

METRIC = """
import torch
def spread(model, images):
    rows = torch.nn.functional.normalize(model(images).flatten(1))
    return {"spread": 1 - (rows @ rows.T).mean(), "images": len(images)}
"""


def pasted(folder, count, seed):
    """Crops of photographs of 32 x 32 with two digits pasted on them, yellow (class 1) and blue (class 2)."""
    from sklearn.datasets import load_digits, load_sample_images

    random, digits, photographs = np.random.default_rng(seed), load_digits().images, load_sample_images().images
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    for number in range(count):
        whole = photographs[random.integers(2)]
        top, left = random.integers(whole.shape[0] - 32), random.integers(whole.shape[1] - 32)
        picture, mask = whole[top : top + 32, left : left + 32] // 2, np.zeros((32, 32), np.uint8)
        for label, colour in ((1, (250, 230, 60)), (2, (60, 90, 250))):
            ink = np.kron(digits[random.integers(len(digits))] > 6, np.ones((2, 2), bool))
            row, column = random.integers(16, size=2)
            picture[row : row + 16, column : column + 16][ink] = colour
            mask[row : row + 16, column : column + 16][ink] = label
        Image.fromarray(picture).save(folder / "images" / f"{number}.png")
        Image.fromarray(mask).save(folder / "masks" / f"{number}.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with networks, a metric, pictures with masks, and the same pictures alone."""
    folder = tmp_path_factory.mktemp("tasks")
    (folder / "net.py").write_text(SEGMENTER)
    (folder / "metric.py").write_text(METRIC)
    for seed, (part, count) in enumerate((("train", 240), ("val", 60))):
        pasted(folder / "masked" / part, count, seed)
        (folder / "pictures").mkdir(exist_ok=True)
        (folder / "pictures" / part).symlink_to(folder / "masked" / part / "images")
    return folder


def commands():
    """The commands of the page, in its order."""
    text = PAGE.read_text(encoding="utf-8")
    lines = "\n".join(re.findall(r"```sh\n(.*?)```", text, re.DOTALL)).replace("\\\n", " ").splitlines()
    return [line.split()[1:] for line in lines if line.startswith("compress-export ")]


def metrics(folder, name):
    return json.loads((folder / "runs" / name / "metrics.json").read_text())


@pytest.mark.slow
def test_the_pages_commands_keep_their_promises(place, call, monkeypatch):
    """A segmenter trained by masks; a third of its MACs by masks, and by pictures alone; an embedder, judged and held
    to a budget."""
    trained, alone, embedder, check = commands()
    status, out, err = call(place, *trained)
    assert status == 0, err
    assert "mean IoU" in out
    found = metrics(place, "masks")
    before, after = (found["networks"][name]["mean IoU"] for name in ("original", "compressed"))
    assert before > 60
    assert after >= before - 1
    (artifact, *_) = json.loads((place / "runs" / "masks" / "artifacts.json").read_text())
    assert [output["name"] for output in artifact["outputs"]] == ["mask"]
    assert artifact["parity"]["equal_pixels"] == pytest.approx(1, abs=1e-4)
    monkeypatch.chdir(place)
    weights = place / "runs" / "masks" / "original.safetensors"
    weights.rename(place / "segmenter.safetensors")
    status, out, err = call(place, *alone)
    assert status == 0, err
    assert "go by pictures alone" in err
    found = metrics(place, "alone")
    assert found["metric"] == "cosine to the original"
    assert found["networks"]["original"]["cosine to the original"] == pytest.approx(100)
    assert found["networks"]["compressed"]["cosine to the original"] > 98
    status, out, err = call(place, *embedder)
    assert status == 0, err
    assert "spread" in out
    (place / "budgets.toml").write_text('[[budget]]\nrun = "runs/embedder"\nmetric = ["0.01", "0.1x"]\n')
    status, out, err = call(place, *check)
    assert status == 0, f"{out}{err}"
    (place / "budgets.toml").write_text('[[budget]]\nrun = "runs/embedder"\nmetric = "3"\n')
    assert call(place, *check)[0] == 1


@pytest.mark.slow
def test_a_segmenter_of_torchvision_is_exported(tmp_path, call):
    name = "lraspp_mobilenet_v3_large"
    words = ("--weights", "none", "--input", "3x64x64", "--max-params", "0.5x", "--format", "onnx", "--device", "host")
    settings = ("--set", "bench.cap=0.2", "--set", "plan.costs=counted", "--methods", "svd,channel", "--name", "run")
    status, _, err = call(tmp_path, "run", name, *words, *settings)
    assert status == 0, err
    for artifact in json.loads((tmp_path / "runs" / "run" / "artifacts.json").read_text()):
        (output,) = artifact["parity"]["outputs"]
        assert (output["name"], output["kind"], artifact["outputs"][0]["shape"]) == ("out", "class map", [21, 64, 64])
        assert output["relative_error"] < 1e-4
        assert output["agreement"] > 0.9999
