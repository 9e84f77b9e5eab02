"""The names that `import compress_export` offers, and that offering them imports nothing heavy."""

import subprocess
import sys

import pytest

import compress_export

NAMES = [
    "Goal",
    "Plan",
    "Sharing",
    "compress",
    "export",
    "fine_tune",
    "make_plan",
    "measure",
    "plan_sharing",
    "report",
    "share",
    "survey",
]


def test_the_public_list_is_the_documented_one():
    assert sorted(compress_export.__all__) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_every_public_name_is_there_and_documented(name):
    assert getattr(compress_export, name).__doc__


def test_another_name_is_answered_with_the_list():
    with pytest.raises(AttributeError, match="compress_export has no 'prune'; it has Goal, Plan, Sharing, compress"):
        compress_export.prune  # noqa: B018  # looking it up is the test


def test_importing_costs_nothing():
    code = "import sys, compress_export; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
