"""Parts of the runner's build: versions that agree with the lock file, libraries found, failures with their words."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from bench.measurement import BenchError
from bench.runner import build as builder
from bench.runner.build import TARGETS, Log, build, lane, main
from bench.runner.bundle import Bundle, BundledFile, closure, open_bundle, write_manifest
from exporters.artifact import size_and_sha256

ROOT = Path(__file__).resolve().parents[3]


def test_the_host_lane_is_the_lock_files() -> None:
    locked = (ROOT / "requirements.lock").read_text()
    for engine in lane("host").engines:
        assert f"\n{engine.package}=={engine.version}\n" in locked


def test_every_wheel_of_the_arm_lane_is_pinned_by_its_hash() -> None:
    assert [engine.name for engine in lane("arm").engines] == ["pte", "onnx", "tflite", "ptl"]
    assert all(re.fullmatch("[0-9a-f]{64}", engine.sha256) for engine in lane("arm").engines)


def test_a_missing_compiler_is_named_with_its_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BenchError) as error:
        build(TARGETS["aarch64"], tmp_path)
    assert str(error.value) == (
        "the runner is built with aarch64-linux-gnu-g++, and it is missing: apt-get install g++-aarch64-linux-gnu"
    )


def test_a_target_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["riscv"]) == 1
    assert capsys.readouterr().err == "runner: there is no target 'riscv'; choose among aarch64, host\n"


def test_an_environment_with_other_versions_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = lane("host")
    other = replace(chosen, engines=(replace(chosen.engines[0], version="0.1"), *chosen.engines[1:]))
    monkeypatch.setattr(builder, "lane", lambda _name: other)
    with pytest.raises(BenchError, match=r"versions.toml says executorch 0.1, and [\d.]+ is installed; make the two"):
        build(replace(TARGETS["host"], compiler="true"), tmp_path)


def test_libraries_are_found_by_the_names_that_programs_call_them() -> None:
    python = Path(sys.executable).resolve()
    found = closure([python], sorted(Path("/lib").glob("*-linux-gnu")))
    assert found["libc.so.6"].name.startswith("libc")
    assert closure([python], []) == {}


def test_a_bundle_that_lacks_a_file_is_built_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the host's does whose environment was moved: its libraries are links into that."""
    target = replace(TARGETS["host"], compiler="true")
    folder, file = tmp_path / "host", tmp_path / "host" / "run_pte"
    folder.mkdir()
    file.write_bytes(b"program")
    size, digest = size_and_sha256(file)
    write_manifest(Bundle(folder, "host", "x86_64", "", {}, {"run_pte": BundledFile(size, digest)}))
    monkeypatch.setattr(builder, "_key", lambda *_words: "as it was")
    (tmp_path / ".host.json").write_text("as it was")
    assert build(target, tmp_path) == folder
    file.unlink()

    def begun(*_words: object) -> None:
        raise BenchError("built again")

    monkeypatch.setattr(builder, "_wheels", begun)
    with pytest.raises(BenchError, match="built again"):
        build(target, tmp_path)


@pytest.mark.slow
def test_make_runner_builds_whole_bundles(runner: Path) -> None:
    bundle = open_bundle("aarch64", runner)
    assert bundle.glibc.startswith("2.")
    assert set(bundle.engines) == {"pte", "onnx", "tflite", "ptl"}
    for name in ("run_pte", "run_onnx", "run_ptl", "lib/ld-linux-aarch64.so.1", "lib/libc.so.6", "lib/libstdc++.so.6"):
        assert (bundle.path / name).read_bytes()[18:20] == b"\xb7\x00"  # ELF's number of AArch64
    # Nothing of this machine in the programs: that is what makes two builds the same.
    assert all(str(ROOT).encode() not in (bundle.path / f"run_{name}").read_bytes() for name in bundle.engines)
    assert open_bundle("host", runner).files["run_pte"] == BundledFile(*size_and_sha256(runner / "host" / "run_pte"))


@pytest.mark.slow
def test_a_second_call_builds_nothing(runner: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_wheels", None)  # it would be called
    for name in TARGETS:
        assert build(TARGETS[name], runner) == runner / name


def test_a_step_that_fails_shows_its_last_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(tmp_path / "build.log")
    log.do(["sh", "-c", "echo well; echo ill >&2"], "beginning")
    assert capsys.readouterr().out.startswith("beginning ...\n  ")
    words = r"^trying failed with exit status 3; the last lines of .*build\.log:\nwell\nill\nthe reason$"
    with pytest.raises(BenchError, match=words):
        log.do(["sh", "-c", "echo the reason; exit 3"], "trying")
    assert capsys.readouterr().out == "trying ...\n"
