"""Files of other number types under a budget: which are judged, what their accuracy is, and what they are held to."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from budget_runs import RANK, TINY, make_run, onnx_layers, shapes, with_int8, write_budgets

from bench.budgets.first_draft import draft
from bench.budgets.growth import layers_of
from bench.budgets.limits import read_budgets
from bench.budgets.model_files import of_file
from bench.budgets.verdicts import check
from bench.file_contents.contents import Contents, Weight

FILES = "run/artifacts/"
NEVER = (
    "this very file has not classified the run's test images; `compress-export export {}/run --format onnx`, where "
    "its runtime runs"
)


@pytest.fixture
def folder(tmp_path):
    """A folder with one run of a float32 and an int8 file of each network."""
    with_int8(make_run(tmp_path / "run", with_pte=False))
    return tmp_path


def verdicts(folder, table, base=None):
    return check(read_budgets(write_budgets(folder, table)), base).verdicts


RUN_ROWS = [
    ("", 'accuracy = "97 %"', [("run", "passed", 97.5), ("compressed", "passed", 97.0), ("int8", "failed", 96.0)]),
    ("int8", 'accuracy = "96 %"', [("int8", "passed", 96.0)]),
    ("float32", 'accuracy = "97.1 %"', [("compressed", "failed", 97.0)]),
    ("int8", 'parameters = "2200"\nagreement = "100 %"', [("run", "passed", 2200), ("int8", "passed", 100)]),
    ("int8", 'size = "1 B"', [("int8", "failed", "bytes")]),
    ("", 'agreement = "99 %"', [("compressed", "passed", 100), ("int8", "passed", 100)]),
]


@pytest.mark.parametrize(("dtype", "limits", "wanted"), RUN_ROWS)
def test_a_number_type_leaves_the_files_of_that_type(folder, dtype, limits, wanted):
    table = f'run = "run"\n{f"dtype = {dtype!r}" if dtype else ""}\n{limits}'
    names = {"run": "run", "compressed": f"{FILES}compressed.onnx", "int8": f"{FILES}compressed.int8.onnx"}
    size = (folder / names["int8"]).stat().st_size
    assert [(each.subject, each.outcome, each.value) for each in verdicts(folder, table)] == [
        (names[name], outcome, size if value == "bytes" else value) for name, outcome, value in wanted
    ]


@pytest.mark.parametrize(
    ("quantity", "reference"),
    [("accuracy", 98.0), ("size", "original.onnx")],
)
def test_the_original_of_an_int8_file_is_the_one_in_float32(folder, quantity, reference):
    (verdict,) = verdicts(folder, f'run = "run"\ndtype = "int8"\n{quantity} = "1x"')
    size = (folder / FILES / "original.onnx").stat().st_size
    assert verdict.reference == (reference if quantity == "accuracy" else size)


def test_the_accuracy_of_a_file_is_that_of_this_very_file(folder):
    rows = json.loads((folder / "run/accuracy.json").read_text())
    rows["compressed.int8.onnx"]["sha256"] = "00" * 32
    (folder / "run/accuracy.json").write_text(json.dumps(rows))
    whole = verdicts(folder, 'run = "run"\naccuracy = "90 %"')
    assert [each.subject for each in whole] == ["run", f"{FILES}compressed.onnx"]
    for table in ('run = "run"\ndtype = "int8"', f'files = "{FILES}compressed.int8.onnx"'):
        (verdict,) = verdicts(folder, f'{table}\naccuracy = "90 %"')
        assert (verdict.outcome, verdict.reason) == ("not measured", NEVER.format(folder))
    (folder / "run/accuracy.json").unlink()
    (verdict,) = verdicts(folder, f'files = "{FILES}compressed.onnx"\naccuracy = "90 %"')
    assert verdict.reason == "the run has no accuracy: it was made without --data"


def test_the_accuracy_of_a_file_is_held_to_the_base_on_as_many_images(tmp_path):
    now, base = tmp_path / "now", tmp_path / "base"
    for place, top1 in ((now, 96.0), (base, 96.5)):
        with_int8(make_run(place / "run", with_pte=False), top1=top1)
    table = 'run = "run"\ndtype = "int8"\naccuracy = ["-0.5 points", "-0.4 points"]'
    assert [(each.outcome, each.reference) for each in verdicts(now, table, base)] == [
        ("passed", 96.5), ("failed", 96.5),
    ]  # fmt: skip
    rows = json.loads((base / "run/accuracy.json").read_text())
    rows["compressed.int8.onnx"]["images"] = 1000
    (base / "run/accuracy.json").write_text(json.dumps(rows))
    said = "the base's file classified 1,000 test images, this one 200; export both with as many"
    assert {(each.outcome, each.reason) for each in verdicts(now, table, base)} == {("not measured", said)}
    rows = json.loads((now / "run/accuracy.json").read_text())
    rows["original.onnx"]["images"] = 50
    (now / "run/accuracy.json").write_text(json.dumps(rows))
    (verdict,) = verdicts(now, 'run = "run"\ndtype = "int8"\naccuracy = "0.9x"')
    said = "the original's file classified 50 test images, this one 200; export both with as many"
    assert (verdict.outcome, verdict.reason) == ("not measured", said)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('run = "run"\ndtype = "float16"', "run has no file in float16 (float32, int8 only): this budget guards"),
        (f'files = "{FILES}compressed.onnx"\ndtype = "int8"', "compressed.onnx has no file in int8 (float32 only)"),
        ('files = "*.bin"\ndtype = "int8"', "*.bin has no file in int8: this budget guards nothing; make one ("),
        ('files = "nothing"\ndtype = "int8"', "nothing matches nothing: this budget guards nothing; make the"),
    ],
)  # fmt: skip
def test_a_budget_without_a_file_of_its_type_fails(folder, table, said):
    (folder / "a.bin").write_bytes(b"no reader knows it")
    (verdict,) = verdicts(folder, f'{table}\nsize = "1 GB"')
    assert (verdict.outcome, verdict.limit) == ("failed", None)
    assert said in verdict.reason


def test_the_type_of_a_file_that_no_run_recorded_is_read_in_it(folder):
    for name in ("compressed.onnx", "compressed.int8.onnx"):
        shutil.copy(folder / FILES / name, folder / name)
    shutil.copy(TINY, folder / "tiny.pte")
    (folder / "short.pte").write_bytes(TINY.read_bytes()[:100])
    found = {
        dtype: [each.subject for each in verdicts(folder, f'files = "*.*"\ndtype = "{dtype}"\nsize = "1 GB"')]
        for dtype in ("float32", "int8")
    }
    # one that is cut short may be of any type, and fails under each
    assert found == {
        "float32": ["compressed.onnx", "short.pte", "tiny.pte"],
        "int8": ["compressed.int8.onnx", "short.pte"],
    }


def weight(dtype, *shape):
    size = int(np.prod(shape)) * (4 if "32" in dtype else 8 if "64" in dtype else 1)
    return Weight("w", dtype, shape, size, Path("f"), None)


@pytest.mark.parametrize(
    ("weights", "dtype"),
    [
        ([weight("qint8 by channel", 4, 3), weight("qint32 by channel", 400)], "int8"),
        ([weight("int8", 4, 3), weight("float32", 400), weight("int64", 99, 99)], "int8"),
        ([weight("float32", 9, 9), weight("qint8", 4, 3)], "float32"),
        ([weight("float16", 9, 9)], "float16"),
        ([weight("uint8", 9, 9), weight("float32", 2, 2)], "uint8"),  # indices into a codebook
        ([], ""),
    ],
)
def test_a_file_has_the_type_of_most_of_its_kernels(weights, dtype):
    assert Contents(1, tuple(weights)).number_type == dtype


def test_a_draft_with_int8_files_holds_at_once(folder):
    text = draft(folder / "run", folder)
    (folder / "budgets.toml").write_text(text)
    found = check(read_budgets(folder / "budgets.toml"), folder)
    assert {each.outcome for each in found.verdicts} == {"passed"}
    # the run's limit is judged on its files too, so the least of them counts
    assert text.count('accuracy = "95.5 %"  # 96 %') == 2
    assert 'accuracy = "96.5 %"  # 97 %' in text
    assert f'files = "{FILES}compressed.int8.onnx"' in text


def test_quantized_kernels_without_a_name_are_told_by_shape_and_place(tmp_path):
    """fc2 stays in float and keeps its name; of fc1, in int8, the bias alone does."""
    path = make_run(tmp_path / "run", with_pte=False) / "artifacts/compressed.onnx"
    first, second, third = shapes(RANK).items()
    named = {"p0": first[1], "p1": second[1], "p1_scale": (100,), "fc1.1.bias_quantized": (100,), third[0]: third[1]}
    onnx_layers(path, named, np.int8)
    assert layers_of(of_file(path, "a")) == ["fc1", "fc1", "p1_scale", "fc1", "fc2"]
