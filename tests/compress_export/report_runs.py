"""A run directory with all that a report can show, on top of the small runs of the tests of budgets."""

import json
from dataclasses import replace

from bench_rows import simulated
from budget_runs import PHONE as PHONE
from budget_runs import disturbed as disturbed
from budget_runs import make_run
from budget_runs import measured_in_app as measured_in_app

from bench.measurement import to_line
from compress_export.settings import PlanSettings, SourceSettings, TuneSettings, plain
from exporters.artifact import read_artifacts

HOSTILE = '<img src=x onerror="alert(1)"><script>console.log("in")</script>'


def report_run(path, data="digits", times=True, **options):
    """The run of fc1 (100x200) cut to rank 4, fc2 kept; with accuracy and tuning if there is data."""
    make_run(path, with_pte=False, **options)
    edit(path, "compressed.json", lambda value: value | {"stability": {"fc1": 0.5}})
    write(
        path,
        "network.json",
        {"name": "net", "input": [3, 16, 16], "outputs": 10, "origin": "trained" if data else "file"},
    )
    sections = {"source": SourceSettings("net.py:build", data=data), "plan": PlanSettings(max_params="0.5x")}
    write(path, "settings.json", {"version": 1, **{name: plain(value) for name, value in sections.items()}})
    layers = [plan_row("fc1", [100, 200], "svd", [4], 0.61), plan_row("fc2", [10, 100], "keep", [], None)]
    if times:
        layers[0] |= {"dense_ms": 0.8, "ms": 0.2}
    points = [{"parameters": n, "macs": 2 * n, "ms": n / 1000, "loss": 1 / n} for n in (1000, 2200, 9000)]
    front = (
        {"pareto_front": points, "chosen": points[1], "cost_source": "measured layer files on desk"} if times else {}
    )
    write(
        path,
        "plan.json",
        {"layers": layers, "rule": "given", "goal": "ranks given", "seed": 0, "notes": ["a note"]} | front,
    )
    (path / "accuracy.json").unlink()
    if data:
        edit(path, "settings.json", lambda value: value | {"tune": plain(TuneSettings(epochs=1))})
        answers = {
            "original": ([1, 2, 3, 4], 100.0),
            "untuned": ([0, 0, 3, 4], 50.0),
            "compressed": ([1, 2, 3, 0], 75.0),
        }
        write(path, "accuracy.json", {name: predictions(*each) for name, each in answers.items()})
        rows = (
            [epoch("", 0, None, 10.0), epoch("", 1, 0.7, 98.0)],
            [epoch("fc1", 0, None, 60.0), epoch("fc1", 1, 0.2, 97.0)],
        )
        for name, lines in zip(("training.jsonl", "tuning.jsonl"), rows, strict=True):
            (path / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def counted(path, instructions=(4000, 1000), core="cortex-a76", timed=True):
    """The run's two files counted on a simulated core as well, so many instructions each; or counted alone."""
    (first, last), place = instructions, path / "measurements.jsonl"
    rows = []
    for artifact in read_artifacts(path / "artifacts.json"):
        run = replace(simulated().run, vector=(first if artifact.network == "original" else last) - 80)
        device = replace(simulated().device, name=f"simulated {core}", cpu=core)
        file = {name: getattr(artifact, name) for name in ("network", "format", "sha256", "bytes")}
        rows.append(replace(simulated(), run=run, device=device, note="", **file))
    place.write_text("".join([place.read_text() if timed else "", *map(to_line, rows)]))
    return path


def plan_row(name, weight, method, rank, error):
    return {"name": name, "weight": weight, "method": method, "rank": rank, "reason": f"{name} as told", "error": error}


def predictions(answers, top1):
    correct = [answer == place for place, answer in enumerate(answers, 1)]
    return {"top1": top1, "top5": 100.0, "correct": correct, "predictions": answers}


def epoch(layers, number, loss, top1):
    return {"step": 0, "layers": layers, "epoch": number, "epochs": 1, "loss": loss, "top1": top1}


def write(path, name, value):
    (path / name).write_text(json.dumps(value))


def edit(path, name, change):
    write(path, name, change(json.loads((path / name).read_text())))


def make_hostile(path):
    """HTML in the name of a layer, of a device, of the network and in a reason."""
    for name in ("plan.json", "survey.json", "compressed.json", "tuning.jsonl", "measurements.jsonl", "network.json"):
        text = (path / name).read_text()
        for word in ("fc1", "desk", '"net"'):
            inner = word.strip('"')
            text = text.replace(word, word.replace(inner, json.dumps(inner + HOSTILE)[1:-1]))
        (path / name).write_text(text)
    return path
