"""The counts of simulated cores in the report: apart from times, and compared only where they can be."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from bench.measurement import Allocations, Counts, Device, Simulated, Traffic
from bench.simulator.latency_estimate import read_models
from compress_export.cli import doctor
from compress_export.reporting import figures
from compress_export.reporting.gather import file_row
from compress_export.reporting.model import FileRow, FormatRow
from compress_export.reporting.notes import estimate_notes
from exporters.artifact import Artifact, Parity


def artifact(network):
    return Artifact(Path(f"{network}.pte"), network, "pte", 100, network[0] * 64, "float32", (1, 3, 8, 8), {})


def row(network, vector, core="cortex-a76", note=""):
    return Simulated(
        network=network,
        format="pte",
        sha256=network[0] * 64,
        bytes=100,
        device=Device("simulated", f"simulated {core}", core, 1, "QEMU"),
        runtime="ExecuTorch",
        runtime_version="1.5.1",
        emulator="QEMU 7.2.22, counter 0123",
        input_shape=(1, 3, 8, 8),
        images=4,
        load=Counts(0, 0, 0, 0, 20_710_000, 0, 0),
        first=Counts(vector, 0, 0, 0, 0, 0, 0),
        run=Counts(vector, 200, 100, 50, 50, 33_040_000, 1_700_000),
        traffic=Traffic(64, 1000, 100_000, 0),
        memory=Allocations(1000, 2000, 0),
        parity=Parity(True, 4, 0.0, 0.0, 1.0, 1.0),
        measured_at="2026-11-20T13:00:00+00:00",
        note=note,
    )


def form(first, last):
    files = [FileRow(artifact(name), None, None, None, rows) for name, rows in (("original", first), ("small", last))]
    return FormatRow("pte", *files, None)


def test_the_newest_row_of_each_core_is_told_and_no_time_is_made_of_it():
    old, new, other = row("original", 1), row("original", 2), row("original", 3, "cortex-a53")
    found = file_row(artifact("original"), [old, new, other, row("small", 4)], altered="")
    assert found.simulated == (new, other)
    assert (found.row, found.statistics, found.memory_kb) == (None, None, None)


def closing_rows(both):
    """Lines of the closing table on instructions."""
    return [
        row for row in figures.format_rows(SimpleNamespace(formats=(both,), unwritten={})) if "instructions" in row[0]
    ]


def test_the_closing_table_has_a_line_for_each_core_that_counted_both():
    rows = closing_rows(form((row("original", 3600), row("original", 1, "cortex-a53")), (row("small", 600),)))
    assert rows == [(".pte instructions, cortex-a76", "4,000", "1,000", "4.00x fewer")]


@pytest.mark.parametrize(
    ("last", "text"),
    [
        (row("small", 7600), "2.00x more"),
        (replace(row("small", 600), emulator="QEMU 8"), "not comparable: counted with different programs"),
        (replace(row("small", 600), runtime_version="1.6"), "not comparable: counted with different programs"),
    ],
)
def test_a_change_is_told_where_it_can_be(last, text):
    assert closing_rows(form((row("original", 3600),), (last,)))[0][3] == text


def test_the_page_has_a_row_for_each_file():
    both = form((row("original", 3600),), (replace(row("small", 600), traffic=None),))
    table = figures.instructions_table(SimpleNamespace(formats=(both,), unwritten={}), "simulated cortex-a76")
    first, last = (dict(zip(table.head, cells, strict=True)) for cells in table.rows)
    assert first == {
        "file": "original.pte",
        "instructions": "4,000",
        "change": "",
        "vector": "90.0 %",
        "load": "5.0 %",
        "store": "2.5 %",
        "branch": "1.2 %",
        "other": "1.2 %",
        "to load the file": "20.71M",
        "bytes read": "33.04 MB",
        "bytes written": "1.70 MB",
        "to and from memory": "6.40 MB",
        "peak allocated": "1.02 MB",
        "outputs against this machine's": "cosine 1.0000000; same class 4 of 4",
    }
    assert (last["change"], last["to and from memory"]) == ("4.00x fewer", "not recorded")


def test_the_doctor_names_what_the_simulator_lacks(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    finding = next(each for each in doctor.findings_here() if each.ability == "count on a simulated ARM CPU")
    assert (finding.ready, finding.needed, finding.cure) == (False, False, "make runner")
    assert "qemu-aarch64 is missing" in finding.found


def test_an_estimate_says_what_it_is_of_and_how_far_such_estimates_were_off():
    shape = {"kind": "conv", "inputs": 64, "outputs": 64, "groups": 1, "window": [3, 3]}
    shape |= {"in_size": [56, 56], "out_size": [56, 56]}
    survey = {"layers": [{"shape": shape, "cost": {"macs": 10**9, "parameters": 36_864}, "calls": 1}]}
    (note,) = estimate_notes(survey, survey, ["cortex-a76", "cortex-a72", "cortex-a53"])
    _, models = read_models()
    model = models["cortex-a72"]
    assert note.startswith(f"Estimate, not measured: ncnn on a cortex-a72 at {model.mhz:g} MHz would take about ")
    assert f"had not seen by {100 * model.error:.0f} %" in note
    assert f"by {100 * model.ratio_error:.0f} %." in note
