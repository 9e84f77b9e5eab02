"""The app's bundle, its libraries and its row: what is missing or not the right one is said."""

import json
import shutil
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest

from bench.measurement import BenchError, Simulated
from bench.phone import app_build
from bench.phone.app import read_answer
from bench.phone.app_build import libraries, unpack
from bench.runner.bundle import Build, open_app_bundle, write_app_bundle
from exporters.artifact import size_and_sha256


def made(path: Path) -> Path:
    (path / "lane").mkdir(parents=True)
    (path / "bench.apk").write_bytes(b"apk")
    (path / "lane" / "core.jar").write_bytes(b"jar")
    apks = {"bench": Build("bench.apk", "compressexport.bench", {"onnx": "1.29.0"})}
    write_app_bundle(path, apks, Build("lane", "", {"onnx": "1.29.0"}))
    return path


def test_a_bundle_comes_back(tmp_path: Path) -> None:
    bundle = open_app_bundle(made(tmp_path / "bundle"))
    assert sorted(bundle.files) == ["bench.apk", "lane/core.jar"]
    assert bundle.apk("onnx") == Build("bench.apk", "compressexport.bench", {"onnx": "1.29.0"})
    assert bundle.apk("pte") is None


def test_a_bundle_that_is_not_whole_names_make_app(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"^there is no app in .*none; build it with `make app`$"):
        open_app_bundle(tmp_path / "none")
    path = made(tmp_path / "bundle")
    (path / "bench.apk").write_bytes(b"another")
    with pytest.raises(
        BenchError, match=r"not the one that was built: .*bench.apk has changed; build it with `make app`$"
    ):
        open_app_bundle(path)
    manifest = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(manifest | {"schema": 2}))
    with pytest.raises(BenchError, match=r"manifest.json is no manifest: its schema is 2, not 1; build it with"):
        open_app_bundle(path)
    (path / "manifest.json").write_text("[]")
    with pytest.raises(BenchError, match=r"manifest.json is no manifest: Expected `object`, got `array`; build it"):
        open_app_bundle(path)


def test_another_library_than_the_pinned_one_is_refused(tmp_path: Path) -> None:
    (library,) = (each for each in libraries() if each.format == "ptl")
    aar = tmp_path / "fetched" / "pytorch_android_lite.aar"
    aar.parent.mkdir()
    with zipfile.ZipFile(aar, "w") as archive:
        archive.writestr("classes.jar", "classes")
        archive.writestr("jni/arm64-v8a/libone.so", "one")
        archive.writestr("jni/x86/libone.so", "another")
    words = r"pytorch_android_lite 1.12.2 is not the library that versions.toml pins: the sha256 of pytorch_android"
    with pytest.raises(BenchError, match=words):
        unpack(library, aar.parent, tmp_path / "aars", print)
    unpack(replace(library, files={aar.name: size_and_sha256(aar)[1]}), aar.parent, tmp_path / "aars", print)
    assert (tmp_path / "aars/ptl/libone.so").read_text() == "one"
    names = ["libone.so", "pytorch_android_lite.jar", "sha256"]
    assert sorted(path.name for path in (tmp_path / "aars/ptl").iterdir()) == names


def test_a_package_without_the_file_is_said(tmp_path: Path) -> None:
    (library,) = (each for each in libraries() if each.format == "pte")
    (tmp_path / "fetched").mkdir()

    def pack(_: list[str], what: str) -> None:
        assert what == "fetching react-native-executorch@0.7.3"
        with tarfile.open(tmp_path / "fetched/npm/one.tgz", "w:gz") as archive:
            archive.add(__file__, "package/another.py")

    words = r"^react-native-executorch@0.7.3 has no package/android/libs/classes.jar; look where it went$"
    with pytest.raises(BenchError, match=words):
        unpack(library, tmp_path / "fetched", tmp_path / "aars", pack)


def test_a_missing_tool_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name: None if name == "aapt2" else found(name))
    with pytest.raises(BenchError, match=r"^the app is built with aapt2, and it is missing: apt-get install aapt$"):
        app_build.build(tmp_path)


def test_what_is_no_row_is_said() -> None:
    for text, words in (
        ("", r"^net.onnx was not measured: the app did not leave a row, but nothing$"),
        ("Aborted", r"^net.onnx was not measured: the app did not leave a row, but Aborted$"),
        ('{"error": "plan.json is no plan"}', r"^net.onnx was not measured: plan.json is no plan$"),
        (
            '{"verdict": "measured"}',
            r"^the app's answer for net.onnx is not a measurement: ValidationError: .*field `network`",
        ),
    ):
        with pytest.raises(BenchError, match=words):
            read_answer(text, "net.onnx")


def test_a_row_of_another_kind_is_said() -> None:
    from bench_rows import simulated

    from bench.measurement import to_line

    assert isinstance(simulated(), Simulated)
    with pytest.raises(BenchError, match=r"the app left a row of Simulated; install it anew$"):
        read_answer(to_line(simulated()), "net.onnx")
