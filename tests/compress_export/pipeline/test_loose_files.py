"""`bench FILE...`: files outside a run are measured and profiled, and what does not fit is said."""

import json
from pathlib import Path

import numpy as np
import pytest
from bench_files import SIZE, onnx_file

from bench.measurement import read
from bench.profile.profile import Operator, Profile
from bench.profile.profile import append as keep

FILES = Path(__file__).resolve().parents[2] / "bench" / "files"
SHORT = ("--device", "host", "--set", "bench.cap=0.2")


def test_two_files_take_turns_and_leave_rows_beside_them(call, tmp_path, monkeypatch):
    for width in (8, 64):
        onnx_file(tmp_path / f"net{width}.onnx", width)
    monkeypatch.setenv("COLUMNS", "160")
    status, out, err = call(tmp_path, "bench", "net64.onnx", "net8.onnx", *SHORT)
    assert status == 0, err
    rows = read(tmp_path / "measurements.jsonl")
    assert [row.network for row in rows] == ["net64", "net8"]
    assert rows[0].session == rows[1].session
    assert rows[0].images == 32
    said = " ".join(out.split())
    assert "x faster" in said or "x slower" in said
    assert "rows added to measurements.jsonl" in said


def test_rows_go_where_they_are_asked_and_json_has_them(call, tmp_path):
    np.save(tmp_path / "images.npy", np.random.default_rng(0).random((2, 3, SIZE, SIZE), dtype=np.float32))
    words = ("--images", "images.npy", "--out", "rows.jsonl", "--json", "--quiet")
    status, out, err = call(tmp_path, "bench", FILES / "tiny.ptl", *SHORT, *words)
    assert (status, err) == (0, "")
    found = json.loads(out)
    (row,) = read(tmp_path / "rows.jsonl")
    assert found["added_to"] == "rows.jsonl"
    assert found["rows"][0]["sha256"] == row.sha256
    assert found["rows"][0]["statistics"]["runs"] == len(row.samples_ms)
    assert row.images == 2


def test_pictures_are_cut_to_the_files_size(call, tmp_path):
    from PIL import Image

    (tmp_path / "photos").mkdir()
    for place in range(3):
        Image.new("RGB", (40, 30), (80 * place, 20, 30)).save(tmp_path / "photos" / f"{place}.png")
    status, _, err = call(tmp_path, "bench", FILES / "tiny.pte", "--images", "photos", "--out", "rows.jsonl", *SHORT)
    assert status == 0, err
    (row,) = read(tmp_path / "rows.jsonl")
    assert (row.images, row.input_shape) == (3, (1, 3, 16, 16))


@pytest.fixture
def strange(tmp_path):
    """A folder of files that cannot be measured."""
    onnx_file(tmp_path / "net.onnx", 8)
    np.save(tmp_path / "small.npy", np.zeros((1, 3, 8, 8), np.float32))
    np.save(tmp_path / "double.npy", np.zeros((1, 3, 16, 16)))
    (tmp_path / "net.caffemodel").write_bytes(b"x")
    last = bytearray((FILES / "tiny.tflite").read_bytes())
    place = last.index(np.array([1, 3, SIZE, SIZE], np.int32).tobytes())
    last[place : place + 16] = np.array([1, SIZE, SIZE, 3], np.int32).tobytes()
    (tmp_path / "last.tflite").write_bytes(last)
    (tmp_path / "other.pte").write_bytes((tmp_path / "net.onnx").read_bytes())
    (tmp_path / "empty").mkdir()
    (tmp_path / "noise.npy").write_bytes(b"noise")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("gone.onnx",), "gone.onnx: there is no such file or run"),
        (
            ("net.caffemodel",),
            "no runtime here takes a .caffemodel file; pass one of .pte, .onnx, .tflite, .ptl",
        ),
        (("last.tflite",), "last.tflite takes images of 16x16x3, with their channels last; files that"),
        (("other.pte",), "other.pte is no whole .pte: it does not begin as an ExecuTorch program does"),
        (
            ("net.onnx", "--images", "small.npy"),
            "net.onnx takes images of 3x16x16, and these are 3x8x8; pass images of",
        ),
        (("net.onnx", "--images", "double.npy"), "double.npy holds float64 of shape 1x3x16x16; it takes float32 of sh"),
        (("net.onnx", "--images", "noise.npy"), "--images noise.npy is no .npy file ("),
        (("net.onnx", "--images", "empty"), "--images empty holds no picture (.jpg, .jpeg"),
        ((FILES / "tiny.ptl",), "tiny.ptl does not tell the size of its image; pass --input CxHxW"),
        (("net.onnx", FILES / "tiny.ptl", "empty"), "bench takes one run, or files: empty is a folder"),
        (("empty", "--out", "rows.jsonl"), "--out is for files; a run has images and rows of its own"),
        (("empty", "--input", "3x8x8"), "--input is for files; a run has images and rows of its own"),
    ],
)
def test_what_does_not_fit_is_said(call, strange, words, text):
    status, _, err = call(strange, "bench", *words, "--device", "host")
    assert status == 1
    assert text in err
    assert not (strange / "measurements.jsonl").exists()


def test_files_of_different_sizes_are_not_measured_together(call, strange):
    import onnx

    model = onnx.load(strange / "net.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 20
    onnx.save(model, strange / "high.onnx")
    _, _, err = call(strange, "bench", "net.onnx", "high.onnx", "--device", "host")
    assert "take images of one size: net.onnx takes 3x16x16, high.onnx takes 3x20x16; measure them one by one" in err
    model.graph.input[0].type.tensor_type.shape.dim.pop()
    onnx.save(model, strange / "flat.onnx")
    _, _, err = call(strange, "bench", "flat.onnx", "--device", "host")
    assert "flat.onnx takes 2 sides, not an image of channels, height and width" in err


def test_the_report_shows_the_newest_profile_in_its_layer_table(tmp_path):
    from report_runs import report_run

    from compress_export.reporting.gather import gather
    from compress_export.reporting.html import html
    from compress_export.run_directory import RunDirectory

    run = RunDirectory(report_run(tmp_path / "net"))
    assert gather(run).profile is None
    files = json.loads((run / "artifacts.json").read_text())
    files = files if isinstance(files, list) else files["artifacts"]
    amounts = {"original": (9e6, 1e6), "compressed": (2e6, 1e6)}
    for row in files:
        first, last = amounts[row["network"]]
        operators = (Operator("Conv x", "fc1", first), Operator("MaxPool y", "", 5e5), Operator("Gemm z", "fc2", last))
        device = _simulated()
        names = (row["network"], row["format"], row["sha256"], device, "ONNX Runtime", "1.31.1")
        profile = Profile(*names, "instructions", 1, operators, True, "2026-11-20T13:00:00+00:00")
        keep(run / "profiles.jsonl", [profile])
    found = gather(run).profile
    assert (found.type, found.rest.original) == ("", 5e5)
    assert (found.layers["fc1"].original, found.layers["fc1"].compressed) == (9e6, 2e6)
    page = html(gather(run))
    assert "instructions, profiled" in page
    assert "9.00M → 2.00M" in page
    assert "on simulated cortex-a76 (simulated, cortex-a76), by the profiler of ONNX Runtime" in page


def test_the_report_prefers_the_profile_of_a_quantized_pair(tmp_path):
    from budget_runs import with_int8
    from report_runs import report_run

    from compress_export.reporting.gather import gather
    from compress_export.reporting.html import html
    from compress_export.run_directory import RunDirectory

    run = RunDirectory(with_int8(report_run(tmp_path / "net")))
    amounts = {"original.int8": 3e6, "compressed.int8": 1e6, "original": 9e6, "compressed": 2e6}
    rows = {row["network"]: row for row in json.loads((run / "artifacts.json").read_text())}
    for network, amount in amounts.items():  # those in float32 are newer
        names = (network, "onnx", rows[network]["sha256"], _simulated(), "ONNX Runtime", "1.31.1")
        operators = (Operator("QLinearConv x", "fc1", amount),)
        keep(run / "profiles.jsonl", [Profile(*names, "instructions", 1, operators, True, "2026-11-20T13:00:00+00:00")])
    found = gather(run).profile
    assert found.type == "int8"
    assert (found.layers["fc1"].original, found.layers["fc1"].compressed) == (3e6, 1e6)
    assert "Profiled: instructions of one run of the int8 .onnx files on simulated cortex-a76" in html(gather(run))


def _simulated():
    from bench_rows import simulated

    return simulated().device


@pytest.mark.slow
def test_a_file_is_profiled_layer_by_layer(runner, call, tmp_path):
    assert runner.exists()
    onnx_file(tmp_path / "net.onnx", 16)
    status, out, err = call(tmp_path, "bench", "net.onnx", "--profile", "--device", "arm")
    assert status == 0, err
    said = " ".join(out.split())
    assert "net.onnx on simulated cortex-a76 (simulated, cortex-a76): instructions of one run" in said
    assert said.index("│ two │") < said.index("│ one │")
    status, out, _ = call(tmp_path, "bench", "net.onnx", "--profile", "--device", "host", "--json")
    (profile,) = json.loads(out)["profiles"]
    assert profile["layers"][0]["amount"] >= profile["layers"][-1]["amount"]
    assert {operator["layer"] for operator in profile["operators"]} >= {"one", "two"}
