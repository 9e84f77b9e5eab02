"""The parts that account for a failure are named as what it is, with its unit: a layer may be called "4"."""

import pytest
from budget_runs import make_run, write_budgets

from bench.budgets.growth import MEASURES, Part
from bench.budgets.limits import QUANTITIES, parse_limit, read_budgets
from bench.budgets.verdicts import Verdict, check, culprits, remark

RUN = 'run = "run"\ndevice = "host"\n'


@pytest.fixture
def folder(tmp_path):
    """A folder with one run of a single compressed file."""
    make_run(tmp_path / "run", with_pte=False)
    return tmp_path


def one(folder, key, text):
    (verdict,) = check(read_budgets(write_budgets(folder, f'{RUN}{key} = "{text}"'))).verdicts
    return verdict


@pytest.mark.parametrize(
    ("quantity", "text", "said"),
    [
        ("latency", "1 ms", "largest MACs: layer 4 4,718,592, layer 8 2,359,296"),
        ("instructions", "1", "largest MACs: layer 4 4,718,592, layer 8 2,359,296"),
        ("macs", "1", "largest MACs: layer 4 4,718,592, layer 8 2,359,296"),
        ("parameters", "1", "largest parameters: layer 4 4,718,592, layer 8 2,359,296"),
        ("memory", "1 B", "largest weights: layer 4 4,718,592 bytes, layer 8 2,359,296 bytes"),
        ("size", "1 B", "largest parts: layer 4 4,718,592 bytes, layer 8 2,359,296 bytes"),
        ("shipped", "1 B", "largest undeflated parts: layer 4 4,718,592 bytes, layer 8 2,359,296 bytes"),
    ],
)
def test_what_accounts_for_a_failure_has_its_name_and_unit(quantity, text, said):
    parts = Part("4", 4_718_592, None), Part("8", 2_359_296, None)
    assert culprits(Verdict("failed", "a", 1, parse_limit(quantity, text), parts=parts)) == said


def test_every_quantity_that_layers_account_for_says_in_what():
    assert set(QUANTITIES) - set(MEASURES) == {"accuracy", "agreement", "metric"}


def test_memory_is_accounted_for_by_weights_and_size_by_the_whole_file(folder):
    assert [part.name for part in one(folder, "memory", "1 B").parts] == ["fc1", "fc2"]
    size = one(folder, "size", "1 B")
    assert sum(part.now for part in size.parts) == size.value
    assert "largest parts: layer fc1 4,800 bytes, layer fc2 4,000 bytes, graph and names " in remark(size, "b")


def test_weights_without_a_name_are_weights():
    verdict = Verdict("failed", "a", 1, parse_limit("size", "1 B"), parts=(Part("#3", 8, None),))
    assert culprits(verdict) == "largest parts: weight #3 8 bytes"
