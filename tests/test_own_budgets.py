"""The project holds itself to its own budgets.toml: the wheel, its import, and the demo's files."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bench.budgets.limits import read_budgets

ROOT = Path(__file__).resolve().parents[1]
OWN = ROOT / "budgets.toml"
LAX = "the limit comes from the original, and its times are not steady"
"""The reason that a ratio of times is not measured beside other tests; nothing else may lack a figure."""


def test_the_budgets_can_be_read_and_guard_what_they_should():
    wheel, demo, *counted = read_budgets(OWN).budgets
    assert {limit.quantity for limit in wheel.limits} == {"size", "latency", "memory"}
    assert {"size", "parameters", "accuracy", "agreement"} <= {limit.quantity for limit in demo.limits}
    assert [[limit.quantity for limit in budget.limits] for budget in counted] == [["instructions"]] * 2


@pytest.mark.slow
def test_the_budgets_hold(demo, runner):
    assert runner.exists()
    for name in ("own", "counted"):
        subprocess.run([sys.executable, ROOT / "results" / f"{name}.py", demo / "runs" / name], check=True)
    shutil.copy(OWN, demo / "own.toml")
    words = [sys.executable, "-m", "compress_export", "check", "--budgets", "own.toml", "--base", ".", "--json"]
    done = subprocess.run(words, cwd=demo, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(done.stdout)
    assert [v["outcome"] for v in found["verdicts"] if v["quantity"] == "instructions"] == ["passed"] * 2
    lacking = [v for v in found["verdicts"] if v["outcome"] == "not measured"]
    assert all(v["quantity"] == "latency" and v["reason"].startswith(LAX) for v in lacking), lacking
