"""report.html: one file that opens from disk without a network. Its template escapes all that comes from a run."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from bench.measurement import Measurement
from compress_export.reporting import counted, figures, headline, plots, processes
from compress_export.reporting.profiled import Profiled, said
from compress_export.reporting.record import Record
from compress_export.reporting.values import FileRow, LayerRow, Pair
from compressor.plan import KEEP

TEMPLATES = Path(__file__).with_name("templates")
NOT_MEASURED = "not measured"


def html(record: Record) -> str:
    """The whole page. Imports matplotlib, which takes a second."""
    templates = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (TEMPLATES / "report.js").read_text(encoding="utf-8")
    drawn = [plot for draw in (plots.tuning, plots.latency, plots.memory, plots.front) if (plot := draw(record))]
    gains, losses = headline.cards(record.summary)
    said, fine = headline.answers(record.summary)
    return templates.get_template("report.html").render(
        record=record,
        summary=record.summary,
        style=Markup((TEMPLATES / "report.css").read_text(encoding="utf-8")),
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        gains=gains,
        losses=losses,
        rest=headline.rest(record.summary),
        answers=said,
        fine=fine,
        layers=layer_table(record),
        plots={plot.title: Markup(plot.svg) for plot in drawn},
        says={plot.title: plot.says for plot in drawn},
        files=[file for row in record.summary.formats for file in (row.original, row.compressed)],
        figures=figures,
        counted=counted,
        processes=processes,
        latency_row=latency_row,
        memory_row=memory_row,
        asked_rows=asked_rows(record.asked),
        changed_rows=asked_rows(record.changed),
    )


def layer_table(record: Record) -> dict[str, Any]:
    """Head and rows of the layer table; a cell is text, what it is sorted by, and two bars' lengths or None."""
    layers = record.summary.layers
    timed = any(layer.ms is not None for layer in layers)
    profile = record.profiled
    times = ["ms"] if timed else []
    profiled = [] if profile is None else [f"{profile.unit}, profiled"]
    head = ["layer", "method", "rank", "parameters", "MACs", *times, *profiled, "weight error", "weight", "why"]
    peaks = {
        "parameters": max((layer.parameters.original for layer in layers), default=0),
        "macs": max((layer.macs.original for layer in layers), default=0),
        "ms": max((layer.ms.original for layer in layers if layer.ms), default=0.0),
    }
    rows = [
        [*_named(layer), *_costs(layer, peaks, timed), *_profile(layer, profile), *_reasons(layer)] for layer in layers
    ]
    return {"head": head, "rows": rows}


def _profile(layer: LayerRow, profile: Profiled | None) -> list[dict[str, Any]]:
    if profile is None:
        return []
    peak = max((pair.original for pair in profile.layers.values()), default=0.0)
    return [_bars(profile.layers[layer.name], peak, lambda value: said(profile.unit, value))]


def _named(layer: LayerRow) -> list[dict[str, Any]]:
    ranks = [int(part) for part in layer.rank.split(", ") if part.isdigit()]
    kept = layer.method == KEEP
    return [
        _cell(layer.name),
        _cell("kept" if kept else layer.method),
        _cell(layer.rank or "–", ranks[0] if ranks else 0),  # noqa: RUF001  # an en dash, as tables write "none"
    ]


def _costs(layer: LayerRow, peaks: Mapping[str, float], timed: bool) -> list[dict[str, Any]]:
    cells = [
        _bars(layer.parameters, peaks["parameters"], figures.count),
        _bars(layer.macs, peaks["macs"], figures.count),
    ]
    if not timed:
        return cells
    if layer.ms is None:
        return [*cells, _cell(NOT_MEASURED, -1)]
    return [*cells, _bars(layer.ms, peaks["ms"], lambda value: f"{value:.3g}")]


def _reasons(layer: LayerRow) -> list[dict[str, Any]]:
    error = _cell("", -1) if layer.error is None else _cell(f"{layer.error:.3f}", layer.error)
    return [error, _cell(layer.weight), _cell(layer.reason.removeprefix("kept: "))]


def _cell(text: str, key: float | str | None = None) -> dict[str, Any]:
    return {"text": text, "key": text if key is None else key, "bars": None}


def _bars(pair: Pair, peak: float, say: Any) -> dict[str, Any]:
    """A cell with two bars, as long as each figure is of the column's largest."""
    shares = [100 * value / peak if peak else 0 for value in (pair.original, pair.compressed)]
    text = (
        say(pair.compressed) if pair.original == pair.compressed else f"{say(pair.original)} → {say(pair.compressed)}"
    )
    return {"text": text, "key": pair.original, "bars": [round(share, 2) for share in shares]}


def latency_row(file: FileRow) -> list[str]:
    """load, first, min, p10, p50, p90, p99, mean, sd and runs of a file, as text; empty where it was not measured."""
    row, found = file.row, file.statistics
    if not isinstance(row, Measurement) or found is None:
        return []
    values = [row.load_ms, found.first, found.min, found.p10, found.p50, found.p90, found.p99, found.mean, found.sd]
    return [*("" if value is None else f"{value:.2f}" for value in values), str(found.runs)]


def memory_row(file: FileRow) -> list[str]:
    """Resident MB by phase, and the model's own peak; empty where it was not measured."""
    if not isinstance(file.row, Measurement):
        return []
    memory = file.row.memory
    phases = (memory.start, memory.loaded, memory.first, memory.end)
    values = [NOT_MEASURED if p.resident is None else f"{p.resident * 1024 / 1e6:.1f}" for p in phases]
    return [*values, figures.memory(file)]


def asked_rows(asked: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, str, str]]:
    """(section, option, value) of all that was asked for or left at its default."""
    return [(section, name, _said(value)) for section, values in asked.items() for name, value in values.items()]


def _said(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key}={part}" for key, part in value.items()) or "none"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(map(str, value)) or "none"
    return "none" if value is None else str(value)
