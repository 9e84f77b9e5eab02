"""Counting files on the simulated ARM CPU: rows with counts and parity, and what stops it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_files import IMAGES, artifact, onnx_file, ptl_file
from bench_rows import simulated

from bench.devices import DEVICES
from bench.measurement import BenchError, Schedule, Simulated, from_line, to_line
from bench.simulator import measure as arm

TINY = Path(__file__).parents[1] / "files" / "tiny.pte"


def test_a_simulated_row_survives_its_line() -> None:
    row = simulated()
    line = to_line(row)
    assert json.loads(line)["verdict"] == "simulated"
    assert from_line(line) == row
    assert from_line(to_line(replace(row, traffic=None))) == replace(row, traffic=None)


def test_a_row_that_has_lost_a_count_is_refused() -> None:
    line = to_line(simulated()).replace('"vector"', '"vektor"')
    with pytest.raises(BenchError, match=r"is not a measurement: ValidationError: .*field `vector`"):
        from_line(line)


def test_two_threads_are_refused() -> None:
    with pytest.raises(BenchError, match="counts one thread, not 2: with more, counts would not repeat; leave --threa"):
        DEVICES["arm"].measure([], IMAGES, Schedule(threads=2))


def test_images_are_looked_at_before_anything_is_started() -> None:
    with pytest.raises(BenchError, match="images are float32"):
        DEVICES["arm"].measure([], IMAGES.astype(np.float64))


def test_a_bundle_that_is_missing_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(arch: str) -> None:
        raise BenchError(f"there is no runner for {arch}")

    monkeypatch.setattr(arm, "find", lambda: None)
    monkeypatch.setattr(arm, "open_bundle", missing)
    with pytest.raises(BenchError, match="there is no runner for aarch64"):
        DEVICES["arm"].describe()


@pytest.mark.slow
def test_files_of_four_engines_are_counted_and_compared(runner: Path, tmp_path: Path) -> None:
    assert runner.exists()
    files = [artifact(TINY), onnx_file(tmp_path / "net.onnx", 8), ptl_file(tmp_path / "net.ptl")]
    files.insert(1, artifact(TINY.with_suffix(".tflite")))
    said: list[str] = []
    rows = DEVICES["arm-a53"].measure(files, IMAGES, Schedule(), lambda _done, _all, now: said.append(now))
    assert said == [f"{file.path.name} on cortex-a53" for file in files]
    for row, file in zip(rows, files, strict=True):
        assert isinstance(row, Simulated)
        assert (row.sha256, row.bytes, row.format) == (file.sha256, file.bytes, file.format)
        assert (row.device.kind, row.device.cpu, row.images) == ("simulated", "cortex-a53", 3)
        assert row.parity.cosine > 0.99999
        assert row.parity.top1_agreement == 1.0
        assert 0 < row.run.vector < row.run.instructions < row.run.instructions + row.load.instructions
        assert row.memory.model_peak > 0
        assert row.emulator.startswith("QEMU ")
        assert row.note == ""
        assert from_line(to_line(row)) == row


@pytest.mark.slow
def test_a_format_without_a_runner_is_a_row_with_the_reason(runner: Path, tmp_path: Path) -> None:
    assert runner.exists()
    (tmp_path / "net.mlpackage").mkdir()
    (row,) = DEVICES["arm"].measure([artifact(tmp_path / "net.mlpackage")], IMAGES)
    assert row.reason == "there is no runner for CoreML"  # type: ignore[union-attr]  # a NotMeasured


@pytest.mark.slow
def test_answers_that_differ_are_noted(runner: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert runner.exists()
    other = onnx_file(tmp_path / "other.onnx", 8, window=1)
    reference = arm._reference

    def of_another_file(_artifact: object, session: arm._Session) -> object:
        return reference(other, session)

    monkeypatch.setattr(arm, "_reference", of_another_file)
    (row,) = DEVICES["arm"].measure([onnx_file(tmp_path / "net.onnx", 8)], IMAGES)
    assert isinstance(row, Simulated)
    assert row.note == "its outputs differ from those on this machine: do not ship it, and look at its kernels"
