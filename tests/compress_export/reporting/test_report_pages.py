"""The text of report.html, report.md and report.json of a run."""

import json
import re
import shlex
from dataclasses import asdict, replace

import pytest
from page_text import Elements, words
from report_runs import HOSTILE, PHONE, edit, epoch, make_hostile, measured_in_app, report_run, write

from bench.measurement import Schedule
from compress_export.cli import main as cli
from compress_export.cli.options import given_in
from compress_export.cli.to_settings import bench_of, formats_of, plan_of, share_of, source_of, tune_of
from compress_export.reporting import figures
from compress_export.reporting.commands import command
from compress_export.reporting.gather import gather
from compress_export.reporting.html import html
from compress_export.reporting.pages import as_json, write_pages
from compress_export.reporting.plots import tuning
from compress_export.run_directory import RunDirectory, RunSettings
from compress_export.settings import PlanSettings, SourceSettings, TuneSettings, plain


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run with its pages."""
    path = report_run(tmp_path_factory.mktemp("runs") / "net")
    write_pages(RunDirectory(path))
    return path


def test_the_page_says_what_was_gained_and_lost_and_where_the_rest_is(run):
    text = words(Elements((run / "report.html").read_text()).text)
    assert "All 2 files match the PyTorch model (32 images)." in text
    before, after = ((run / f"artifacts/{name}.onnx").stat().st_size for name in ("original", "compressed"))
    assert f".onnx size {before / after:.2f}x smaller" in text
    assert ".onnx latency, p50 2.00x faster 10.00 ms → 5.00 ms" in text
    assert "on desk (host)" in text
    assert "top-1 accuracy −25.00 points 100.00 % → 75.00 % 0 gained, 1 lost of 4 test images" in text  # noqa: RUF001
    assert "Remaining parameters: 2,200 fc1 54.5 % fc2 45.5 %" in text
    assert text.index("What is lost") < text.index("Remaining parameters") < text.index("Layers")


def test_the_page_asks_nothing_of_a_network(run):
    page = (run / "report.html").read_text()
    links = [
        value
        for _, attrs in Elements(page).tags
        for name, value in attrs.items()
        if name in ("src", "href", "xlink:href")
    ]
    assert {link for link in links if not link.startswith("#")} == {"data:,"}
    assert "@import" not in page
    assert not re.search(r"url\((?!#)", page)
    assert "default-src 'none'" in page


def test_every_chart_has_a_name_and_its_numbers_in_a_table(run):
    page = (run / "report.html").read_text()
    elements = Elements(page)
    drawings = [attrs for tag, attrs in elements.tags if tag == "svg"]
    ids = {attrs["id"] for _, attrs in elements.tags if "id" in attrs}
    assert len(drawings) == 4
    assert {attrs["aria-labelledby"] for attrs in drawings} <= ids
    assert all(attrs["role"] == "img" for attrs in drawings)
    assert page.count("The same as a table") == 4
    assert len(ids) == sum("id" in attrs for _, attrs in elements.tags)  # no two elements share one


def test_charts_take_the_pages_colours(run):
    page = (run / "report.html").read_text()
    assert "var(--after)" in page
    assert not re.search(r'style="[^"]*#0[0-9a-f]{5}', page)


def test_bars_show_each_layer_before_and_after(run):
    page = (run / "report.html").read_text()
    assert 'width:100.0%"></i><i class="a" style="width:6.0%' in page  # 20,000 parameters, 1,200 left
    text = words(Elements(page).text)
    assert "20.0k → 1,200" in text
    assert "0.8 → 0.2" in text
    assert "not measured kept" not in text
    assert "Times are predicted: measured layer files on desk" in text


def test_a_plan_without_times_and_front_has_neither_column_nor_chart(tmp_path):
    path = report_run(tmp_path / "net", data=None, times=False)
    page = html(gather(RunDirectory(path)))
    text = words(Elements(page).text)
    assert ">ms</button>" not in page
    assert "loss against" not in text
    assert "Fine-tuning" not in text
    assert "top-1 accuracy not measured no --data was given" in text


def test_a_layer_without_a_time_is_not_measured(run):
    page = (run / "report.html").read_text()
    row = re.search(r"fc2</th>.*?</tr>", page, re.DOTALL)[0]
    assert '<td data-key="-1">not measured</td>' in row


def test_of_many_cuts_some_are_named(tmp_path):
    path = report_run(tmp_path / "net")
    rows = [epoch(f"layer{number}", 0, None, 50.0) for number in range(60)]
    (path / "tuning.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    drawn = tuning(gather(RunDirectory(path)))
    named = [number for number in range(60) if f">layer{number}<" in drawn.svg]
    assert len(named) == 12
    assert named[:3] == [0, 5, 10]


def test_what_must_not_be_shipped_is_said_first(tmp_path):
    path = report_run(tmp_path / "net", agreement=30 / 32)
    text = words(Elements(html(gather(RunDirectory(path)))).text)
    assert "✗ Do not ship this. original.onnx does not match the PyTorch model" in text
    assert text.index("Do not ship") < text.index("What is gained")


def test_a_run_without_files_says_so(tmp_path):
    path = report_run(tmp_path / "net")
    (path / "artifacts.json").unlink()
    assert "No file was exported yet." in html(gather(RunDirectory(path)))


def test_names_of_others_stay_text(tmp_path):
    path = make_hostile(report_run(tmp_path / "net"))
    page = html(gather(RunDirectory(path)))
    elements = Elements(page)
    assert "img" not in {tag for tag, _ in elements.tags}
    assert sum(tag == "script" for tag, _ in elements.tags) == 1
    assert f"fc1{HOSTILE}" in elements.text
    assert HOSTILE not in page
    write_pages(RunDirectory(path))
    outside = re.sub(r"```sh\n.*?```", "", (path / "report.md").read_text(), flags=re.DOTALL)
    assert "<img" not in outside


def test_an_app_stands_beside_the_shell_on_every_page(tmp_path):
    path = measured_in_app(report_run(tmp_path / "net", device=PHONE))
    write_pages(RunDirectory(path))
    found = json.loads((path / "report.json").read_text())["processes"]
    assert [(row["file"], row["process"], row["p50"]) for row in found] == [
        ("original.onnx", "shell", 10.0), ("original.onnx", "app", 15.0),
        ("compressed.onnx", "shell", 5.0), ("compressed.onnx", "app", 7.5),
    ]  # fmt: skip
    assert [row["of_shell"] for row in found] == [1.0, 1.5, 1.0, 1.5]
    text = Elements((path / "report.html").read_text()).text
    for said in (figures.PROCESSES_TITLE, figures.PROCESSES_NOTE, "of the shell's", "peak memory, MB"):
        assert said in text
    assert re.search(r"compressed\.onnx\s*app\s*7\.50\s*1\.50x\s*7\.50\s*160", text)
    assert "| compressed.onnx | app | 7.50 | 1.50x | 7.50 | 160 |" in (path / "report.md").read_text()


def test_a_phone_without_rows_of_the_shell_has_no_ratio_to_it(tmp_path):
    path = measured_in_app(measured_in_app(report_run(tmp_path / "net", device=PHONE)), "app_process", 2.0)
    rows = (path / "measurements.jsonl").read_text().splitlines()
    (path / "measurements.jsonl").write_text("\n".join(row for row in rows if '"shell"' not in row) + "\n")
    write_pages(RunDirectory(path))
    assert "| compressed.onnx | app_process | 10.00 | not measured | 10.00 |" in (path / "report.md").read_text()
    assert {row["of_shell"] for row in json.loads((path / "report.json").read_text())["processes"]} == {None}


def test_json_says_the_same(run):
    found = json.loads((run / "report.json").read_text())
    assert found["version"] == 2
    assert found["parameters"] == {"original": 21_000, "compressed": 2200}
    assert found["accuracy"]["lost"] == 1
    assert found["layers"][0]["ms"] == {"original": 0.8, "compressed": 0.2}
    assert found["layers"][1]["ms"] is None
    file = found["files"][1]
    assert (file["name"], file["verdict"], file["not_measured"]) == ("compressed.onnx", "passed", None)
    assert (file["latency"]["p50"], file["latency"]["p99"]) == (5.0, None)
    assert file["latency"]["device"]["kind"] == "host"
    assert file["memory"]["end"]["peak"] == 391_000
    assert found["time_ratios"]["onnx"]["value"] == pytest.approx(0.5)
    assert [point["chosen"] for point in found["pareto_front"]] == [False, True, False]
    assert [row["top1"] for row in found["tuning"]] == [60.0, 97.0]
    assert {row["name"] for row in found["stored"]} == {
        "artifacts/original.onnx",
        "artifacts/compressed.onnx",
        "plan.json",
    }


def test_every_key_of_the_json_is_documented(run):
    from pathlib import Path

    page = (Path(__file__).resolve().parents[3] / "docs" / "report.md").read_text()
    assert [key for key in json.loads((run / "report.json").read_text()) if f"`{key}`" not in page] == []


def test_what_json_cannot_say_is_null(tmp_path):
    path = report_run(tmp_path / "net")
    report = gather(RunDirectory(path))
    layers = [replace(layer, error=float("nan")) for layer in report.layers]
    assert json.loads(as_json(replace(report, layers=layers)))["layers"][0]["error"] is None


def test_markdown_has_the_same_sections(run):
    text = (run / "report.md").read_text()
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Original and compressed", "Files", "Latency and memory", "Layers", "Notes", "Fine-tuning", "Memory by phase",
        "Pareto front", "Time by layer", "Settings", "Environment", "Reproduce",
    ]  # fmt: skip
    assert "| chosen | 2,200 | 4,400 | 2.20 | 0.0004545 |" in text
    assert "| fc1 | 0.8 | 0.2 |" in text
    assert "| host | desk: AMD EPYC, 2 cores, 24.0 GB of memory, Linux 6.18 x86&#95;64 |" in text.replace(
        "x86_64", "x86&#95;64"
    )


def test_a_command_with_backticks_stays_inside_its_fence(tmp_path):
    path = report_run(tmp_path / "net")
    edit(path, "settings.json", lambda value: value | {"source": plain(SourceSettings("a```.py:b"))})
    write_pages(RunDirectory(path))
    assert "\n````sh\ncompress-export 'a```.py:b' " in (path / "report.md").read_text()


@pytest.mark.parametrize(
    "words",
    [
        "alexnet --data digits --target android",
        "net.py:build --weights none --input 3x16x16 --max-params 0.15x --target all",
        "resnet18 --max-params 8.7M --format onnx,pte --keep-layers conv1,fc --threads 2 --set bench.cap=5",
        "net.py:build --ranks a.b=3,c=40 --set source.mean=0.5,0.5,0.5 --set source.std=1.0,1.0,1.0 --seed 3"
        " --set source.batch=32 --format ptl",
        "alexnet-caffe --data imagenet --data-root '/my data' --ranks astrid-lee-2017"
        " --set fine_tune.optimizer=sgd --set fine_tune.rate=0.001",
        "alexnet --data digits --train 4 --set fine_tune.schedule=one-shot --epochs 5"
        " --set fine_tune.patience=2 --set fine_tune.rate_schedule=step --set fine_tune.rate_step=3",
        "alexnet --data digits --recipe cp-tpm-2017",
        "alexnet --data digits --recipe cp-tpm-2017 --set fine_tune.optimizer=adamw --set plan.rank_rule=budget"
        " --set fine_tune.rate=0.001",
        "alexnet --data digits --recipe tucker-vbmf-2015 --set plan.fit=outputs --set fine_tune.schedule=auto"
        " --epochs 2 --set fine_tune.distill=true",
        "alexnet --data digits --recipe cp-als --set plan.rank_rule=equal-error --set fine_tune.epochs_scale=0.2",
        "alexnet --data digits --recipe cp-als --ranks features.3=40 --set fine_tune.rate_schedule=cosine",
        "alexnet --data digits --recipe on-the-fly-2015 --share 4x16 --set share.share_epochs=1",
    ],
)
def test_the_command_of_a_report_asks_for_the_same(words):
    """The settings that a run stores lead back to a command that stores the same, and measures where it did."""

    def settings(line):
        context = cli.run.make_context("run", shlex.split(line))
        given, formats = given_in(context), formats_of(context.params["target"], context.params["formats"])
        sections = {
            "source": source_of(context.params["network"], given),
            "plan": plan_of(given, formats),
            "tune": tune_of(given),
            "share": share_of(given),
        }
        return RunSettings(**sections), formats, bench_of(given)

    stored, formats, bench = settings(words)
    again = command(stored, formats, [_row(bench)], "name")
    assert again.startswith("compress-export ")
    assert again.endswith(" --name name")
    assert settings(again.removeprefix("compress-export ")) == (stored, formats, replace(bench, device="host"))


def _row(settings):
    from bench_rows import measurement

    from compress_export.pipeline.measure import schedule_for

    return replace(measurement(), schedule=schedule_for(settings))


STORED = RunSettings(source=SourceSettings("alexnet"), plan=PlanSettings(), tune=TuneSettings())


def test_a_command_names_the_device_that_measured_last():
    from bench_rows import DEVICE, measurement, simulated

    here = measurement()
    app = replace(here, device=replace(DEVICE, kind="phone", process="app"))
    core = replace(simulated(), device=replace(simulated().device, cpu="cortex-a72"))
    for rows, place in (
        ([app, here], "host"), ([here, app], "phone --in app"), ([here, core], "arm-a72"),
    ):  # fmt: skip
        assert command(STORED, (), rows, "n") == f"compress-export alexnet --device {place} --name n"


def test_the_command_pins_to_the_same_cores():
    from bench_rows import measurement

    row = replace(measurement(), schedule=Schedule(cluster="little"))
    assert command(STORED, (), [row], "n") == "compress-export alexnet --device host --set bench.cores=little --name n"


def test_a_range_is_of_numbers_not_of_texts(tmp_path):
    path = report_run(tmp_path / "net")
    rows = [json.loads(line) for line in (path / "measurements.jsonl").read_text().splitlines()]
    for row, load, clock in zip(rows, (7.0, 12.0), (900, 2400), strict=True):
        row |= {"load_average": load, "mhz_before": clock}
    (path / "measurements.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    told = dict(gather(RunDirectory(path)).environment)
    assert (told["load average before"], told["MHz before"]) == ("7.0 to 12.0", "900 to 2400")


def test_defaults_are_left_out_of_the_command():
    assert command(STORED, (), (), "n") == "compress-export alexnet --name n"
    assert asdict(TuneSettings())["epochs"] == 2


def test_a_run_that_lost_a_file_says_which(call, tmp_path):
    path = report_run(tmp_path / "net")
    write(path, "plan.json", {"layers": []})
    status, _, err = call(tmp_path, "report", "net")
    assert status == 1
    assert "a file of net has lost its content" in err
