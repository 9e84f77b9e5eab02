"""Verdicts on times that are not to be trusted: what still passes, what fails with a remark, what is not measured."""

import json

import pytest
from budget_runs import disturbed, invalid, make_run, write_budgets

from bench.budgets.limits import read_budgets
from bench.budgets.verdicts import cells, check, remark

RUN = 'run = "run"\ndevice = "host"\n'


@pytest.fixture
def folder(tmp_path):
    """A folder with one run of a single compressed file."""
    make_run(tmp_path / "run", with_pte=False)
    return tmp_path


def one(folder, key, text, base=None):
    (verdict,) = check(read_budgets(write_budgets(folder, f'{RUN}{key} = "{text}"')), base).verdicts
    return verdict


UNSTEADY = "its times are not steady: other processes took the core from it 208 times a second; p90 is 2.00 times p50"


def test_times_that_are_not_steady_are_judged_and_marked(folder):
    disturbed(folder / "run", names=["compressed"])
    kept, beyond = one(folder, "latency", "5 ms"), one(folder, "latency", "4.9 ms")
    assert (kept.outcome, cells(kept)[0]) == ("passed", "5.00 ms, not steady")
    assert kept.unsteady == beyond.unsteady == tuple(UNSTEADY.partition(": ")[2].split("; "))
    assert remark(beyond, "budgets.toml") == (
        f"0.10 ms too much (2 %) (budgets.toml:4); {UNSTEADY}; measure again; "
        "largest MACs: layer fc1 1,200, layer fc2 1,000"
    )
    assert one(folder, "latency", "0.5x").outcome == "passed"  # the original's times are steady
    assert one(folder, "memory", "1 GB").unsteady == ()


def test_a_limit_that_comes_from_times_that_are_not_steady_lets_nothing_pass(folder):
    disturbed(folder / "run", preemptions=100, names=["original"])
    kept, beyond = one(folder, "latency", "0.5x"), one(folder, "latency", "0.49x")
    assert (kept.outcome, kept.value, beyond.outcome) == ("not measured", 5.0, "failed")
    assert kept.reason == (
        "the limit comes from the original, and its times are not steady: other processes took the core from it 52 "
        "times a second; p90 is 2.00 times p50; measure again"
    )
    assert one(folder, "latency", "5 ms").outcome == "passed"


def test_a_base_whose_times_are_not_steady_lets_nothing_pass(tmp_path):
    for name in ("head", "base"):
        make_run(tmp_path / name / "run", with_pte=False)
    disturbed(tmp_path / "base/run", preemptions=3)
    verdict = one(tmp_path / "head", "latency", "+10 %", tmp_path / "base")
    assert (verdict.outcome, verdict.reason) == (
        "not measured",
        "the limit comes from the base, and its times are not steady: p90 is 2.00 times p50; measure again",
    )


def test_invalid_times_are_not_measured_and_their_memory_is(folder):
    invalid(folder / "run")
    verdict = one(folder, "latency", "1 s")
    assert (verdict.outcome, verdict.value) == ("not measured", None)
    assert verdict.reason == "its times are invalid: let the phone cool; measure again"
    assert one(folder, "memory", "1 GB").outcome == "passed"


def test_an_original_whose_times_are_invalid_gives_no_ratio(folder):
    lines = (folder / "run/measurements.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    rows[0]["invalid"] = "let the phone cool"
    (folder / "run/measurements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    verdict = one(folder, "latency", "0.5x")
    assert verdict.reason == "the original: its times are invalid: let the phone cool; measure again"
