"""The app's core on a JVM of this machine: its rows, figures and answers are those of Python."""

import json
import shutil
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from app_plans import DEVICE, QUICK, Core, plan_for
from bench_files import SIZE, artifact, onnx_file
from packaging.version import Version

from bench.measurement import Measurement, NotMeasured, from_line, to_line
from bench.phone.app import AppPlan, read_answer
from bench.phone.app_build import libraries
from bench.runner.build import lane
from bench.statistics import summarize
from compress_export.models.resize import Resize
from exporters.artifact import Artifact, Parity, read_artifacts
from exporters.formats import FORMATS
from exporters.parity import compare

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(__file__).parents[1] / "files" / "app"
IMAGES = np.random.default_rng(3).random((3, 3, SIZE, SIZE), dtype=np.float32)


def golden_plan() -> AppPlan:
    """The plan whose JSON lies in files/app/plan.json."""
    sha256 = "ab" * 32
    file = Artifact(Path("compressed.onnx"), "compressed", "onnx", 1234, sha256, "float32", (1, 3, 16, 16), {})
    images = ("images/0.raw", "images/1.raw")
    where = ("files/compressed.onnx", images, "c0", "files/golden.raw", None)
    return AppPlan(file, *where, QUICK, DEVICE, "s", 3, "2026-11-20T09:41:00+00:00")


def onnx_answers(path: Path, images: "np.ndarray") -> "np.ndarray":
    run = FORMATS["onnx"].writer.load(path, 1)
    return np.concatenate([run(image[None]) for image in images])


def near(parity: Parity) -> dict[str, object]:
    """The measures as numbers that may differ in how they were added up."""
    numbers = ("max_error", "relative_error", "cosine", "top1_agreement", "rms_error")
    return {**vars(parity), **{name: pytest.approx(getattr(parity, name), rel=1e-9, abs=1e-12) for name in numbers}}


def refused(text: str) -> str:
    row = from_line(text)
    assert isinstance(row, NotMeasured)
    return row.reason


def test_the_golden_files_are_pythons() -> None:
    assert golden_plan().to_json() == (GOLDEN / "plan.json").read_text()
    row = from_line((GOLDEN / "row.json").read_text())
    assert isinstance(row, Measurement)
    assert row.samples_ms == (12.5, 12.25, 12.75)
    assert row.device == DEVICE
    assert json.loads(to_line(row)) == json.loads((GOLDEN / "row.json").read_text())
    assert json.loads(to_line(from_line((GOLDEN / "refusal.json").read_text())))["reason"] == "a reason"


def test_the_app_takes_what_the_exporters_wrote_for() -> None:
    takes = {each.format: each for each in libraries()}
    host, arm = ({engine.name: engine.version for engine in lane(name).engines} for name in ("host", "arm"))
    assert takes["pte"].version == host["pte"], "a .pte wants a runtime of the release that wrote it"
    assert Version(takes["pte"].built) < Version(host["pte"]), "docs/android.md says that it may refuse a file"
    assert takes["ptl"].version == arm["ptl"], "the last mobile release"
    # ONNX files name the operator set that they need: any later runtime of the same major release reads them.
    assert arm["onnx"].split(".")[:1] == takes["onnx"].version.split(".")[:1] == host["onnx"].split(".")[:1]
    assert arm["onnx"] <= takes["onnx"].version <= host["onnx"]
    poms = "".join(path.read_text() for path in (ROOT / "android_app").rglob("pom.xml"))
    for each in takes.values():
        assert not each.built or f"version>{each.built}</" in poms


@pytest.mark.slow
def test_core_writes_the_golden_rows(core: Core, tmp_path: Path) -> None:
    plan = (GOLDEN / "plan.json").read_text()
    assert json.loads(core.check("row", tmp_path, plan)) == json.loads((GOLDEN / "row.json").read_text())
    assert json.loads(core.check("refusal", tmp_path, plan)) == json.loads((GOLDEN / "refusal.json").read_text())


@pytest.mark.slow
def test_a_release_is_the_one_that_the_build_wrote_down(core: Core, tmp_path: Path) -> None:
    beside = core.checks / "compressexport" / "core" / "told.properties"
    beside.write_text("version=2.1.0\n")
    assert core.check("release", tmp_path, "told.properties") == "2.1.0"
    assert core.check("release", tmp_path, "untold.properties") == (
        "this build of the app does not tell which release it runs: untold.properties names no version; build it anew "
        "with `make app`"
    )


@pytest.mark.slow
def test_statistics_are_pythons(core: Core, tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    lists = [list(chance.gamma(9, 0.7, size)) for size in (1, 2, 19, 20, 37, 999, 1000, 2501)]
    lists += [[1e9 + each for each in chance.random(50)], [3.25] * 30, [0.0, 1e6, 1e-6]]
    told = json.loads(core.check("statistics", tmp_path, json.dumps(lists)))
    sample = from_line((GOLDEN / "row.json").read_text())
    assert isinstance(sample, Measurement)
    for samples, figures in zip(lists, told, strict=True):
        block = replace(sample.blocks[0], samples_ms=tuple(samples))
        wanted = vars(summarize(replace(sample, blocks=(block,))))
        assert figures.keys() == wanted.keys()
        for name, value in wanted.items():
            assert figures[name] == (None if value is None else pytest.approx(value, rel=1e-12, abs=0)), name


@pytest.mark.slow
def test_agreement_is_pythons(core: Core, tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    reference = chance.standard_normal((6, 11)).astype(np.float32)
    given = reference + chance.standard_normal((6, 11)).astype(np.float32) * np.float32(0.3)
    asked = {"given": given.tolist(), "golden": reference.ravel().tolist()}
    told = json.loads(core.check("parity", tmp_path, json.dumps(asked)))
    wanted = near(compare(given, reference))
    assert told == {name: wanted[name] for name in told}
    assert wanted.keys() - told.keys() == {"equal_pixels", "interpreter", "outputs"}  # the app reads one row of logits
    short = {"given": given.tolist(), "golden": reference.ravel().tolist()[1:]}
    words = json.loads(core.check("parity", tmp_path, json.dumps(short)))["error"]
    assert words.startswith("answers to compare have one shape; the file gave 6 x 11 numbers, and 65 are to be")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "shape", "resize"),
    [
        ((53, 31), (3, 16, 24), None),
        ((9, 7), (3, 16, 16), None),
        ((40, 40), (1, 8, 8), None),
        ((53, 31), (3, 16, 16), Resize((18, 18), True)),
        ((31, 53), (3, 15, 16), Resize((19, 21), True, "bicubic")),
        ((70, 61), (1, 16, 16), Resize((16, 20), False, "bicubic")),
        ((40, 31), (3, 16, 16), Resize((13, 13), True)),
    ],
)
def test_a_picture_is_resized_as_python_does(
    core: Core, tmp_path: Path, size: tuple[int, int], shape: tuple[int, int, int], resize: Resize | None
) -> None:
    from PIL import Image

    from compress_export.data.images import View
    from compress_export.data.picture_files import transform

    mean, std = (0.5, 0.4, 0.3)[: shape[0]], (0.2, 0.25, 0.3)[: shape[0]]
    picture = np.random.default_rng(2).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    colors = (picture.astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(axis=2)
    asked = {"pixels": colors.ravel().tolist(), "width": size[0], "shape": (1, *shape), "mean": mean, "std": std}
    asked |= {} if resize is None else {"resize": asdict(resize)}
    told = core.check("pixels", tmp_path, json.dumps(asked)).encode("latin-1")
    image = transform(View(shape, mean, std, published=resize))(Image.fromarray(picture)).numpy()
    # Pillow rounds to whole colors after each of its two passes.
    assert np.abs(np.frombuffer(told, "<f4").reshape(shape) - image).max() < 1.01 / 255 / min(std)


@pytest.mark.slow
def test_a_compressed_network_runs_as_in_python(core: Core, tmp_path: Path) -> None:
    import torch
    from torch import nn

    import compress_export as ce

    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 48, 5, padding=2), nn.ReLU(), nn.Conv2d(48, 64, 3, stride=2), nn.ReLU()]
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(256, 10)).eval()
    images = torch.rand(8, 3, 24, 24)
    smaller = ce.compress(network, ce.make_plan(network, ce.survey(network, images), ce.Goal(max_params="0.4x")))
    assert smaller.after.parameters < 0.4 * smaller.before.parameters
    file = ce.export(smaller.module, images[:1], "onnx", str(tmp_path / "smaller.onnx"), images=images.numpy())
    wanted = onnx_answers(file.path, images.numpy())
    plan = replace(plan_for(tmp_path, file, images.numpy(), wanted), cores="1")
    answer = read_answer(core.measure(tmp_path, plan), "smaller.onnx")
    given = np.fromfile(tmp_path / "answers.raw", dtype="<f4").reshape(wanted.shape)
    assert np.abs(given - wanted).max() < 1e-5
    row = from_line((tmp_path / "result.json").read_text())
    assert isinstance(row, Measurement)
    assert row.parity is not None
    assert asdict(row.parity) == near(compare(given, wanted))
    assert (answer.engine_version, answer.cores, len(answer.samples_ms) >= 4) == ("1.29.0", "1", True)
    assert answer.memory.end.peak > answer.memory.start.resident > 10_000
    assert answer.load_ms > 0 < answer.first_ms


@pytest.mark.slow
@pytest.mark.parametrize("name", ["original", "compressed"])
def test_the_demos_networks_answer_as_in_python(core: Core, demo: Path, tmp_path: Path, name: str) -> None:
    made = read_artifacts(demo / "runs/alexnet-android/artifacts.json")
    (found,) = (each for each in made if (each.network, each.format) == (name, "onnx"))
    shutil.copy(found.path, tmp_path / found.path.name)
    file = replace(found, path=tmp_path / found.path.name)
    images = np.random.default_rng(0).standard_normal((4, *found.input[1:]), dtype=np.float32)
    wanted = onnx_answers(file.path, images)
    read_answer(core.measure(tmp_path, plan_for(tmp_path, file, images, wanted)), file.path.name)
    given = np.fromfile(tmp_path / "answers.raw", dtype="<f4").reshape(wanted.shape)
    parity = compare(given, wanted)
    assert (parity.relative_error < 1e-5, parity.top1_agreement) == (True, 1.0)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"file": "gone.onnx"}, "there is no file "),
        ({"images": ()}, "net.onnx needs an image or more to run on; the plan names none"),
        ({"images": ("half.raw",)}, "half.raw holds 12 bytes, and an image of [1, 3, 16, 16] has 3072; pass images of"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(core: Core, tmp_path: Path, change: dict[str, object], words: str) -> None:
    (tmp_path / "half.raw").write_bytes(bytes(12))
    plan = plan_for(tmp_path, onnx_file(tmp_path / "net.onnx", 8), IMAGES)
    assert words in refused(core.measure(tmp_path, replace(plan, **change)))  # type: ignore[arg-type]  # one by one


@pytest.mark.slow
def test_a_foreign_file_is_refused(core: Core, tmp_path: Path) -> None:
    plan = plan_for(tmp_path, onnx_file(tmp_path / "net.onnx", 8), IMAGES)
    (tmp_path / "net.onnx").write_bytes(b"no network")
    assert "net.onnx is not the file that the plan means: its sha256 is " in refused(core.measure(tmp_path, plan))
    foreign = plan_for(tmp_path, artifact(tmp_path / "net.onnx"), IMAGES)
    words = refused(core.measure(tmp_path, foreign))
    assert words.startswith("net.onnx cannot be run by ONNX Runtime: OrtException: Error code - ORT_")
    assert words.endswith("export it again, or look whether the runtime is of the release that wrote it")


@pytest.mark.slow
def test_a_wrong_shape_is_refused(core: Core, tmp_path: Path) -> None:
    plan = plan_for(tmp_path, onnx_file(tmp_path / "net.onnx", 8), IMAGES[:, :, :8])
    words = "net.onnx takes images of [1, 3, 16, 16], and these are [1, 3, 8, 16]; pass images of its own size, or"
    assert refused(core.measure(tmp_path, plan)).startswith(words)


@pytest.mark.slow
def test_a_runtime_that_is_not_there_is_said(core: Core, tmp_path: Path) -> None:
    plan = plan_for(tmp_path, onnx_file(tmp_path / "net.onnx", 8), IMAGES)
    absent = replace(plan, artifact=replace(plan.artifact, format="pte"))
    words = "this build of the app has no engine for .pte files; docs/android.md says which builds have which"
    assert refused(core.measure(tmp_path, absent)) == words
    apple = core.measure(tmp_path, replace(plan, artifact=replace(plan.artifact, format="mlpackage")))
    assert refused(apple) == "no engine here runs .mlpackage files; there are [pte, onnx, ptl]"
    # A folder without the runtime's own library, as in an app built for another processor.
    broken = core.measure(tmp_path, plan, options=(f"-Donnxruntime.native.path={tmp_path}", "-Djava.library.path=/dev"))
    words = "the runtime for .onnx files did not load: "
    assert refused(broken).startswith(words), broken


@pytest.mark.slow
def test_memory_that_runs_out_is_said(core: Core, tmp_path: Path) -> None:
    plan = plan_for(tmp_path, onnx_file(tmp_path / "net.onnx", 8), IMAGES)
    with (tmp_path / "huge.raw").open("wb") as file:
        file.truncate(4 * 3 * 8192 * 8192)
    artifact = replace(plan.artifact, input=(1, 3, 8192, 8192))
    huge = replace(plan, artifact=artifact, images=("huge.raw",))
    words = refused(core.measure(tmp_path, huge, options=("-XX:MaxDirectMemorySize=64m",)))
    assert words.startswith("net.onnx does not fit: OutOfMemoryError: ")
    assert words.endswith("; close apps, or measure a smaller file")


@pytest.mark.slow
def test_what_is_no_plan_is_said(core: Core, tmp_path: Path) -> None:
    for text, words in (
        ("{", "plan.json is no plan: "),
        ('{"schema": 7}', "this app reads plans of schema 1, and plan.json has 7; install the app and compress-export"),
    ):
        (tmp_path / "plan.json").write_text(text)
        done = core.run("compressexport.core.Main", tmp_path / "plan.json", tmp_path / "result.json")
        assert done.returncode == 1
        assert words in json.loads((tmp_path / "result.json").read_text())["error"]
