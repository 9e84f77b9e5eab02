"""Promises of the README about `make demo`, read from the files that it wrote."""

import json

import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(demo):
    return demo / "runs" / "alexnet-android"


def test_accuracy_survives(run):
    rows = json.loads((run / "accuracy.json").read_text())
    before, after = rows["original"], rows["compressed"]
    assert len(after["correct"]) == 360
    assert before["top1"] >= 97
    assert sum(before["correct"]) - sum(after["correct"]) <= 4


def test_the_network_is_seven_times_smaller(run):
    before, after = (json.loads((run / f"{name}.json").read_text())["parameters"] for name in ("survey", "compressed"))
    assert before >= 7 * after


def test_every_file_is_smaller_and_matches_the_module(run):
    artifacts = json.loads((run / "artifacts.json").read_text())
    sizes = {(artifact["network"], artifact["format"]): artifact["bytes"] for artifact in artifacts}
    for name in ("pte", "onnx", "tflite", "ptl"):
        assert sizes["original", name] >= 6.5 * sizes["compressed", name]
    for artifact in artifacts:
        assert artifact["parity"]["top1_agreement"] == 1
        assert artifact["parity"]["relative_error"] <= 1e-4
        assert artifact["not_delegated"] == []


def test_the_report_names_the_exact_collapse(run):
    report = (run / "report.md").read_text()
    assert "what is saved there is an exact collapse, not compression" in report
    assert "Digits prove that the path works" in report


def test_the_network_takes_fewer_instructions(run):
    plan = json.loads((run / "plan.json").read_text())
    assert plan["cost_source"].startswith("predicted instructions of a cortex-a76")
    assert "slower" not in "".join(layer["reason"] for layer in plan["layers"] if layer["method"] != "keep")
    assert plan["chosen"]["instructions"] < 0.7 * plan["original"]["instructions"]
    assert plan["timed"] is None
    assert plan["goal"] == "max-drop 1% (default)"
