"""Seconds of `compress-export check` on ten runs and ten files of 28 MB, start to exit:

pytest tests/benchmarks/bench_check.py --benchmark-enable
"""

import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))

from budget_runs import ten_of_each

SIDE = 2670
"""A square matrix of 28 MB, as the demo's compressed AlexNet weighs."""


@pytest.mark.parametrize("words", [[], ["--why"]])
def test_seconds_of_a_check(tmp_path, benchmark, words):
    ten_of_each(tmp_path, SIDE)
    command = [sys.executable, "-m", "compress_export", "check", *words]
    done = benchmark.pedantic(lambda: subprocess.run(command, cwd=tmp_path, check=False), rounds=5, warmup_rounds=1)
    assert done.returncode == 0
