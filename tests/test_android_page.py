"""docs/android.md: its Java compiles against the runtimes' own Android libraries; the APKs are what the page says."""

import re
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest

from bench.phone.app_build import libraries
from bench.runner.build import lane
from exporters.formats import FORMATS

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "android.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(java|kotlin)\n(.*?)```", re.DOTALL)
QUICK = ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC")


def blocks(language):
    """The page's blocks of that language."""
    return [text for own, text in BLOCK.findall(PAGE) if own == language]


def compiled(words):
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def snippets(app, checks, tmp_path_factory):
    """The page's Java and its Kotlin, compiled with warnings as errors: folders by language."""
    built, folders = app.parent, {name: tmp_path_factory.mktemp(name) for name in ("java", "kotlin")}
    libraries = sorted((built / "aars").glob("*/*.jar"))
    for name, folder in folders.items():
        for text in blocks(name):
            found = re.search(r"^(?:final )?(?:class|object|fun) (\w+)", text, re.MULTILINE)[1]
            (folder / f"{found}.{'java' if name == 'java' else 'kt'}").write_text(text)
    sources = sorted(folders["java"].glob("*.java"))
    path = ":".join(map(str, libraries))
    compiled(["javac", "--release", "11", "-Xlint:all", "-Werror", "-cp", path, "-d", folders["java"], *sources])
    (standard,) = (checks / "jars").glob("kotlin-stdlib-*.jar")
    path = ":".join(map(str, [*libraries, built / "fetched/android-all.jar", standard]))
    words = [*QUICK, "-cp", checks / "jars" / "*", "org.jetbrains.kotlin.cli.jvm.K2JVMCompiler", "-Werror"]
    words += ["-no-stdlib", "-no-reflect", "-jvm-target", "11", "-cp", path, "-d", folders["kotlin"]]
    compiled([*words, *sorted(folders["kotlin"].glob("*.kt"))])
    return folders


def test_the_page_says_which_executorch_is_compiled_against():
    (library,) = (each for each in libraries() if each.format == "pte")
    assert f"executorch-android:{lane('host').engines[0].version}'" in PAGE
    assert f"`{library.built}`" in PAGE
    assert f"`{library.npm.partition('@')[0]}`" in PAGE


@pytest.mark.slow
def test_the_snippets_compile(snippets):
    names = {name: {path.stem for path in folder.rglob("*.class")} for name, folder in snippets.items()}
    assert names["java"] == {"OnnxClassifier", "ExecutorchClassifier", "LiteClassifier", "Normalized"}
    assert names["kotlin"] == {*names["java"], "LogitsKt"}


@pytest.mark.slow
@pytest.mark.parametrize("language", ["java", "kotlin"])
def test_the_snippets_make_the_tensor_and_the_answers_of_python(app, checks, snippets, tmp_path, language):
    from torchvision import transforms

    side, mean, std = 16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    picture = np.random.default_rng(4).integers(0, 256, (side, side, 3), dtype=np.uint8)
    colors = (picture.astype(np.int64) * (1 << 16, 1 << 8, 1)).sum(axis=2) + (0xFF << 24)
    colors.astype("<u4").tofile(tmp_path / "pixels")
    network(tmp_path / "net.onnx", side)
    driver, runtime = ROOT / "tests/bench/app/Snippets.java", app.parent / "fetched/onnxruntime.jar"
    compiled(["javac", "-Xlint:all", "-Werror", "-cp", f"{snippets['java']}:{runtime}", "-d", tmp_path, driver])
    desk = [tmp_path, snippets[language], runtime, *(checks / "jars").glob("kotlin-stdlib-*")]
    told = [tmp_path / "tensor", tmp_path / "logits"]
    listed = [",".join(map(str, values)) for values in (mean, std)]
    files = [tmp_path / "net.onnx", tmp_path / "pixels", side, *listed, *told]
    compiled([*QUICK, "-cp", ":".join(map(str, desk)), "Snippets", *files])
    wanted = transforms.Compose([transforms.ToTensor(), transforms.Normalize(mean, std)])(picture).numpy()
    tensor, logits = (np.fromfile(path, "<f4") for path in told)
    np.testing.assert_allclose(tensor.reshape(wanted.shape), wanted, rtol=0, atol=1e-6)
    np.testing.assert_allclose(
        logits, FORMATS["onnx"].writer.load(tmp_path / "net.onnx", 1)(wanted[None])[0], atol=1e-5
    )


def network(path, side):
    """A .onnx with one matrix, whose every weight is another: no two numbers of the image can change places."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = numpy_helper.from_array(np.random.default_rng(0).random((3 * side * side, 7), np.float32), "weights")
    flat = helper.make_node("Flatten", ["image"], ["flat"])
    nodes = [flat, helper.make_node("MatMul", ["flat", "weights"], ["logits"])]
    inputs = [helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, side, side))]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, (1, 7))]
    graph = helper.make_graph(nodes, "net", inputs, outputs, [weights])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "page"), [("bench", 16384), ("legacy", 4096)])
def test_the_apps_are_what_the_page_says(app, tmp_path, name, page):
    apk = app / f"{name}.apk"
    told = subprocess.run(["aapt", "dump", "badging", str(apk)], capture_output=True, text=True, check=True).stdout
    for line in (f"package: name='compressexport.{name}'", "sdkVersion:'24'", "targetSdkVersion:'34'"):
        assert line in told
    assert "uses-permission" not in told
    assert "launchable-activity: name='compressexport.app.MainActivity'" in told
    words = ["apksigner", "verify", "--min-sdk-version", "24", str(apk)]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 0
    with zipfile.ZipFile(apk) as archive:
        assert archive.read("classes.dex")[:4] == b"dex\n"
        libraries = [each for each in archive.namelist() if each.startswith("lib/arm64-v8a/")]
        archive.extractall(tmp_path, libraries)
    _all_there(tmp_path / "lib/arm64-v8a")
    least = min(_alignment(tmp_path / each) for each in libraries)
    assert least == page, "how far apart a library's segments start decides on which pages it loads"


@pytest.mark.slow
def test_a_broken_apk_does_not_verify(app, tmp_path):
    content = bytearray((app / "bench.apk").read_bytes())
    content[len(content) // 2] ^= 0xFF
    (tmp_path / "broken.apk").write_bytes(content)
    words = ["apksigner", "verify", str(tmp_path / "broken.apk")]
    assert subprocess.run(words, capture_output=True, check=False).returncode == 1


@pytest.mark.slow
def test_the_core_names_the_runtimes_as_python_does(app):
    assert app
    source = (ROOT / "android_app/core/src/main/java/compressexport/core/Engines.java").read_text()
    told = dict(re.findall(r'add\("(\w+)", "[\w.]+", "([^"]+)"\)', source))
    assert told == {name: FORMATS[name].runtime for name in ("pte", "onnx", "ptl")}  # no engine for .tflite yet


ANDROIDS = {f"lib{name}.so" for name in ("android", "c", "dl", "log", "m", "z")}
"""Libraries of the NDK that each phone has."""


def _all_there(folder):
    """Each library that a library needs is beside it or a phone's own."""
    for library in folder.iterdir():
        told = subprocess.run(["readelf", "-dW", str(library)], capture_output=True, text=True, check=True).stdout
        needed = set(re.findall(r"\(NEEDED\).*\[(.+)\]", told))
        assert needed, library
        assert needed <= ANDROIDS | {each.name for each in folder.iterdir()}, library


def _alignment(library: Path) -> int:
    told = subprocess.run(["readelf", "-lW", str(library)], capture_output=True, text=True, check=True).stdout
    return min(int(line.split()[-1], 16) for line in told.splitlines() if line.split()[:1] == ["LOAD"])
