"""The counts of the simulated CPU: report.html and report.json say what report.md says."""

import json
import re

import pytest
from page_text import Elements, words
from report_runs import counted, report_run, write

from compress_export.reporting import figures
from compress_export.reporting.gather import gather
from compress_export.reporting.html import html
from compress_export.reporting.pages import plain, write_pages
from compress_export.run_directory import RunDirectory


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run that was timed and counted, with its pages."""
    path = counted(report_run(tmp_path_factory.mktemp("runs") / "net"))
    write_pages(RunDirectory(path))
    return path


def test_the_page_has_the_table_of_the_markdown(run):
    page = (run / "report.html").read_text()
    section = page[page.index('<h2 id="instructions">') :].partition("</section>")[0]
    cells = re.findall(r"<t[hd](?: [^>]*)?>(.*?)</t[hd]>", section)
    listed = (run / "report.md").read_text().partition("## Instructions")[2].partition("## ")[0]
    lines = [line for line in listed.splitlines() if line.startswith("| ") and "---" not in line]
    same = [cell.replace("&#39;", "'") for cell in cells]
    assert same == [cell for line in lines for cell in line.removeprefix("| ").removesuffix(" |").split(" | ")]
    assert len(same) == 3 * 14
    assert same[2 * 14 :][:4] == ["compressed.onnx", "1,000", "4.00x fewer", "92.0 %"]


def test_the_page_says_that_counts_are_no_times_and_links_to_them(run):
    elements = Elements((run / "report.html").read_text())
    text = words(elements.text)
    assert ("a", {"href": "#instructions"}) in elements.tags
    note = figures.COUNTED_NOTE.replace("`", '"')
    assert f"Instructions {note} On the simulated cortex-a76, one thread, one image:" in text
    assert "These are no times" in figures.COUNTED_NOTE
    assert ".onnx instructions 4.00x fewer 4,000 → 1,000 counted on simulated cortex-a76, no time" in text
    assert ".onnx latency, p50 2.00x faster" in text


def test_a_run_that_was_not_counted_has_no_such_section(tmp_path):
    report = gather(RunDirectory(report_run(tmp_path / "net")))
    assert 'id="instructions"' not in html(report)
    assert plain(report)["instructions"] == []


def test_json_holds_every_count(run):
    found = json.loads((run / "report.json").read_text())
    first, last = found["instructions"]
    assert found["version"] == 2
    assert (first["file"], first["core"], first["fewer"]) == ("original.onnx", "simulated cortex-a76", None)
    assert (last["file"], last["fewer"], last["device"]["kind"]) == ("compressed.onnx", 4.0, "simulated")
    assert first["run"] == {
        "instructions": 4000, "vector": 3920, "load": 50, "store": 1, "branch": 5, "other": 24, "load_bytes": 990,
        "store_bytes": 9,
    }  # fmt: skip
    assert (first["load"]["instructions"], first["first"]["instructions"]) == (200, 264)
    assert (first["traffic"]["memory_bytes"], first["allocated_peak_kb"]) == (64 * 520, 248_200)
    assert (first["emulator"], first["parity"]["images"]) == ("QEMU 7.2.22, counter 0123456789ab", 4)
    assert found["files"][0]["latency"]["p50"] == 10.0


def test_what_was_not_looked_at_is_null(tmp_path):
    path = counted(report_run(tmp_path / "net"))
    rows = [json.loads(line) for line in (path / "measurements.jsonl").read_text().splitlines()]
    rows[-1] |= {"traffic": None, "runtime_version": "1.6"}
    (path / "measurements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    last = plain(gather(RunDirectory(path)))["instructions"][1]
    assert (last["traffic"], last["fewer"]) == (None, None)


def test_every_key_of_a_count_is_documented(run):
    from pathlib import Path

    page = (Path(__file__).resolve().parents[3] / "docs" / "report.md").read_text()
    (line,) = [line for line in page.splitlines() if line.startswith("| `instructions` |")]
    first = json.loads((run / "report.json").read_text())["instructions"][0]
    assert [key for key in (*first, *first["run"], "memory_bytes") if f"`{key}`" not in line] == []


def test_the_environment_names_the_simulator_and_its_runtimes(run):
    found = dict(json.loads((run / "report.json").read_text())["environment"])
    assert found["simulated"] == (
        "simulated cortex-a76: QEMU 7.2.22, caches of a Raspberry Pi 5; counted by QEMU 7.2.22, counter 0123456789ab"
    )
    assert (found["ONNX Runtime"], found["ExecuTorch, simulated"]) == ("1.31.0", "1.5.1")


def test_an_estimate_stands_on_every_page_with_its_error(tmp_path):
    path = counted(report_run(tmp_path / "net"), core="cortex-a72")
    shape = {"kind": "linear", "inputs": 200, "outputs": 100, "groups": 1, "window": [1, 1]}
    shape |= {"in_size": [1, 1], "out_size": [1, 1]}
    for name in ("survey.json", "compressed.json"):
        survey = json.loads((path / name).read_text())
        layers = [{**row, "shape": shape, "calls": 1} for row in survey["layers"]]
        write(path, name, {**survey, "layers": layers})
    write_pages(RunDirectory(path))
    (note,) = [each for each in json.loads((path / "report.json").read_text())["notes"] if each.startswith("Estimate")]
    assert note.startswith("Estimate, not measured: ncnn on a cortex-a72 at ")
    assert "such estimates were off by" in note
    assert note in words(Elements((path / "report.html").read_text()).text)
    assert f"- {note}" in (path / "report.md").read_text()
