"""The programs themselves, on this machine: flags, answers, and what they say when something is wrong."""

import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bench_files import IMAGES, SIZE, artifact, onnx_file, ptl_file

from bench.runner.bundle import open_bundle
from bench.runner.protocol import RunnerAnswer, parse
from exporters.artifact import Artifact
from exporters.formats import FORMATS

pytestmark = pytest.mark.slow
TINY = Path(__file__).parents[1] / "files" / "tiny.pte"
TFLITE = TINY.with_suffix(".tflite")
SHAPE = f"1x3x{SIZE}x{SIZE}"
QUICK = ("--warmup-runs", 1, "--warmup-seconds", 0, "--min-runs", 4, "--min-seconds", 0)


class Programs:
    """The host bundle's programs, with one file for each."""

    def __init__(self, runner: Path, folder: Path) -> None:
        self.bundle = open_bundle("host", runner)
        self.folder = folder
        self.files = {
            "pte": artifact(TINY),
            "onnx": onnx_file(folder / "net.onnx", 8),
            "tflite": artifact(TFLITE),
            "ptl": ptl_file(folder / "net.ptl"),
        }
        self.images = [folder / f"{place}.raw" for place in range(len(IMAGES))]
        for path, image in zip(self.images, IMAGES, strict=True):
            path.write_bytes(image.astype("<f4").tobytes())

    def run(self, form: str, *words: object) -> subprocess.CompletedProcess[str]:
        command = [*self.bundle.command(form), *map(str, words)]
        return subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False, timeout=60)

    def measure(self, form: str, *words: object) -> RunnerAnswer:
        inputs = [word for image in self.images for word in ("--input", image)]
        done = self.run(form, "--model", self.files[form].path, *inputs, "--shape", SHAPE, *QUICK, *words)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 1
        return parse(done.stdout, form)


@pytest.fixture(scope="module")
def programs(runner: Path, tmp_path_factory: pytest.TempPathFactory) -> Programs:
    return Programs(runner, tmp_path_factory.mktemp("programs"))


def reference(file: Artifact) -> np.ndarray:
    run = FORMATS[file.format].writer.load(file.path, 1)
    return np.concatenate([run(image[None]) for image in IMAGES])


@pytest.mark.parametrize("form", ["pte", "onnx", "tflite", "ptl"])
def test_a_program_matches_its_engine_in_python(programs: Programs, form: str) -> None:
    answer = programs.measure(form)
    expected = reference(programs.files[form])
    assert answer.outputs is not None
    np.testing.assert_allclose(answer.outputs, expected, rtol=1e-4, atol=1e-6)
    assert answer.output_shape == (1, expected.shape[1])
    assert answer.engine_version == programs.bundle.engines[form].version
    assert answer.model_bytes == programs.files[form].bytes
    assert (answer.threads, len(answer.samples_ms)) == (1, 4)
    assert all(sample > 0 for sample in (*answer.samples_ms, answer.load_ms, answer.first_ms))
    memory = answer.memory
    assert memory.end.peak is not None
    assert memory.start.resident is not None
    assert memory.end.peak >= memory.start.resident > 0


def test_answers_go_into_a_file_on_request(programs: Programs) -> None:
    answer = programs.measure("onnx", "--outputs", "answers.raw")
    assert answer.outputs is None
    written = np.fromfile(programs.folder / "answers.raw", dtype="<f4").reshape(len(IMAGES), -1)
    np.testing.assert_allclose(written, reference(programs.files["onnx"]), rtol=1e-4, atol=1e-6)


def test_a_program_stays_on_the_cores_that_it_is_given(programs: Programs) -> None:
    answer = programs.measure("pte", "--cores", "1")
    assert (answer.cores, answer.core_before, answer.core_after) == ("1", 0, 0)


def test_a_run_ends_with_its_cap(programs: Programs) -> None:
    answer = programs.measure("pte", "--min-runs", 1000000000, "--cap-seconds", 0.05)
    assert 1 <= len(answer.samples_ms) < 1000000
    assert sum(answer.samples_ms) < 2000


def test_engines_write_their_own_profile(programs: Programs) -> None:
    programs.measure("onnx", "--profile", "onnx.json")
    events = json.loads((programs.folder / "onnx.json").read_text())
    assert any(event.get("args", {}).get("op_name") == "Conv" for event in events)
    programs.measure("pte", "--profile", "pte.etdump")
    assert b"DELEGATE_CALL" in (programs.folder / "pte.etdump").read_bytes()


GOOD = ("--model", TINY, "--input", "0.raw", "--shape", SHAPE)
WRONG_FLAGS = [
    ((), "--model is missing: name the file to run"),
    (("--model", "m"), "--input is missing: name one raw image or more"),
    (("--model", "m", "--input", "i"), "--shape is missing: give the images' shape, such as 1x3x224x224"),
    (("--modle", "m"), "there is no flag '--modle'; there are --cap-seconds, --cores,"),
    (("--model",), "--model takes a value, and nothing follows it"),
    ((*GOOD, "--threads", "0"), "--threads takes a whole number from 1, not '0'"),
    ((*GOOD, "--min-runs", "2.5"), "--min-runs takes a whole number from 0, not '2.5'"),
    ((*GOOD, "--cap-seconds", "-1"), "--cap-seconds takes seconds from 0, not '-1'"),
    ((*GOOD, "--shape", "3x0x2"), "--shape takes sizes from 1 with x between them, such as 1x3x224x224, not '3x0x2'"),
    ((*GOOD, "--cores", "xyz"), "--cores takes a hexadecimal mask, or none, not 'xyz'"),
]


@pytest.mark.parametrize(("words", "text"), WRONG_FLAGS)
def test_a_wrong_flag_is_told_with_status_2(programs: Programs, words: tuple[object, ...], text: str) -> None:
    done = programs.run("onnx", *words)
    assert done.returncode == 2
    assert text in json.loads(done.stdout)["error"]
    assert text in done.stderr


WRONG_FILES = [
    ("pte", ("--model", "none.pte", *GOOD[2:]), "there is no file none.pte; look at what --model and --input name"),
    ("pte", ("--model", "net.onnx", *GOOD[2:]), "net.onnx cannot be loaded by executorch: its method forward:"),
    ("onnx", ("--model", TINY, *GOOD[2:]), "cannot be loaded by onnxruntime: ONNX Runtime says"),
    ("tflite", ("--model", "net.onnx", *GOOD[2:]), "net.onnx cannot be loaded by litert: reading it: LiteRT says st"),
    ("tflite", ("--model", TFLITE, *GOOD[2:-1], "1x3x8x32"), "it takes images of 1x3x16x16, and --shape says other"),
    ("tflite", ("--model", TFLITE, *GOOD[2:], "--profile", "a"), "its C interface tells no times by operator; leave"),
    ("ptl", ("--model", "net.onnx", *GOOD[2:]), "net.onnx cannot be loaded by torch: PytorchStreamReader"),
    ("pte", (*GOOD[:-1], "1x3x8x8"), "0.raw holds 3072 bytes; an image of the given --shape has 768 (float32)"),
    ("pte", (*GOOD[:-1], "1x3x8x32"), "it takes images of 1x3x16x16, and --shape says otherwise"),
    ("onnx", ("--model", "net.onnx", *GOOD[2:-1], "1x3x8x32"), "ONNX Runtime says Got invalid dimensions"),
    ("pte", (*GOOD, "--cores", "8000000000000000"), "this process may not run on the cores that --cores names"),
    ("onnx", ("--model", "net.onnx", *GOOD[2:], "--outputs", "no/where"), "cannot write the answers to no/where"),
    ("pte", (*GOOD, "--profile", "no/where"), "cannot write the profile to no/where"),
]


@pytest.mark.parametrize(("form", "words", "text"), WRONG_FILES)
def test_what_cannot_run_is_told_with_status_1(
    programs: Programs, form: str, words: tuple[object, ...], text: str
) -> None:
    done = programs.run(form, *words)
    assert done.returncode == 1
    assert text in json.loads(done.stdout)["error"]
    assert text in done.stderr
