import re
import subprocess
import sys

import pytest

from exporters.artifact import LIMITS, ExportError
from exporters.formats import FORMATS, TARGETS, check_dtype, find_format, find_target


def test_listing_the_formats_imports_no_toolkit():
    code = (
        "import sys, exporters.formats, exporters.artifact; "
        "print([name for name in ('torch', 'numpy', 'onnx', 'executorch', 'coremltools', 'jax', 'ai_edge_litert') "
        "if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_target_is_made_of_formats():
    assert TARGETS["android"] + TARGETS["ios"] == TARGETS["all"]
    assert set(TARGETS["all"]) == set(FORMATS)


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_is_found_by_its_suffix_and_names_its_packages(name):
    assert find_format(name).suffix == name
    assert "torch" in find_format(name).writer.REQUIRES


def test_an_unknown_format_is_answered_with_the_nearest():
    with pytest.raises(ExportError, match=r"there is no format 'onx'; did you mean onnx\? \(formats: pte, onnx, tfl"):
        find_format("onx")
    with pytest.raises(ExportError, match=r"no format 'caffe'; choose one of these \(formats: pte, onnx"):
        find_format("caffe")


def test_an_unknown_target_is_answered_with_the_nearest():
    assert find_target("ios") == ("mlpackage",)
    with pytest.raises(ExportError, match=r"there is no target 'andriod'; did you mean android\? \(targets: android,"):
        find_target("andriod")


@pytest.mark.skipif(sys.platform == "darwin", reason="on macOS the package is run")
def test_coreml_runs_on_macos_only():
    assert [name for name, kind in FORMATS.items() if not kind.runs_here] == ["mlpackage"]
    assert (FORMATS["mlpackage"].interpreted, FORMATS["pte"].interpreted) == ("interpreted, not Core ML", "")


@pytest.mark.parametrize("name", FORMATS)
def test_a_format_takes_a_number_type_or_says_why_not(name):
    kind = FORMATS[name]
    assert sorted((*kind.dtypes, *kind.refused)) == sorted(LIMITS)
    for dtype in kind.dtypes:
        check_dtype(name, dtype)
    for dtype, reason in kind.refused.items():
        with pytest.raises(ExportError, match=re.escape(f"{kind.title} files are not written in {dtype}: {reason}; ")):
            check_dtype(name, dtype)


def test_the_formats_that_take_the_type_are_the_cure():
    with pytest.raises(ExportError, match=r"end at PyTorch 2.1, before the .*; pass one of pte, onnx"):
        check_dtype("ptl", "int8")


def test_an_unknown_number_type_is_answered_with_the_nearest():
    with pytest.raises(
        ExportError, match=r"no number type 'float'; did you mean float\d\d .*\(number types: float32, "
    ):
        check_dtype("pte", "float")
