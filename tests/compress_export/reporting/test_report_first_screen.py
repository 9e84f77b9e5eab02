"""The first screen of a report: what became worse stands among the losses, and times of a busy machine are marked."""

import io
import json
from dataclasses import replace
from pathlib import Path

from bench_rows import measurement, simulated
from page_text import Elements, words
from report_runs import PHONE, counted, disturbed, report_run
from rich.console import Console

from bench.measurement import Schedule
from compress_export.reporting.commands import bench_command
from compress_export.reporting.gather import gather
from compress_export.reporting.html import cards
from compress_export.reporting.markdown import escape
from compress_export.reporting.pages import write_pages
from compress_export.reporting.terminal import show
from compress_export.run_directory import RunDirectory


def test_a_figure_that_became_worse_stands_among_the_losses(tmp_path):
    path = report_run(tmp_path / "net", ms=20.0)
    gains, losses = cards(gather(RunDirectory(path)))
    assert ".onnx latency, p50" not in [card.label for card in gains]
    (slower,) = [card for card in losses if "latency" in card.label]
    assert slower.headline == "2.00x slower"
    assert slower.ratio == 2


def test_latency_that_nobody_measured_says_why(tmp_path):
    path = report_run(tmp_path / "net")
    (path / "measurements.jsonl").unlink()
    _, losses = cards(gather(RunDirectory(path)))
    (card,) = [card for card in losses if card.label == "latency"]
    assert (card.headline, card.note) == ("not measured", f"`compress-export bench {path}` measures it")


def test_a_run_that_was_only_counted_shows_its_instructions_and_where_its_times_would_come_from(tmp_path):
    path = counted(report_run(tmp_path / "net"), timed=False)
    gains, losses = cards(gather(RunDirectory(path)))
    (card,) = [card for card in gains if "instructions" in card.label]
    assert (card.label, card.headline) == (".onnx instructions", "4.00x fewer")
    assert (card.before, card.after, card.ratio) == ("4,000", "1,000", 0.25)
    assert card.note == "counted on simulated cortex-a76, no time"
    (card,) = [card for card in losses if card.label == "latency"]
    assert (card.headline, card.note) == (
        "not measured",
        "the files were counted on the simulated cortex-a76, see Instructions; "
        f"`compress-export bench {path} --device host` measures it",
    )


def test_more_instructions_stand_among_the_losses_and_cores_are_named(tmp_path):
    path = counted(counted(report_run(tmp_path / "net")), (1000, 2000), "cortex-a53")
    counted(path, (1000, 4000), "cortex-a55")
    gains, losses = cards(gather(RunDirectory(path)))
    assert [card.headline for card in gains if "instructions" in card.label] == ["4.00x fewer"]
    (card,) = [card for card in losses if "instructions" in card.label]
    assert (card.headline, card.ratio) == ("2.00x more", 2)
    assert card.note == "counted on simulated cortex-a53, no time; .onnx on simulated cortex-a55 4.00x more"
    assert ".onnx latency, p50" in [card.label for card in gains]


def test_counts_of_different_programs_make_no_card(tmp_path):
    path = counted(report_run(tmp_path / "net"))
    rows = [json.loads(line) for line in (path / "measurements.jsonl").read_text().splitlines()]
    rows[-1]["emulator"] = "QEMU 8"
    (path / "measurements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert not [card for side in cards(gather(RunDirectory(path))) for card in side
                if "instructions" in card.label]  # fmt: skip


def test_the_command_that_measures_again_names_the_device_the_process_and_the_schedule():
    row = replace(measurement(), schedule=Schedule(threads=2, cap_seconds=3.0))
    app = replace(PHONE, process="app")
    assert bench_command(Path("runs/my net"), app, [row]) == (
        "compress-export bench 'runs/my net' --device phone --in app --threads 2 --set bench.cap=3"
    )
    assert bench_command(Path("runs/net"), PHONE, []) == "compress-export bench runs/net --device phone"
    assert bench_command(Path("runs/net"), None, [simulated()]) == "compress-export bench runs/net --device host"
    assert bench_command(Path("runs/net"), None, []) == "compress-export bench runs/net"


def twice(row, size=1.0, ratio=1.0, memory=1.0):
    """Another format whose compressed file has so many times the bytes, time and memory of the original's."""
    artifact, kb = row.compressed.artifact, row.original.memory_kb
    grown = replace(artifact, bytes=round(size * row.original.artifact.bytes))
    compressed = replace(row.compressed, artifact=grown, memory_kb=round(memory * kb))
    return replace(row, format="pte", compressed=compressed, ratio=replace(row.ratio, value=ratio))


def test_a_format_that_went_the_other_way_stands_among_the_losses(tmp_path):
    path = report_run(tmp_path / "net")
    summary = gather(RunDirectory(path))
    (row,) = summary.formats
    row = replace(row, compressed=replace(row.compressed, memory_kb=row.original.memory_kb // 2))
    gains, losses = cards(replace(summary, formats=(row, twice(row, size=2, ratio=2, memory=1.25))))
    assert {card.label: card.headline for card in losses if ".pte" in card.label} == {
        ".pte size": "2.00x larger", ".pte latency, p50": "2.00x slower", ".pte peak memory": "1.25x larger",
    }  # fmt: skip
    (memory,) = [card for card in gains if "memory" in card.label]
    assert (memory.label, memory.headline, memory.note) == (".onnx peak memory", "2.00x smaller", "")
    assert not any(".pte" in card.note for card in gains)
    gains, losses = cards(replace(summary, formats=(row, twice(row, memory=0.25))))
    assert [card.note for card in gains if "memory" in card.label] == [".pte 4.00x smaller"]
    assert not any("memory" in card.label for card in losses)


def test_a_busy_machine_is_said_in_every_place_that_tells_times(tmp_path):
    path = disturbed(report_run(tmp_path / "net"))
    write_pages(RunDirectory(path))
    again = f"compress-export bench {path} --device host"
    told = (
        f"Taken on a busy machine: the times of 2 of 2 files are not steady (see Notes); measure again with `{again}`"
    )
    text = words(Elements((path / "report.html").read_text()).text)
    assert text.index(told) < text.index("Remaining parameters")
    assert f"**{escape(told.partition('`')[0])} `{again}`.**" in (path / "report.md").read_text()
    found = json.loads((path / "report.json").read_text())["files"]
    assert found[0]["latency"]["unsteady"] == [
        "other processes took the core from it 104 times a second", "p90 is 2.00 times p50",
    ]  # fmt: skip
    printed = Console(file=io.StringIO(), width=400)
    show(gather(RunDirectory(path)), printed)
    lines = printed.file.getvalue().splitlines()
    assert told in lines
    assert "note: original.onnx: its times are not steady: other processes took the core from it 104 times a second; " \
        "p90 is 2.00 times p50; measure again" in lines  # fmt: skip


def test_unsteady_times_are_told_where_no_process_took_the_core(tmp_path):
    path = disturbed(report_run(tmp_path / "net"), preemptions=3, names=["compressed"])
    gains, _ = cards(gather(RunDirectory(path)))
    (card,) = [card for card in gains if "latency" in card.label]
    told = "The times of 1 of 2 files are not steady (see Notes); measure again with "
    assert card.warning == f"{told}`compress-export bench {path} --device host`"


def test_steady_times_have_no_warning(tmp_path):
    run = report_run(tmp_path / "net")
    write_pages(RunDirectory(run))
    gains, losses = cards(gather(RunDirectory(run)))
    assert {card.warning for card in (*gains, *losses)} == {""}
    assert "not steady" not in (run / "report.md").read_text()


def test_invalid_times_are_not_measured_and_say_why(tmp_path):
    path = report_run(tmp_path / "net")
    lines = (path / "measurements.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"invalid": "let the phone cool"} for line in lines]
    (path / "measurements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, losses = cards(gather(RunDirectory(path)))
    (card,) = [card for card in losses if card.label == "latency"]
    assert (card.headline, card.note) == ("not measured", "invalid: let the phone cool")
    note = "original.onnx: its times are invalid: let the phone cool; measure again with "
    assert f"{note}`compress-export bench {path} --device host`" in gather(RunDirectory(path)).notes
    write_pages(RunDirectory(path))
    file = json.loads((path / "report.json").read_text())["files"][1]
    assert (file["latency"], file["not_measured"]) == (None, "times are invalid: let the phone cool")
    assert file["memory"]["end"]["peak"] == 391_000
    assert "| compressed.onnx (invalid) |  |" in (path / "report.md").read_text()
    assert 'id="latency"' not in (path / "report.html").read_text()
