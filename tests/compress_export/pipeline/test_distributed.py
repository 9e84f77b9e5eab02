"""torchrun: two processes make one run, and what they plan and tune is what one process makes of it."""

import json
import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def both(folder, *words):
    """The run directories of the command with one process and with two, and what the two printed."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    two = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
    for start, name in (((sys.executable,), "one"), (two, "two")):
        command = (*start, "-m", "compress_export", *words, "--name", name)
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return folder / "runs" / "one", folder / "runs" / "two", done.stdout


@pytest.fixture
def words(net_file):
    return (
        f"{net_file}:build",
        "--input",
        "3x16x16",
        "--data",
        "digits",
        "--train",
        "4",
        "--set",
        "plan.costs=counted",
    )


def test_two_processes_plan_and_tune_the_run_of_one(tmp_path, words):
    more = (
        "--max-macs",
        "0.5x",
        "--epochs",
        "1",
        "--set",
        "fine_tune.distill=true",
        "--format",
        "onnx",
        "--set",
        "bench.cap=0.1",
    )
    one, two, said = both(tmp_path, *words, *more)
    assert " ".join(said.split()).count(": original and compressed") == 1  # the first process alone speaks
    assert rows(one / "losses.jsonl") == rows(two / "losses.jsonl") != []
    assert json.loads((one / "plan.json").read_text()) == json.loads((two / "plan.json").read_text())
    assert len(rows(one / "tuning.jsonl")) == len(rows(two / "tuning.jsonl"))
    first, second = (json.loads((run / "accuracy.json").read_text())["compressed"]["top1"] for run in (one, two))
    assert abs(first - second) < 2.5  # of 360 images; a thousand are compared in tests/compressor/test_process_group.py


def test_two_processes_share_the_probes_of_the_sensitivity_rule(tmp_path, words):
    one, two, _ = both(tmp_path, "plan", *words, "--set", "plan.rank_rule=sensitivity", "--max-params", "0.5x")
    assert rows(one / "probes.jsonl") == rows(two / "probes.jsonl") != []
    assert json.loads((one / "plan.json").read_text()) == json.loads((two / "plan.json").read_text())
