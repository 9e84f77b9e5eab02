"""Files in another number type in a report: beside which file they stand, and when one lost too much."""

import re
from pathlib import Path

import pytest

from bench.run_files import FileAccuracy
from compress_export.reporting import figures, notes
from compress_export.reporting.model import FileRow, FormatRow
from exporters.artifact import Artifact, LayerType, Quantization

LABELS = 200


def file(network, size, right):
    """A file that classifies the first `right` of 200 images correctly; None: it has classified none."""
    artifact = Artifact(Path(f"{network}.pte"), network, "pte", size, network, "float32", (1, 3, 8, 8), {})
    correct = tuple(number < (right or 0) for number in range(LABELS))
    top1 = 100 * sum(correct) / LABELS
    accuracy = FileAccuracy(top1, top1, LABELS - (right or 0), LABELS, network, tuple(map(int, correct)), correct)
    return FileRow(artifact, None, None, None, accuracy=accuracy if right is not None else None)


def rows(right, int8_right):
    """The float32 row of a format, and its int8 row."""
    floats = [file(name, size, right) for name, size in (("original", 4000), ("compressed", 2000))]
    int8 = [file(f"{name}.int8", size, int8_right) for name, size in (("original", 1000), ("compressed", 500))]
    return FormatRow("pte", *floats, None), FormatRow("pte", *int8, None, "int8", floats[0])


def entry(noise):
    layers = [LayerType(name, "int8", "", value) for name, value in (("a", 40.0), ("b", 12.0), ("c", 9.0))]
    return {
        name: Quantization(64, 64, "photographs", noise, tuple(layers)) for name in ("original.int8", "compressed.int8")
    }


@pytest.mark.parametrize(
    ("right", "int8_right", "noise", "expected"),
    [
        (180, 174, 30.0, None),  # 3 points
        (180, 166, 30.0, r"original.int8.pte: int8 costs 7.00 points of top-1 \(90.00 to 83.00 %\); the outputs of b"),
        (180, 166, 1.0, "lose most; ship original.pte"),
        (
            None,
            None,
            2.0,
            r"its outputs \(a signal-to-noise ratio of 2.0 dB\); the outputs of b lose most; ship",
        ),
        (None, None, 3.5, None),
    ],
)
def test_a_file_that_lost_too_much_is_not_to_be_shipped(right, int8_right, noise, expected):
    found = notes.ruined_files(rows(right, int8_right), entry(noise))
    if expected is None:
        assert found == ()
    else:
        assert len(found) == 2
        assert re.search(expected, found[0])


def test_a_row_compares_with_the_file_of_the_same_type_and_with_float32():
    floats, int8 = rows(180, 176)
    assert (floats.title, int8.title) == ("pte", "pte int8")
    assert (floats.before.name, int8.before.name) == ("original.pte", "original.pte")
    assert int8.bytes.smaller == 2
    report = type("Report", (), {"formats": (floats, int8), "unwritten": {}})
    cells = {row[0]: row[1:] for row in figures.format_rows(report)}
    assert cells[".pte size"] == ("4.0 kB", "2.0 kB", "2.00x smaller")
    assert cells[".pte int8 size"] == ("1.0 kB", "0.5 kB", "2.00x smaller; 8.00x smaller than original.pte")
    assert cells[".pte int8 top-1"] == ("88.00 %", "88.00 %", "24 of 200 flipped")


def test_layers_in_float32_are_named_with_their_reason():
    layers = (LayerType("a", "int8"), LayerType("b", "float32", "asked for"))
    found = notes.quantization_notes({"compressed.int8": Quantization(512, 60, "the validation split", 21.34, layers)})
    assert found == [
        "compressed.int8: 1 of 2 layers compute in int8, calibrated on 60 images of the validation split, where the "
        "logits' signal-to-noise ratio is 21.3 dB; in float32: b (asked for)."
    ]
