"""report.html: one file that opens from disk without a network. Its template escapes all that comes from a run."""

from __future__ import annotations

import base64
import hashlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.measurement import NotMeasured
from bench.run_files import COMPRESSED, ORIGINAL
from compress_export.reporting import figures, plots
from compress_export.reporting.model import FormatRow, Pair, Report, comparable
from compress_export.reporting.notes import unsteady_sentence
from compressor.plan import KEEP

T = TypeVar("T")

TEMPLATES = Path(__file__).with_name("templates")

NAMED = 4
"""Layers that the first screen names; the others are summed up."""


def html(report: Report) -> str:
    """The whole page. Imports matplotlib, which takes a second."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    charts = plots.tuning, plots.pareto_front, plots.costs, plots.latency, plots.memory
    drawn = (draw(report) for draw in charts)
    gains, losses = cards(report)
    verdict, fine = parity_verdict(report)
    layer_head, layer_rows = _layer_table(report)
    profile, profile_note = report.profile, ""
    if profile is not None:
        unit = "instructions of one run" if profile.unit == "instructions" else "milliseconds (median)"
        rest = (figures.profiled(profile.unit, value) for value in (profile.rest.original, profile.rest.compressed))
        files = f"{profile.type} .{profile.format}".strip()
        profile_note = (
            f"Profiled: {unit} of the {files} files on {profile.place}, by the profiler of {profile.runtime}; what "
            f"belongs to no layer took {' and '.join(rest)}."
        )
    return templates.get_template("report.html").render(
        report=report,
        figures=figures,
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        gains=gains,
        losses=losses,
        remaining=remaining(report),
        verdict=verdict,
        fine=fine,
        layer_head=layer_head,
        layer_rows=layer_rows,
        profile_note=profile_note,
        plots={plot.id: plot for plot in drawn if plot is not None},
    )


# ---- the first screen --------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Card:
    """One figure before and after. `ratio` is the second over the first, for a bar; None draws none.

    `warning` says why the figure is not to be trusted; empty where nothing speaks against it.
    """

    label: str
    headline: str
    before: str = ""
    after: str = ""
    ratio: float | None = None
    note: str = ""
    gain: bool = False
    warning: str = ""


def cards(report: Report) -> tuple[list[Card], list[Card]]:
    """Gains and losses: a figure that became worse stands among the losses, whatever it measures."""
    totals = [("parameters", report.parameters), ("MACs", report.macs)]
    if report.predicted_instructions is not None:
        totals.append(("instructions, predicted", report.predicted_instructions))
    # what a user ships first: the number type that was asked for
    formats = sorted(report.formats, key=lambda row: not row.type)
    memories = [
        (row.title, Pair(row.before.memory_kb, row.compressed.memory_kb))
        for row in formats
        if row.before.memory_kb and row.compressed.memory_kb
    ]
    sizes = [(row.title, Pair(row.before.artifact.bytes, row.compressed.artifact.bytes)) for row in formats]
    found = [
        *_factors("size", sizes, figures.size),
        *_times(report, formats),
        *_instructions(formats),
        *(_card(name, figures.smaller(pair), pair, figures.count, gain=pair.smaller >= 1) for name, pair in totals),
        *_factors("peak memory", memories, figures.memory_size),
    ]
    losses = [
        _accuracy(report),
        *_file_accuracy(formats),
        *_parity(report.formats),
        *(card for card in found if not card.gain),
    ]
    return [card for card in found if card.gain], losses


def remaining(report: Report) -> list[tuple[str, float]]:
    """(layer, percent) of the compressed network's parameters: the largest layers, then all others as one."""
    total = report.parameters.compressed
    ordered = sorted(report.layers, key=lambda layer: -layer.parameters.compressed)
    if not total:
        return []
    named = [(layer.name, 100 * layer.parameters.compressed / total) for layer in ordered[:NAMED]]
    others = (f"{len(ordered) - NAMED} other layers", 100 - sum(percent for _, percent in named))
    return [*named, others] if len(ordered) > NAMED else named


def parity_verdict(report: Report) -> tuple[str, bool]:
    """A sentence on the files' numerical parity, and False where it speaks against shipping them."""
    files = report.files
    if not files:
        return "No file was exported yet.", True
    if report.failures:
        return "Do not ship this.", False
    verdicts = Counter(file.verdict for file in files)
    passed = verdicts["passed"]
    images = min((file.artifact.parity.images for file in files if file.artifact.parity), default=0)
    quantized = sum(file.artifact.dtype == "int8" for file in files)
    whose = f", {quantized} of them its int8 program" if quantized else ""
    sentence = f"{passed} of {len(files)} files match the PyTorch model{whose}"
    if passed == len(files):
        sentence = f"All {len(files)} files match the PyTorch model{whose} ({images} images)"
    waiting = f"; {verdicts['not executed']} not executed on this system" if verdicts["not executed"] else ""
    interpreted = sum(bool(file.artifact.parity and file.artifact.parity.interpreter) for file in files)
    if interpreted:
        waiting += f"; {interpreted} interpreted, their runtime is not on this system"
    gone = f"; {verdicts['gone']} no longer there (see Notes)" if verdicts["gone"] else ""
    lacking = "".join(f"; files of .{name} are missing (see Notes)" for name in report.unwritten)
    return f"{sentence}{waiting}{gone}{lacking}.", not lacking and all(
        row.compressed.verdict != "gone" for row in report.formats
    )


def _card(
    label: str, headline: str, pair: Pair, say: Callable[[float], str], note: str = "", gain: bool = False
) -> Card:
    ratio = pair.compressed / pair.original if pair.original else None
    return Card(label, headline, say(pair.original), say(pair.compressed), ratio, note, gain)


def _accuracy(report: Report) -> Card:
    change, metrics = report.accuracy, report.metrics
    if change is None and metrics is not None and (after := metrics.of(COMPRESSED)) is not None:
        difference = f"{after - (metrics.of(ORIGINAL) or 0.0):+.4g}{' points' if metrics.unit else ''}"
        return Card(
            label=metrics.metric,
            headline=difference.replace("-", "−"),  # noqa: RUF001  # a minus sign, not a hyphen
            before=metrics.written(ORIGINAL),
            after=metrics.written(COMPRESSED),
            note=f"on {metrics.images} test images{'' if metrics.higher_is_better else '; lower is better'}",
        )
    if change is None:
        unfinished = "the weights are untrained, or the run is not finished"
        reason = "no --data was given" if report.data is None else unfinished
        label = "top-1 accuracy" if report.metric == "top-1" else report.metric
        return Card(label, figures.NOT_MEASURED, note=reason)
    points = change.top1.compressed - change.top1.original
    return Card(
        label="top-1 accuracy" if points < 0 else "top-1 accuracy: nothing",
        headline=f"{points:+.2f} points".replace("-", "−"),  # noqa: RUF001  # a minus sign, not a hyphen
        before=figures.percent(change.top1.original),
        after=figures.percent(change.top1.compressed),
        note=f"{change.gained} gained, {change.lost} lost of {change.images} test images",
    )


def _file_accuracy(formats: Sequence[FormatRow]) -> Iterator[Card]:
    """Top-1 of the compressed files in another number type than float32, the worst first: a card for each type."""
    for kind in dict.fromkeys(row.type for row in formats if row.type):
        rows = [
            (row.compressed.accuracy.top1 - row.before.accuracy.top1, row)
            for row in formats
            if row.type == kind
            and row.compressed.accuracy is not None
            and row.before.accuracy is not None
            and row.compressed.accuracy.images == row.before.accuracy.images
        ]
        if not rows:
            judged = any(row.compressed.accuracy for row in formats if row.type == kind)
            reason = "they classified other test images than the float32 files" if judged else "no test images"
            yield Card(f"top-1 of the {kind} files", figures.NOT_MEASURED, note=reason)
            continue
        points, worst = min(rows, key=lambda each: each[0])
        assert worst.compressed.accuracy is not None
        assert worst.before.accuracy is not None
        parity = worst.compressed.artifact.parity
        runtime = (parity.interpreter if parity is not None else "") or "in its own runtime"
        others = [f".{row.format} {change:+.2f}" for change, row in rows if row is not worst]
        yield Card(
            label=f"top-1 of {worst.compressed.name}",
            headline=f"{points:+.2f} points".replace("-", "−"),  # noqa: RUF001  # a minus sign, not a hyphen
            before=figures.percent(worst.before.accuracy.top1),
            after=figures.percent(worst.compressed.accuracy.top1),
            note="; ".join([f"{figures.flipped(worst.compressed.accuracy)} {runtime}", *others]),
        )


def _parity(formats: Sequence[FormatRow]) -> Iterator[Card]:
    """The largest error among the compressed files, against the PyTorch model."""
    found = [(row.title, row.compressed.artifact.parity) for row in formats if not row.type]
    run = [(name, p, p.relative_error) for name, p in found if p and p.executed and p.relative_error is not None]
    if run:
        name, worst, error = max(run, key=lambda each: each[2])
        counted = [round(p.top1_agreement * p.images) for _, p, _ in run if p.top1_agreement is not None]
        if counted and not worst.outputs:
            note = f"of the standard deviation of the logits; same class for {min(counted)} of {worst.images} images"
        else:
            note = f"of an output's standard deviation; {figures.agreement(worst)}"
        note += f"; {worst.interpreter}" if worst.interpreter else ""
        yield Card(f"largest error (.{name})", f"{error:.0e} relative", note=note)


def _split(rows: Sequence[T], gained: Callable[[T], bool]) -> Iterator[tuple[list[T], bool]]:
    """The rows that gained, with True, then those that lost, with False; no empty list.

    One format stands for its side on a card, with the others in its note: no loss hides behind another's gain.
    """
    for gain in (True, False):
        side = [row for row in rows if gained(row) == gain]
        if side:
            yield side, gain


def _factors(label: str, known: Sequence[tuple[str, Pair]], say: Callable[[float], str]) -> Iterator[Card]:
    """A quantity of files, by the names of their formats."""
    for ((name, pair), *others), gain in _split(known, lambda each: each[1].smaller >= 1):
        note = ", ".join(f".{other} {figures.smaller(its_pair)}" for other, its_pair in others)
        yield _card(f".{name} {label}", figures.smaller(pair), pair, say, note, gain)


def _times(report: Report, formats: Sequence[FormatRow]) -> Iterator[Card]:
    timed = [(row, row.gain) for row in formats if row.gain is not None]
    if not timed:
        reasons = {file.row.reason for file in report.files if isinstance(file.row, NotMeasured)}
        reasons |= {f"invalid: {row.invalid}" for row in report.measurements if row.invalid}
        cores = " and the ".join(report.cores)
        counted = [f"the files were counted on the {cores}, see Instructions"] if cores else []
        note = "; ".join([*sorted(reasons), *counted, *([] if reasons else [f"`{report.again}` measures it"])])
        yield Card("latency", figures.NOT_MEASURED, note=note)
    for ((row, ratio), *others), gain in _split(timed, lambda each: each[1].value <= 1):
        remarks = [f".{other.title} {figures.faster(its_ratio).partition(' (')[0]}" for other, its_ratio in others]
        pair = row.before, row.compressed
        device, found = report.device, [file.statistics.p50 for file in pair if file.statistics is not None]
        yield Card(
            f".{row.title} latency, p50",
            figures.faster(ratio).partition(" (")[0],
            figures.milliseconds(row.before),
            figures.milliseconds(row.compressed),
            found[1] / found[0],
            "; ".join([f"on {device.name} ({device.kind})" if device is not None else "", *remarks]),
            gain,
            unsteady_sentence([own for own, _ in [(row, ratio), *others]], report.again),
        )


def _instructions(formats: Sequence[FormatRow]) -> Iterator[Card]:
    """Instruction counts, on a card of their own: no time follows from them."""
    counted = [
        (row.title, first.device.name, Pair(first.run.instructions, last.run.instructions))
        for row in formats
        for first, last in row.counts_against(row.before)
        if comparable(first, last)
    ]
    for ((name, core, pair), *others), gain in _split(counted, lambda each: each[2].smaller >= 1):
        remarks = [
            f".{other}{'' if where == core else f' on {where}'} {figures.fewer(counts)}"
            for other, where, counts in others
        ]
        note = "; ".join([f"counted on {core}, no time", *remarks])
        yield _card(f".{name} instructions", figures.fewer(pair), pair, figures.count, note, gain)


# ---- the layer table ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Cell:
    """A cell's text, the key that it is sorted by, and the lengths of its two bars in percent, if it has any."""

    text: str
    key: float | str
    bars: tuple[float, float] | None = None


def _layer_table(report: Report) -> tuple[list[str], list[list[Cell]]]:
    """Head and rows; a column that nothing is known of is left out."""
    layers, profile = report.layers, report.profile
    costs = {
        "parameters": _bars([layer.parameters for layer in layers], figures.count),
        "MACs": _bars([layer.macs for layer in layers], figures.count),
    }
    if any(layer.ms is not None for layer in layers):
        costs["ms"] = _bars([layer.ms for layer in layers], "{:.3g}".format)
    if profile is not None:
        amounts = [profile.layers[layer.name] for layer in layers]
        costs[f"{profile.unit}, profiled"] = _bars(amounts, lambda value: figures.profiled(profile.unit, value))
    rows = []
    for layer, bars in zip(layers, zip(*costs.values(), strict=True), strict=True):
        method, reason = "kept" if layer.method == KEEP else layer.method, layer.reason.removeprefix("kept: ")
        first_rank = int(layer.rank.partition(", ")[0] or 0)
        rows.append(
            [
                Cell(layer.name, layer.name),
                Cell(method, method),
                Cell(layer.rank or "–", first_rank),  # noqa: RUF001  # an en dash, as tables write "none"
                *bars,
                Cell("", -1) if layer.error is None else Cell(f"{layer.error:.3f}", layer.error),
                Cell(layer.weight, layer.weight),
                Cell(reason, reason),
            ]
        )
    return ["layer", "method", "rank", *costs, "weight error", "weight", "why"], rows


def _bars(pairs: Sequence[Pair | None], say: Callable[[float], str]) -> list[Cell]:
    """A column of cells with two bars each, in proportion to the largest original figure."""
    peak = max((pair.original for pair in pairs if pair is not None), default=0)
    cells = []
    for pair in pairs:
        if pair is None:
            cells.append(Cell(figures.NOT_MEASURED, -1))
            continue
        text = say(pair.compressed)
        if pair.original != pair.compressed:
            text = f"{say(pair.original)} → {text}"
        before, after = (round(100 * value / peak if peak else 0, 2) for value in (pair.original, pair.compressed))
        cells.append(Cell(text, pair.original, (before, after)))
    return cells
