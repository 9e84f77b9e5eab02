"""`compress-export compare`: what is set side by side, and what is never ranked together."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from bench_rows import DEVICE
from budget_runs import PHONE, disturbed, invalid, make_run, measured_in_app, with_int8
from safetensors.numpy import save_file


@pytest.fixture
def folder(tmp_path):
    """Two runs of one network on one machine, at two ranks."""
    make_run(tmp_path / "a", 4, with_pte=False)
    make_run(tmp_path / "b", 8, with_pte=False, ms=7.5, top1=98.0, session="t")
    return tmp_path


def rows(call, folder, *words):
    status, out, err = call(folder, "compare", *words, "--json")
    assert status == 0, err
    found = json.loads(out)
    return {(row["title"], row["device"]): row for row in found["rows"]}, found


WHERE = "desk (host, AMD EPYC, 1 thread)"


def test_runs_stand_side_by_side_with_ratios_to_the_first(call, folder):
    found, whole = rows(call, folder, "a", "b")
    assert whole["columns"] == ["a", "b"]
    assert found["parameters", None]["values"] == [2200, 3400]
    assert found["parameters", None]["ratios"] == [None, pytest.approx(3400 / 2200)]
    assert found[".onnx latency, p50", WHERE]["ratios"] == [None, 1.5]
    assert found["top-1 accuracy", None]["ratios"] == [None, None]
    assert any("different sessions" in note for note in whole["notes"])


def test_the_table_says_differences_of_accuracy_in_points(call, folder):
    _, out, _ = call(folder, "compare", "a", "b")
    assert "98.00 % (+0.50)" in out
    assert "3.40k (1.55x)" in out
    assert "  on desk (host, AMD EPYC, 1 thread)" in out
    assert "note: times come from different sessions" in out


def test_files_that_took_turns_have_an_interval(call, folder):
    found, whole = rows(call, folder, "a/artifacts/original.onnx", "a/artifacts/compressed.onnx")
    assert whole["columns"] == ["original.onnx", "compressed.onnx"]
    assert found["latency, p50", WHERE]["ratios"] == [None, pytest.approx(0.5)]
    assert found["latency, p50", WHERE]["intervals"][1] == pytest.approx([0.5, 0.5])
    assert whole["notes"] == []
    assert (
        "5.00 ms (0.5x, 0.5 to 0.5)"
        in call(folder, "compare", *[f"a/artifacts/{n}.onnx" for n in ("original", "compressed")])[1]
    )


@pytest.mark.parametrize("kind", ["phone", "simulated"])
def test_kinds_of_devices_are_never_ranked_together(call, tmp_path, kind):
    make_run(tmp_path / "a", with_pte=False)
    make_run(tmp_path / "b", with_pte=False, device=replace(DEVICE, kind=kind))
    found, whole = rows(call, tmp_path, "a", "b")
    assert [row["ratios"] for row in found.values() if row["kind"]] == [[None, None]] * 4
    assert f"host and {kind} figures are not ranked together: each has rows of its own" in whole["notes"]


def test_two_machines_of_one_kind_are_not_ranked_either(call, tmp_path):
    make_run(tmp_path / "a", with_pte=False)
    make_run(tmp_path / "b", with_pte=False, device=replace(DEVICE, cpu="Apple M4"))
    found, whole = rows(call, tmp_path, "a", "b")
    assert all(row["ratios"] == [None, None] for row in found.values() if row["kind"])
    assert any(
        note.startswith("times of different devices are not ranked together: desk (host, AMD")
        for note in whole["notes"]
    )


def test_int8_files_have_rows_of_their_own_with_accuracy_and_flips(call, folder):
    for name, top1 in (("a", 96.0), ("b", 95.5)):
        with_int8(folder / name, rank=4 if name == "a" else 8, top1=top1)
    found, whole = rows(call, folder, "a", "b")
    top1 = found[".onnx int8 top-1 accuracy of 200 test images", None]
    assert (top1["values"], top1["types"]) == ([96.0, 95.5], ["int8", "int8"])
    assert found[".onnx top-1 accuracy of 200 test images", None]["values"] == [97.0, 97.0]
    assert found[".onnx int8 flipped predictions of 200 test images", None]["values"] == [3, 3]
    sizes = [(folder / name / "artifacts/compressed.int8.onnx").stat().st_size for name in ("a", "b")]
    assert found[".onnx int8 size", None]["values"] == sizes
    assert not any("float32" in note for note in whole["notes"])
    (folder / "a/artifacts/compressed.int8.onnx").unlink()
    assert rows(call, folder, "a", "b")[1]["notes"][0].startswith("a, compressed.int8.onnx: the run recorded it, and")


def test_an_int8_file_beside_a_float32_one_is_marked(call, folder):
    with_int8(folder / "a")
    files = [f"a/artifacts/compressed{kind}.onnx" for kind in ("", ".int8")]
    found, whole = rows(call, folder, *files)
    assert found["size", None]["types"] == ["float32", "int8"]
    assert found["top-1 accuracy of 200 test images", None]["values"] == [97.0, 96.0]
    assert "* int8 beside float32: the ratio is partly that of the types" in whole["notes"]
    shutil.copy(folder / files[1], folder / "loose.onnx")  # what no run recorded has the type of its weights
    found, _ = rows(call, folder, "b", "loose.onnx")
    assert found[".onnx int8 size", None]["types"] == [None, "int8"]
    assert found[".onnx size", None]["values"][1] is None


def test_an_app_and_the_shell_have_rows_of_their_own(call, tmp_path):
    measured_in_app(make_run(tmp_path / "a", with_pte=False, device=PHONE))
    make_run(tmp_path / "b", with_pte=False, device=PHONE)
    found, _ = rows(call, tmp_path, "a", "b")
    times = {where: row["values"] for (title, where), row in found.items() if "latency" in title}
    assert times == {
        "Pixel 8 (phone, Tensor G3, 1 thread)": [5.0, 5.0],
        "Pixel 8 (phone, Tensor G3, app, 1 thread)": [7.5, None],
    }


def test_times_that_are_not_steady_are_named_with_the_reason(call, folder):
    disturbed(folder / "b", preemptions=3)
    _, whole = rows(call, folder, "a", "b")
    assert f"b, .onnx on {WHERE}: its times are not steady: p90 is 2.00 times p50; measure again" in whole["notes"]
    assert not any(note.startswith("a") for note in whole["notes"])
    _, whole = rows(call, folder, "a/artifacts/compressed.onnx", "b/artifacts/compressed.onnx")
    (note,) = [note for note in whole["notes"] if "not steady" in note]
    assert note.startswith(f"b/artifacts/compressed.onnx on {WHERE}: its times are not steady: ")


def test_invalid_times_are_not_measured_and_say_why(call, folder):
    invalid(folder / "b")
    found, whole = rows(call, folder, "a", "b")
    assert found[".onnx latency, p50", WHERE]["values"] == [5.0, None]
    assert found[".onnx latency, p50", WHERE]["ratios"] == [None, None]
    assert found[".onnx peak memory", WHERE]["values"][1] == (391_000 - 100_000) * 1024
    assert f"b, .onnx on {WHERE}: its times are invalid: let the phone cool; measure again" in whole["notes"]


def test_a_file_that_is_no_longer_as_recorded_is_said(call, folder):
    (folder / "a/artifacts/compressed.onnx").write_bytes(bytes(1000))
    (folder / "b/artifacts/compressed.onnx").unlink()
    _, whole = rows(call, folder, "a", "b")
    recorded = json.loads((folder / "a/artifacts.json").read_text())[1]["bytes"]
    assert whole["notes"][:2] == [
        "a, compressed.onnx: it is not the file that artifacts.json records: 1,000 bytes, "
        f"{recorded:,} recorded; export it again",
        "b, compressed.onnx: the run recorded it, and it is gone; export it again",
    ]


def test_a_float16_file_beside_a_float32_one_is_marked(call, tmp_path):
    for name, dtype in (("a", np.float32), ("b", np.float16)):
        save_file({"w.weight": np.zeros((10, 10), dtype)}, tmp_path / f"{name}.safetensors")
    _, out, _ = call(tmp_path, "compare", "a.safetensors", "b.safetensors")
    assert "x)*" in out
    assert "note: * float16 beside float32: the ratio is partly that of the types" in out


def test_measurement_files_and_runs_may_be_mixed(call, folder):
    found, _ = rows(call, folder, "a", "b/measurements.jsonl")
    assert found["compressed .onnx latency, p50", WHERE]["values"] == [None, 7.5]
    _, out, _ = call(folder, "compare", "a", "b/measurements.jsonl")
    assert "not measured" in out
    assert "not there" in out


def test_bytes_that_round_alike_are_exact(call, tmp_path):
    for name, size in (("a", 2_000_001), ("b", 2_000_002)):
        (tmp_path / f"{name}.bin").write_bytes(bytes(size))
    _, out, _ = call(tmp_path, "compare", "a.bin", "b.bin")
    assert "2,000,001 bytes" in out
    assert "2,000,002 bytes (1x)" in out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["a", "lost"], "lost/compressed.json has lost its content (Object missing required field `parameters`)"),
        (["a"], "compare takes two or more runs, files or measurements.jsonl"),
        (["a", "nowhere"], "nowhere: there is no such run or file"),
        (["a", "empty"], "empty is a folder, and neither a run (it has no settings.json) nor an .mlpackage"),
        (["a", "cut.onnx"], "cut.onnx: cut.onnx is no whole .onnx"),
        (["a", "none.jsonl"], "none.jsonl holds no measurement"),
        (["a", "bad.jsonl"], "bad.jsonl, line 1, is not a measurement"),
        (["a", "new"], "new was written by a newer compress-export"),
        (["a", "new/artifacts/compressed.onnx"], "new was written by a newer compress-export"),
    ],
)
def test_what_cannot_be_compared_is_said(call, folder, words, text):
    (folder / "empty").mkdir()
    (folder / "cut.onnx").write_bytes(b"\x0a\x05abc")
    (folder / "none.jsonl").write_text("")
    (folder / "bad.jsonl").write_text("{}\n")
    make_run(folder / "new", with_pte=False)
    make_run(folder / "lost", with_pte=False)
    (folder / "lost/compressed.json").write_text("{}")
    (folder / "new/settings.json").write_text('{"version": 7}')
    status, out, err = call(folder, "compare", *words)
    assert (status, out) == (1, "")
    assert text in err
