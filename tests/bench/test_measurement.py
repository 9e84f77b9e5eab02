import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from bench_rows import DEVICE, measurement

from bench.measurement import (
    BenchError,
    Device,
    Memory,
    NotMeasured,
    Process,
    Schedule,
    append,
    from_line,
    read,
    to_line,
)
from exporters.artifact import Parity

NOT_MEASURED = NotMeasured("alexnet", "mlpackage", "cd" * 32, DEVICE, "CoreML predicts on macOS only")


def test_rows_survive_their_file(tmp_path: Path) -> None:
    path = tmp_path / "measurements.jsonl"
    rows = (measurement(), NOT_MEASURED, replace(measurement(), pinned_cores=None, schedule=Schedule()))
    append(path, rows[:1])
    append(path, rows[1:])
    assert read(path) == rows
    assert len(path.read_text().splitlines()) == 3


def test_a_line_says_its_verdict_and_keeps_block_boundaries() -> None:
    fields = json.loads(to_line(measurement()))
    assert fields["verdict"] == "measured"
    assert fields["blocks"] == [{"turn": 0, "samples_ms": [12.5, 12.25]}, {"turn": 3, "samples_ms": [12.75]}]
    assert json.loads(to_line(NOT_MEASURED))["verdict"] == "not measured"


def test_samples_come_in_the_order_of_their_blocks() -> None:
    assert measurement().samples_ms == (12.5, 12.25, 12.75)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "DecodeError: Input data was truncated"),
        ("[]", "Expected `object`, got `array`"),
        ("{}", "missing required field `verdict`"),
        ('{"verdict": "passed"}', "its verdict is 'passed', not 'measured', 'simulated' or 'not measured'"),
        (to_line(measurement()).replace('"first_ms"', '"erste_ms"'), "missing required field `first_ms`"),
        (to_line(measurement()).replace('"host"', '"cloud"'), "Invalid enum value 'cloud' - at `$.device.kind`"),
    ],
)
def test_what_is_no_row_is_named_with_its_line(line: str, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "measurements.jsonl"
    path.write_text(to_line(measurement()) + line)
    with pytest.raises(BenchError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}, line 2, is not a measurement: ")
    assert reason in str(error.value)
    assert str(error.value).endswith("; measure again, or take the line out")


def test_from_line_reads_one_row() -> None:
    assert from_line(to_line(measurement())) == measurement()


def test_an_unknown_kind_of_device_is_refused() -> None:
    with pytest.raises(BenchError, match=r"^a device is one of host, phone, simulated, not 'app'$"):
        Device("app", "x", "y", 1, "z")  # type: ignore[arg-type]  # the point of this test


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"threads": 0}, "a schedule's threads is 1 or more, not 0"),
        ({"rounds": 0}, "a schedule's rounds is 1 or more, not 0"),
        ({"warmup_runs": -1}, "a schedule's warmup_runs is 0 or more, not -1"),
        ({"cap_seconds": 0.0}, "a schedule's cap_seconds is more than 0, not 0.0"),
        ({"cores": (1, 1), "threads": 2}, "one core for each thread: 2 thread(s), but cores 1, 1; name 2 different"),
        ({"cores": ()}, "1 thread(s), but cores none; name 1 different core(s), or none at all"),
    ],
)
def test_an_impossible_schedule_is_refused(fields: dict[str, object], text: str) -> None:
    with pytest.raises(BenchError) as error:
        Schedule(**fields)  # type: ignore[arg-type]  # the fields differ in type
    assert text in str(error.value)


def test_model_peak_is_what_the_file_added() -> None:
    assert measurement().memory.model_peak == 291_000


def test_model_peak_is_unknown_where_imports_hide_it() -> None:
    memory = measurement().memory
    unreset = Memory(400_000, 100_000)
    assert replace(memory, start=unreset, end=Memory(400_000, 90_000)).model_peak is None
    assert replace(memory, start=unreset, end=Memory(500_000, 90_000)).model_peak == 400_000
    assert replace(memory, start=Memory()).model_peak is None


def test_reading_measurements_imports_no_toolkit() -> None:
    code = (
        "import sys, bench.measurement, bench.statistics, bench.devices; "
        "print({'torch', 'numpy', 'onnx', 'onnxruntime', 'executorch'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_rows_of_older_versions_are_still_read() -> None:
    fields = json.loads(to_line(measurement()))
    for name in ("processes", "invalid", "parity"):
        del fields[name]
    for name in ("serial", "page_bytes"):
        del fields["device"][name]
    for name in ("cluster", "cool_seconds"):
        del fields["schedule"][name]
    assert from_line(json.dumps(fields)) == measurement()


def test_a_phone_s_row_comes_back_as_it_went() -> None:
    row = replace(
        measurement(),
        device=replace(DEVICE, kind="phone", serial="A1", page_bytes=16384),
        schedule=Schedule(cluster="big"),
        processes=(Process(0, 12.5, 3.5, 1800.0, None, 0, 29.5),),
        invalid="the last tenth",
        parity=Parity(True, 8, 1e-6, 1e-7, 0.9999999, 1.0),
    )
    assert from_line(to_line(row)) == row
