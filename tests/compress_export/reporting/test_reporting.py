"""Figures, escaping and tables of the report, and files that were changed; the whole is read in test_pipeline."""

import io
import json

import pytest
from page_text import Elements, words
from report_runs import edit, report_run
from rich.console import Console

from bench.statistics import Ratio
from compress_export.reporting import figures
from compress_export.reporting.gather import gather
from compress_export.reporting.markdown import _with_code, escape, table
from compress_export.reporting.model import Epoch, NetworkAccuracy, Pair
from compress_export.reporting.notes import failures, kept_notes, tuning_notes
from compress_export.reporting.pages import write_pages
from compress_export.reporting.terminal import show
from compress_export.run_directory import RunDirectory
from exporters.artifact import Artifact, Parity, size_and_sha256, size_in_bytes


@pytest.mark.parametrize(
    ("value", "text"), [(61_100_840, "61.10M"), (999_999, "1000.0k"), (23_296, "23.3k"), (9_999, "9,999"), (0, "0")]
)
def test_counts(value, text):
    assert figures.count(value) == text


def test_sizes_are_decimal():
    assert figures.size(228_188_072) == "228.19 MB"
    assert figures.size(41_512) == "41.5 kB"


def accuracy(right, images=100):
    """The accuracy of a network that has the first `right` of the images right."""
    correct = tuple(index < right for index in range(images))
    return NetworkAccuracy(100 * right / images, 100.0, correct, (0,) * images)


def test_tuning_that_made_the_network_worse_is_told_where_the_images_tell():
    worse = {"original": accuracy(99), "untuned": accuracy(90), "compressed": accuracy(84)}
    assert tuning_notes(worse) == [
        "Fine-tuning made the network worse: top-1 was 90.00 % before it and is 84.00 % (McNemar's p 0.03); try a "
        "smaller fine_tune.rate, or fine_tune.distill, or leave it out with --epochs 0."
    ]
    assert tuning_notes({**worse, "compressed": accuracy(85)}) == []  # five images, p 0.06
    assert tuning_notes({**worse, "compressed": accuracy(95)}) == []
    assert tuning_notes({**worse, "unshared": accuracy(91)}) == []  # what sharing lost is not tuning's
    assert tuning_notes({"original": accuracy(99), "compressed": accuracy(84)}) == []


BEST = "Of the 2 epochs of fine-tuning the best on the validation split is kept: the network "


@pytest.mark.parametrize(
    ("course", "kept", "note"),
    [
        ((98.6, 96.7, 96.7), (1, 0, 0), f"{BEST}before fine-tuning (98.60 %; after the last it was 96.70 %)."),
        ((90.0, 97.1, 96.7), (1, 1, 0), f"{BEST}after epoch 1 (97.10 %; after the last it was 96.70 %)."),
        (
            (97.67, 97.21, 98.14),
            (1, 0, 0),
            "The network before fine-tuning is kept: it had lost nothing on the validation split (97.67 %), and the "
            "best of the 2 epochs of fine-tuning (98.14 %) is better by no more than chance.",
        ),
        ((98.6, 96.7, 98.6), (1, 0, 1), None),
        ((98.6, 96.7, 96.7), (1, 1, 1), None),
    ],
)
def test_which_epoch_was_kept_is_told_where_it_is_not_the_last(course, kept, note):
    after = [
        Epoch(1, "b", n, None, top1, bool(stays)) for n, (top1, stays) in enumerate(zip(course, kept, strict=True))
    ]
    assert kept_notes([Epoch(0, "a", 0, None, 99.0), *after]) == ([] if note is None else [note])
    assert kept_notes([]) == []


def test_a_command_at_the_end_of_a_sentence_stays_code():
    assert _with_code("a_b: see `run my_net`") == f"{escape('a_b: see')} `run my_net`"
    assert _with_code("a: `run a`b`") == escape("a: `run a`b`")


def test_top_5_of_few_classes_is_left_out(tmp_path):
    path = report_run(tmp_path / "net")
    assert gather(RunDirectory(path)).accuracy.top5 is not None
    edit(path, "network.json", lambda value: value | {"outputs": 5})
    write_pages(RunDirectory(path))
    assert gather(RunDirectory(path)).accuracy.top5 is None
    assert not [page for page in ("report.md", "report.html") if "top-5" in (path / page).read_text()]


def test_the_originals_accuracy_alone_is_not_yet_a_comparison(tmp_path):
    path = report_run(tmp_path / "net")
    edit(path, "accuracy.json", lambda value: {"original": value["original"]})
    summary = gather(RunDirectory(path))
    assert (summary.accuracy, "Accuracy was not measured yet." in summary.notes) == (None, True)


def test_smaller_and_larger():
    assert figures.smaller(Pair(100, 25)) == "4.00x smaller"
    assert figures.smaller(Pair(100, 125)) == "1.25x larger"


def test_a_time_ratio_is_told_with_its_interval_the_right_way_round():
    assert figures.faster(Ratio(0.25, 0.2, 0.5, 8)) == "4.00x faster (2.00 to 5.00)"
    assert figures.faster(Ratio(2.0, 1.6, 2.5, 8)) == "2.00x slower (1.60 to 2.50)"
    assert figures.faster(Ratio(0.5, None, None, 3)) == "2.00x faster"
    assert figures.faster(None) == "not measured"


def test_text_from_outside_stays_text():
    assert escape("a|b <script>\n[x](y) &#35; `c` *d* e_f") == (
        "a&#124;b &#60;script&#62; &#91;x&#93;(y) &#38;#35; &#96;c&#96; &#42;d&#42; e_f"
    )


def test_columns_of_figures_are_right_aligned():
    text = table(figures.Table(("name", "bytes", "why"), [("a", "12", "slow"), ("b", "", "7 reasons")]))
    assert text.splitlines() == [
        "| name | bytes | why |",
        "| --- | --: | --- |",
        "| a | 12 | slow |",
        "| b |  | 7 reasons |",
    ]


def artifact(tmp_path, not_delegated=(), parity=None):
    path = tmp_path / "compressed.pte"
    return Artifact(path, "compressed", "pte", 10, "0" * 64, "float32", (1, 3, 8, 8), {}, not_delegated, (), parity)


def test_a_layer_that_was_not_delegated_fails_by_name(tmp_path):
    (failure,) = failures([artifact(tmp_path, ("features.3",))])
    assert failure.startswith("compressed.pte: features.3 would run outside XNNPACK")


def test_answers_that_differ_fail_with_the_figures(tmp_path):
    parity = Parity(True, 32, 0.5, 0.31, 0.9, 30 / 32)
    (failure,) = failures([artifact(tmp_path, (), parity)])
    assert "compressed.pte does not match the PyTorch model: relative error 3.1e-01, top-1 agreement 93.8 %" in failure


def test_answers_that_agree_do_not_fail(tmp_path):
    assert failures([artifact(tmp_path, (), Parity(True, 32, 1e-6, 1e-6, 1.0, 1.0))]) == ()


def pages(path):
    """(summary, terminal, text of report.html, report.md, files of report.json) of the run."""
    summary, printed = write_pages(RunDirectory(path)), Console(file=io.StringIO(), width=200)
    show(summary, printed)
    html = words(Elements((path / "report.html").read_text()).text)
    found = json.loads((path / "report.json").read_text())
    return summary, printed.file.getvalue(), html, (path / "report.md").read_text(), found["files"]


def test_a_file_that_was_cut_short_is_not_certified(tmp_path):
    path = report_run(tmp_path / "net")
    file = path / "artifacts/compressed.onnx"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:1000])
    summary, terminal, html, markdown, files = pages(path)
    told = f"it is not the file that artifacts.json records: 1,000 bytes, {size:,} recorded; export it again"
    assert summary.failures == (f"compressed.onnx: {told}",)
    assert f"failed: compressed.onnx: {told}" in terminal
    assert f"✗ Do not ship this. compressed.onnx: {told}" in html
    assert f"## Failed\n\n- compressed.onnx: {told}" in markdown
    assert [(row["verdict"], row["altered"]) for row in files] == [("passed", None), ("changed", told)]


@pytest.mark.parametrize(("name", "mark"), [("compressed", "✗"), ("original", "✓")])
def test_a_file_that_was_moved_away_is_a_note(tmp_path, name, mark):
    path = report_run(tmp_path / "net")
    (path / f"artifacts/{name}.onnx").unlink()
    summary, terminal, html, markdown, files = pages(path)
    told = f"{name}.onnx: the run recorded it, and it is gone; export it again"
    assert summary.failures == ()
    assert f"note: {told}" in terminal
    assert f"{mark} 1 of 2 files match the PyTorch model; 1 no longer there (see Notes)." in html
    assert f"- {told}" in markdown
    assert {row["verdict"] for row in files} == {"passed", "gone"}


def test_an_interpreted_file_is_marked_wherever_its_parity_stands(tmp_path):
    path = report_run(tmp_path / "net")
    rows = json.loads((path / "artifacts.json").read_text())
    for row in rows:
        row["parity"]["interpreter"] = "interpreted, not Core ML"
    (path / "artifacts.json").write_text(json.dumps(rows))
    _, terminal, html, markdown, files = pages(path)
    for page in (terminal, html, markdown):
        assert "of 32 (interpreted, not Core ML)" in page
    assert (
        "All 2 files match the PyTorch model (32 images); 2 interpreted, their runtime is not on this system." in html
    )
    assert "images; interpreted, not Core ML" in html, "the card of the largest error"
    assert [row["parity"]["interpreter"] for row in files] == ["interpreted, not Core ML"] * 2


def test_a_package_is_weighed_as_a_whole(tmp_path):
    package = tmp_path / "a.mlpackage"
    (package / "Data").mkdir(parents=True)
    (package / "Data/weights.bin").write_bytes(bytes(70))
    (package / "Manifest.json").write_bytes(bytes(7))
    assert size_in_bytes(package) == size_and_sha256(package)[0] == 77
