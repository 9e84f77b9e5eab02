"""The second half of report.md: the course of tuning, memory by phase, the front, what was asked, how to repeat it."""

from __future__ import annotations

import re

from bench.measurement import Measurement
from compress_export.reporting import figures
from compress_export.reporting.markdown import escape, table
from compress_export.reporting.record import Record


def surroundings(record: Record) -> str:
    """The sections that there is something to say in, ending with a line end."""
    blocks = [*_tuning(record), *_memory(record), *_front(record), *_times(record)]
    asked = [
        (escape(f"{section}: {name}"), escape(str(value)))
        for section, values in record.changed.items()
        for name, value in values.items()
    ]
    if asked:
        blocks += ["## What was asked", table(("setting", "value"), asked)]
    blocks += ["## Environment", table(("", ""), [(escape(name), escape(value)) for name, value in record.environment])]
    stored = [(escape(file.name), f"{file.bytes:,}", f"`{file.sha256}`") for file in record.files]
    # a name may hold backticks of its own
    fence = max((run for run in re.findall("`+", record.command) if len(run) > 2), key=len, default="``") + "`"
    blocks += ["## Make it again", f"{fence}sh\n{record.command}\n{fence}", table(("file", "bytes", "sha256"), stored)]
    return "\n" + "\n\n".join(blocks) + "\n"


def _tuning(record: Record) -> list[str]:
    if not record.tuning:
        return []
    rows = [
        (escape(row.cut), str(row.epoch), "" if row.loss is None else f"{row.loss:.4f}", f"{row.top1:.2f} %")
        for row in record.tuning
    ]
    return ["## Fine-tuning", table(("cut", "epoch", "training loss", "held-out top-1"), rows)]


def _memory(record: Record) -> list[str]:
    rows = []
    for file in (file for row in record.summary.formats for file in (row.original, row.compressed)):
        if isinstance(file.row, Measurement):
            memory = file.row.memory
            phases = [phase.resident for phase in (memory.start, memory.loaded, memory.first, memory.end)]
            said = ["not measured" if kb is None else f"{kb * 1024 / 1e6:.1f}" for kb in phases]
            rows.append((escape(file.artifact.path.name), *said, figures.memory(file)))
    if not rows:
        return []
    head = ("file", "start", "loaded", "first run", "end", "the model's own peak")
    return ["## Memory by phase", "Resident MB of the process, its runtime included.", table(head, rows)]


def _front(record: Record) -> list[str]:
    if not record.front:
        return []
    rows = [
        (
            "chosen" if point.chosen else str(place),
            "not known" if point.parameters is None else figures.count(point.parameters),
            "not known" if point.macs is None else figures.count(point.macs),
            "not measured" if point.ms is None else f"{point.ms:.2f}",
            "not known" if point.loss is None else f"{point.loss:.4g}",
        )
        for place, point in enumerate(record.front, 1)
    ]
    return ["## Front", table(("plan", "parameters", "MACs", "predicted ms", "predicted loss"), rows)]


def _times(record: Record) -> list[str]:
    rows = [
        (escape(layer.name), f"{layer.ms.original:.3g}", f"{layer.ms.compressed:.3g}")
        for layer in record.summary.layers
        if layer.ms is not None
    ]
    if not rows:
        return []
    source = [f"Predicted: {escape(record.cost_source)}"] if record.cost_source else []
    return ["## Time by layer", *source, table(("layer", "ms", "after"), rows)]
