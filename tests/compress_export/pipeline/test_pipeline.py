"""The command from end to end on a small network: every file it writes, going on after a kill, and stopping."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from safetensors.numpy import load_file

SIZE = ("--input", "3x16x16")
DATA = ("--data", "digits", "--train", "8", "--set", "plan.costs=counted")
INT8 = {"pte int8", "onnx int8", "tflite int8"}
QUICK = ("--epochs", "1", "--set", "bench.cap=0.2")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("work")


@pytest.fixture(scope="module")
def whole(folder, net_file):
    """A whole run in a process of its own, as a user starts it."""
    words = (f"{net_file}:build", *SIZE, *DATA, *QUICK, "--max-params", "0.3x", "--name", "whole")
    done = subprocess.run(
        [sys.executable, "-m", "compress_export", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return folder / "runs" / "whole", done


def test_a_whole_run_writes_every_file(whole):
    run, done = whole
    names = {path.name for path in run.iterdir()}
    assert names >= {
        "settings.json", "network.json", "survey.json", "plan.json", "original.safetensors", "compressed.safetensors",
        "tuned.safetensors", "training.jsonl", "tuning.jsonl", "losses.jsonl", "accuracy.json", "artifacts.json",
        "measurements.jsonl", "report.md", "report.html", "report.json",
    }  # fmt: skip
    assert not [name for name in names if name.endswith((".partial", ".pt"))]
    assert "running build() of" in done.stderr
    assert {path.name for path in (run / "artifacts").iterdir()} == {
        f"{network}.{suffix}" for network in ("original", "compressed") for suffix in ("pte", "onnx", "tflite", "ptl")
    }


def test_what_the_table_says_is_what_the_files_hold(whole):
    run, done = whole
    before, after = (
        sum(
            value.size
            for name, value in load_file(run / f"{name}.safetensors").items()
            if "running" not in name and "num_batches" not in name
        )
        for name in ("original", "tuned")
    )
    assert after <= 0.3 * before
    report = (run / "report.md").read_text()
    assert f"| parameters | {before:,} | {after:,} | {before / after:.2f}x smaller |" in report
    accuracy = json.loads((run / "accuracy.json").read_text())
    assert accuracy["original"]["top1"] > 90
    assert len(accuracy["compressed"]["predictions"]) == 360
    assert f"{accuracy['compressed']['top1']:.2f} %" in done.stdout
    for artifact in json.loads((run / "artifacts.json").read_text()):
        assert os.path.getsize(run / artifact["path"]) == artifact["bytes"]
        assert artifact["parity"]["relative_error"] < 1e-4
        assert artifact["parity"]["top1_agreement"] == 1


def test_the_exported_file_is_the_tuned_network(whole):
    run, _ = whole
    from compress_export.data.images import DigitImages, View

    session = onnxruntime.InferenceSession(run / "artifacts" / "compressed.onnx")
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    digits = list(DigitImages(View((3, 16, 16), mean, std), range(1797)))
    images, labels = np.stack([image.numpy() for image, _ in digits]), np.array([label for _, label in digits])
    logits = np.concatenate([session.run(None, {session.get_inputs()[0].name: x[None]})[0] for x in images])
    share = 100 * float((logits.argmax(1) == labels).mean())
    validation = json.loads((run / "accuracy.json").read_text())["compressed"]["top1"]
    assert share == pytest.approx(validation, abs=6)


def test_every_file_is_measured_in_turns_with_its_original(whole):
    run, _ = whole
    found = rows(run / "measurements.jsonl")
    assert len(found) == 8
    sessions = {}
    for row in found:
        sessions.setdefault(row["session"], set()).add((row["network"], row["format"]))
    assert sorted(sorted(pair) for pair in sessions.values()) == [
        [("compressed", form), ("original", form)] for form in ("onnx", "pte", "ptl", "tflite")
    ]


def test_the_same_command_again_does_nothing_twice(whole, net_file, folder, call):
    run, _ = whole
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    measured = (run / "measurements.jsonl").read_text()
    words = (f"{net_file}:build", *SIZE, *DATA, *QUICK, "--max-params", "0.3x", "--name", "whole")
    status, out, err = call(folder, *words)
    assert status == 0
    stages = ("Training", "Probing", "Planning", "Factoring", "Fine-tuning", "Exporting", "Measuring")
    assert [stage for stage in stages if stage in err] == []
    assert {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")} == before
    assert (run / "measurements.jsonl").read_text() == measured
    assert "smaller" in out


def test_other_settings_stop_and_name_the_ways_on(whole, net_file, folder, call):
    words = (f"{net_file}:build", *SIZE, *DATA, "--epochs", "3", "--max-params", "0.3x", "--name", "whole")
    status, _, err = call(folder, *words)
    assert status == 1
    assert "was made with other settings: --epochs 3 (was 1); pass --force" in err
    assert (whole[0] / "tuned.safetensors").exists()


def test_the_report_can_be_written_again_from_the_files_alone(whole, folder, call):
    run, _ = whole
    text = (run / "report.md").read_text()
    (run / "report.md").unlink()
    status, out, _ = call(folder, "report", "runs/whole")
    assert status == 0
    assert (run / "report.md").read_text() == text
    assert "original" in out


@pytest.mark.slow
def test_the_verbs_alone_read_what_the_one_before_wrote(folder, net_file, call):
    run = folder / "runs" / "steps"
    words = (f"{net_file}:build", *SIZE, *DATA[:-2], "--max-params", "0.4x", "--set", "plan.costs=measured")
    words += ("--methods", "spatial,svd", "--name", "steps")  # each method more is timed at three ranks of each layer
    status, out, _ = call(folder, "plan", *words)
    assert (status, "max-params 0.4x" in out) == (0, True)
    plan = json.loads((run / "plan.json").read_text())
    assert plan["cost_source"].startswith("measured on this machine")
    assert all(layer["ms"] > 0 and layer["dense_ms"] > 0 for layer in plan["layers"])
    assert 0 < plan["chosen"]["ms"] < 100
    assert len(rows(run / "losses.jsonl")) >= 4
    assert call(folder, "compress", run)[0] == 0
    assert call(folder, "tune", run, "--set", "fine_tune.schedule=one-shot", "--epochs", "1")[0] == 0
    factored = [layer["name"] for layer in json.loads((run / "plan.json").read_text())["layers"] if layer["rank"]]
    assert rows(run / "tuning.jsonl")[-1]["layers"] == ", ".join(factored) != ""
    assert call(folder, "export", run, "--format", "onnx")[0] == 0
    assert call(folder, "bench", run, "--set", "bench.cap=0.1")[0] == 0
    assert call(folder, "bench", run, "--set", "bench.cap=0.1")[0] == 0
    assert len(rows(run / "measurements.jsonl")) == 4
    status, out, _ = call(folder, "report", run)
    assert (status, ".onnx size" in out) == (0, True)


def test_a_plan_is_replayed_on_a_fresh_network(whole, folder, net_file, call):
    words = (f"{net_file}:build", *SIZE, *DATA, "--seed", "3", "--plan", whole[0] / "plan.json", "--name", "replayed")
    assert call(folder, "plan", *words)[0] == 0
    assert json.loads((folder / "runs/replayed/plan.json").read_text()) == json.loads(
        (whole[0] / "plan.json").read_text()
    )
    assert call(folder, "compress", "runs/replayed")[0] == 0
    one, other = (load_file(folder / "runs" / name / "compressed.safetensors") for name in ("whole", "replayed"))
    assert {name: value.shape for name, value in one.items()} == {name: value.shape for name, value in other.items()}


@pytest.mark.slow
def test_a_run_killed_in_training_and_in_tuning_goes_on_to_the_same_weights(whole, folder, net_file):
    run = folder / "runs" / "killed"
    words = (f"{net_file}:build", *SIZE, *DATA, *QUICK, "--max-params", "0.3x", "--name", run.name, "--format", "onnx")
    command = [sys.executable, "-m", "compress_export", *words]
    for rows_of in ("training.jsonl", "tuning.jsonl"):
        process = subprocess.Popen(command, cwd=folder, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while not (run / rows_of).exists() or len((run / rows_of).read_text().splitlines()) < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert not (run / "report.md").exists()
    assert subprocess.run(command, cwd=folder, check=False, capture_output=True).returncode == 0
    for name in ("original", "tuned"):
        one, other = load_file(whole[0] / f"{name}.safetensors"), load_file(run / f"{name}.safetensors")
        assert all(np.array_equal(one[key], other[key]) for key in one)
    assert rows(run / "tuning.jsonl") == rows(whole[0] / "tuning.jsonl")


@pytest.mark.slow
def test_untrained_weights_are_said_to_be_untrained(folder, call):
    words = ("squeezenet1_1", "--input", "3x64x64", "--weights", "none", "--max-params", "0.5x", "--format", "onnx")
    words += ("--set", "plan.costs=counted")
    status, out, _ = call(folder, *words, "--set", "bench.cap=0.1", "--name", "untrained")
    assert status == 0
    assert "not measured" in out
    assert "The weights are untrained" in out
    assert not Path(folder / "runs/untrained/tuned.safetensors").exists()
    parity = json.loads((folder / "runs/untrained/artifacts.json").read_text())[1]["parity"]
    assert parity["top1_agreement"] == 1
    assert parity["cosine"] > 0.999999


@pytest.mark.slow
def test_the_papers_ranks_give_the_papers_compression(folder, call, monkeypatch):
    monkeypatch.setenv("COLUMNS", "140")  # a narrower terminal breaks the names of rows
    words = ("plan", "alexnet-caffe", "--weights", "none", "--ranks", "astrid-lee-2017", "--name", "paper")
    assert call(folder, *words)[0] == 0
    assert call(folder, "compress", "runs/paper")[0] == 0
    status, out, _ = call(folder, "report", "runs/paper")
    after = json.loads((folder / "runs/paper/compressed.json").read_text())
    assert (status, after["paper_parameters"]) == (0, 8_729_477)
    assert after["parameters"] < after["paper_parameters"]
    assert "parameters, as the papers count" in out
    assert "6.98x smaller" in out


@pytest.fixture(scope="module")
def quantized(whole, folder):
    """A copy of the whole run, whose networks are then written in int8 too."""
    run = folder / "runs" / "int8"
    shutil.copytree(whole[0], run)
    words = ("export", "runs/int8", "--quantize", "int8", "--set", "export.test_images=100")
    done = subprocess.run(
        [sys.executable, "-m", "compress_export", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return run, done.stderr


def test_int8_files_stand_beside_the_others(quantized):
    run, said = quantized
    assert "--quantize int8: not for .ptl (its phone runtimes end at PyTorch 2.1" in said
    artifacts = {Path(row["path"]).name: row for row in json.loads((run / "artifacts.json").read_text())}
    int8 = {
        f"{network}.int8.{suffix}" for network in ("original", "compressed") for suffix in ("pte", "onnx", "tflite")
    }
    assert set(artifacts) - int8 == {path.name for path in (run / "artifacts").iterdir()} - int8
    for name in int8:
        row = artifacts[name]
        assert (row["dtype"], os.path.getsize(run / row["path"])) == ("int8", row["bytes"])
        assert row["parity"]["top1_agreement"] >= 0.9
    assert artifacts["original.int8.pte"]["bytes"] < 0.4 * artifacts["original.pte"]["bytes"]
    entries = json.loads((run / "quantization.json").read_text())
    assert set(entries) == {"original.int8", "compressed.int8"}
    for entry in entries.values():
        assert entry["signal_to_noise"] > 15
        assert {layer["dtype"] for layer in entry["layers"]} == {"int8"}
        assert min(layer["signal_to_noise"] for layer in entry["layers"]) > 10


def test_every_file_has_classified_the_test_images(quantized):
    run, _ = quantized
    accuracy, recorded = (
        json.loads((run / "accuracy.json").read_text()),
        json.loads((run / "artifacts.json").read_text()),
    )
    before = accuracy["original"]["predictions"]
    places = [int(place) for place in torch.linspace(0, 359, 100)]
    for artifact in recorded:
        row = accuracy[Path(artifact["path"]).name]
        assert (row["images"], row["sha256"]) == (100, artifact["sha256"])
        assert row["flipped"] == sum(a != before[b] for a, b in zip(row["predictions"], places, strict=True))
        assert row["top1"] == pytest.approx(sum(row["correct"]))
        if artifact["dtype"] == "float32":  # such a file matches its network
            network = accuracy[artifact["network"]]
            assert row["correct"] == [network["correct"][place] for place in places]
        else:
            assert row["top1"] >= accuracy[artifact["network"].removesuffix(".int8")]["top1"] - 4


def test_the_report_compares_int8_files_with_both(quantized):
    run, _ = quantized
    report = json.loads((run / "report.json").read_text())
    file = next(row for row in report["files"] if row["name"] == "compressed.int8.onnx")
    assert file["accuracy"]["images"] == 100
    assert set(report["time_ratios"]) == {"pte", "onnx", "tflite", "ptl"} | INT8
    assert set(report["time_ratios_to_float32"]) == INT8
    page = (run / "report.md").read_text()
    count = len(json.loads((run / "quantization.json").read_text())["compressed.int8"]["layers"])
    assert f"compressed.int8: {count} of {count} layers compute in int8, calibrated on 215 images of the" in page
    assert "## Number types" in page


def test_files_that_are_there_are_not_written_again(quantized, call):
    run, _ = quantized
    times = {path.name: path.stat().st_mtime_ns for path in (run / "artifacts").iterdir()}
    status, _, err = call(run.parent.parent, "export", "runs/int8", "--format", "pte,onnx")
    assert (status, "Exporting" in err) == (0, False)
    words = ("export", "runs/int8", "--format", "onnx", "--set", "export.calibration=64")
    status, _, err = call(run.parent.parent, *words)
    assert status == 0
    later = {path.name for path in (run / "artifacts").iterdir() if path.stat().st_mtime_ns != times[path.name]}
    assert later == {
        f"{name}.int8.{suffix}" for name in ("original", "compressed") for suffix in ("onnx", "pte", "tflite")
    }
    assert json.loads((run / "quantization.json").read_text())["compressed.int8"]["images"] == 64
    status, _, err = call(run.parent.parent, "export", "runs/int8", "--format", "onnx", "--quantize", "fp16")
    assert status == 0
    rows = {Path(row["path"]).name: row for row in json.loads((run / "artifacts.json").read_text())}
    assert (rows["compressed.fp16.onnx"]["dtype"], rows["compressed.fp16.onnx"]["parity"]["top1_agreement"]) == (
        "float16",
        1,
    )
    status, _, err = call(run.parent.parent, "export", "runs/int8", "--format", "mlpackage", "--quantize", "fp16")
    assert (status, "there is no such file of .mlpackage (its files are float16 anyway)" in err) == (1, True)
    status, _, err = call(run.parent.parent, "export", "runs/int8", "--format", "ptl", "--quantize", "int8")
    assert status == 1
    assert "--quantize int8: there is no such file of .ptl (its phone runtimes end at PyTorch 2.1, before" in err
    assert "; add --format pte, onnx" in err
