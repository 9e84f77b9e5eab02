from importlib.metadata import version

import pytest

from exporters.artifact import ExportError
from exporters.toolkits import reason, versions


def test_versions_are_those_installed():
    assert versions(["onnx", "torch"]) == {"onnx": version("onnx"), "torch": version("torch")}


def test_a_missing_toolkit_is_a_sentence_with_the_command():
    expected = r"no-such-kit is not installed; install it: python -m pip install no-such-kit$"
    with pytest.raises(ExportError, match=expected):
        versions(["torch", "no-such-kit"])


def test_the_reason_is_the_first_line_of_the_root_cause():
    cause = KeyError("no function for aten.svd")
    error = RuntimeError("\x1b[96mfailed\x1b[0m")
    assert reason(error) == "failed"
    error.__cause__ = cause
    assert reason(error) == "'no function for aten.svd'"
    assert reason(ValueError("\n  too long.\nsecond line")) == "too long"
    assert reason(ValueError()) == "ValueError"
