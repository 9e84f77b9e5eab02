"""The app's screens on a JVM, on Android's own frameworks: what a person reads there is what Python says of files."""

import json
import re
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from app_plans import plan_for
from app_screens import compile_screens
from bench_files import artifact, onnx_file

import compress_export as ce
from bench.measurement import Measurement, NotMeasured, from_line
from bench.phone.app import AppPlan
from bench.statistics import summarize
from compress_export.models.resize import Resize
from exporters.artifact import write_artifacts
from exporters.formats import FORMATS

pytestmark = pytest.mark.slow

HERE = Path(__file__).parents[1]
SIDE, RESIZE = 24, Resize((28, 28), True)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGES = np.random.default_rng(3).random((3, 3, 16, 16), dtype=np.float32)


@dataclass(frozen=True)
class Told:
    """Texts of the screens, by the name of the file in which android_app's tests left it."""

    files: Path
    folder: Path
    said: str

    def json(self, name: str) -> Any:
        return json.loads((self.folder / name).read_text())

    def plan(self, name: str) -> tuple[Measurement | NotMeasured, str]:
        """The row beside a plan, and the screen."""
        told = self.json("plans.json")[name]
        row = from_line(json.dumps(told["row"]))
        assert isinstance(row, Measurement | NotMeasured)
        return row, told["screen"]


@pytest.fixture(scope="module")
def told(app: Path, checks: Path, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """All of android_app's tests of the screens, run once with a run's files, a photograph and plans."""
    files, folder = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("told")
    (files / "run").mkdir()
    write_run(files / "run")
    photograph(files / "picture.png")
    (files / "huge").mkdir()
    (files / "huge/network.json").write_text(json.dumps({"input": [3, 8192, 8192], "mean": MEAN, "std": STD}))
    write_plans(files / "plans")
    screens = compile_screens(app.parent, checks, tmp_path_factory.mktemp("classes"))
    done = screens.run(files, folder)
    assert done.returncode == 0, done.stdout[-4000:]
    shutil.copy(folder / "picture.png", checks / "screen.png")
    return Told(files, folder, done.stdout)


def write_run(folder: Path) -> None:
    """Original and compressed network as .onnx, one file that no runtime here loads, and what says what they are."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 48, 5, padding=2), nn.ReLU(), nn.Conv2d(48, 64, 3, stride=2), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10)).eval()
    with torch.no_grad():
        network[-1].weight *= 20
    images = torch.rand(8, 3, SIDE, SIDE)
    smaller = ce.compress(network, ce.make_plan(network, ce.survey(network, images), ce.Goal(max_params="0.4x")))
    files = [
        replace(ce.export(each, images[:1], "onnx", str(folder / f"{name}.onnx"), images=images.numpy()), network=name)
        for name, each in (("original", network), ("compressed", smaller.module))
    ]
    shutil.copy(HERE / "files/tiny.ptl", folder / "compressed.ptl")
    files.append(replace(artifact(folder / "compressed.ptl"), input=files[0].input))
    write_artifacts(folder / "artifacts.json", files)
    fields = {"input": [3, SIDE, SIDE], "mean": MEAN, "std": STD, "resize": asdict(RESIZE)}
    (folder / "network.json").write_text(json.dumps(fields))


def photograph(path: Path) -> None:
    """One of the photographs that scikit-learn brings."""
    from PIL import Image
    from sklearn.datasets import load_sample_image

    Image.fromarray(load_sample_image("flower.jpg")).resize((320, 213)).save(path)


def write_plans(folder: Path) -> None:
    """One plan that can be measured, and one for each thing that goes wrong."""
    net = onnx_file(made(folder / "whole") / "net.onnx", 8)
    run = FORMATS["onnx"].writer.load(net.path, 1)
    write_plan(plan_for(net.path.parent, net, IMAGES, np.concatenate([run(image[None]) for image in IMAGES])))
    write_plan(replace(small_plan(folder / "missing"), file=str(folder / "missing/gone.onnx")))
    plan = small_plan(folder / "foreign")
    write_plan(plan)
    plan.artifact.path.write_bytes(b"no network")
    made(folder / "broken").joinpath("net.onnx").write_bytes(b"no network")
    write_plan(plan_for(folder / "broken", artifact(folder / "broken/net.onnx"), IMAGES))
    write_plan(plan_for(made(folder / "shape"), onnx_file(folder / "shape/net.onnx", 8), IMAGES[:, :, :8]))
    plan = small_plan(folder / "memory")
    with (folder / "memory/huge.raw").open("wb") as file:
        file.truncate(4 * 3 * 8192 * 8192)
    huge = replace(plan.artifact, input=(1, 3, 8192, 8192))
    write_plan(replace(plan, artifact=huge, images=("huge.raw",)))
    # The engine is there, and its native library is not: it is built for ARM.
    shutil.copy(HERE / "files/tiny.ptl", made(folder / "runtime") / "net.ptl")
    write_plan(plan_for(folder / "runtime", artifact(folder / "runtime/net.ptl"), IMAGES))
    shutil.copy(HERE / "files/tiny.pte", made(folder / "engine") / "net.pte")
    write_plan(plan_for(folder / "engine", artifact(folder / "engine/net.pte"), IMAGES))


def made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


def small_plan(folder: Path) -> AppPlan:
    return plan_for(made(folder), onnx_file(folder / "net.onnx", 8), IMAGES)


def write_plan(plan: AppPlan) -> None:
    """Writes the plan beside its file, with whole paths: the app reads it from a folder of its own."""
    folder = plan.artifact.path.parent
    images = tuple(str(folder / name) for name in plan.images)
    reference = None if plan.reference is None else str(folder / plan.reference)
    whole = replace(plan, file=str(folder / plan.file), images=images, reference=reference)
    (folder / "plan.json").write_text(whole.to_json())


def test_the_screens_say_what_they_should(told: Told) -> None:
    assert re.search(r"^OK \(\d\d tests\)$", told.said, re.MULTILINE)


def test_a_row_is_shown_with_its_figures(told: Told) -> None:
    row, screen = told.plan("whole")
    assert isinstance(row, Measurement)
    figures = summarize(row)
    assert screen.startswith(f"net.onnx\nmedian {figures.p50:.2f} ms, p90 {figures.p90:.2f} ms ({figures.runs} runs)")
    own = (row.memory.end.peak - row.memory.start.resident) / 1000
    assert f"\nmemory: {own:.1f} MB more than before it was loaded" in screen
    assert "\ngolden outputs: same class for 100 % of 3 images, largest error " in screen
    assert screen in told.json("plans.json")["list"]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing", "there is no file "),
        ("foreign", "net.onnx is not the file that the plan means: its sha256 is "),
        ("broken", "net.onnx cannot be run by ONNX Runtime: OrtException: Error code - ORT_"),
        ("shape", "net.onnx takes images of [1, 3, 16, 16], and these are [1, 3, 8, 16]; pass images of its own size"),
        ("memory", "net.onnx does not fit: OutOfMemoryError: "),
        ("runtime", "the runtime for .ptl files did not load: "),
        ("engine", "this build of the app has no engine for .pte files; docs/android.md says which builds have which"),
    ],
)
def test_what_goes_wrong_is_in_the_row_and_on_the_screen(told: Told, name: str, words: str) -> None:
    row, screen = told.plan(name)
    assert isinstance(row, NotMeasured)
    assert row.reason.startswith(words)
    assert screen == f"net.{row.format}: not measured: {row.reason}"
    assert screen in told.json("plans.json")["list"], "a list of all runs holds those that failed as well"


def test_a_picture_is_classified_by_original_and_compressed(told: Told) -> None:
    from PIL import Image
    from torchvision import transforms

    steps = [transforms.Resize(28), transforms.CenterCrop(SIDE), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    image = transforms.Compose(steps)(Image.open(told.files / "picture.png")).numpy()[None]
    shown = told.json("picture.json")
    assert shown["picked"] == "3 files to measure"
    said, *columns = shown["texts"]
    assert said == "3 files to measure"
    refusal = "compressed.ptl: not measured: the runtime for .ptl files did not load: "
    assert f"\n{refusal}" in columns[1]
    assert "UnsatisfiedLinkError: no pytorch_jni_lite" in columns[1]
    assert [column.split("\n")[:2] for column in columns] == [
        ["original", "original.onnx"], ["compressed", "compressed.onnx"]
    ]  # fmt: skip
    for name, column in zip(("original", "compressed"), columns, strict=True):
        logits = FORMATS["onnx"].writer.load(told.files / f"run/{name}.onnx", 1)(image)[0]
        shares = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        lines = re.findall(r"class (\d+)  ([\d.]+) %", column)
        assert len(lines) == 3
        assert int(lines[0][0]) == shares.argmax()
        for place, share in lines:
            # Pillow rounds to whole colors after each of its two passes.
            assert float(share) == pytest.approx(100 * shares[int(place)], abs=2)
    refused, *listed = shown["list"]
    assert refused.startswith(refusal)
    assert [row.split("\n")[0] for row in listed] == ["compressed.onnx", "original.onnx"]
    assert all("median" in row and "p90" in row and "memory: " in row for row in listed)


def test_a_picture_that_is_none_or_does_not_fit_is_said(told: Told) -> None:
    refused = told.json("refused.json")
    assert refused["none"] == "the picked file is no picture that Android reads"
    assert refused["huge"].startswith("what was picked does not fit this app's memory: ")
    assert refused["huge"].endswith("; close apps, or pick smaller ones")


def test_the_screen_has_pixels(told: Told) -> None:
    from PIL import Image

    with Image.open(told.folder / "picture.png") as screen:
        pixels = np.asarray(screen.convert("RGB"))
    assert pixels.shape == (1520, 720, 3)
    assert pixels.mean() > 180, "the manifest's theme is a light one"
    with Image.open(told.files / "picture.png") as picked:
        colors = np.asarray(picked.convert("RGB")).reshape(-1, 3).mean(axis=0)
    # The picture stands in its own colors somewhere, and words in black on white below it.
    assert np.abs(pixels.reshape(-1, 3).astype(int) - colors).sum(axis=1).min() < 30
    assert (pixels.max(axis=2) < 80).mean() > 0.001
