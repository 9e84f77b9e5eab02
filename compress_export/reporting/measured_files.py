"""Rows of files that belong to no run: a table in the terminal, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.measurement import Measurement, NotMeasured, Row, Simulated, to_line
from bench.profile.profile import LayerTotal, Profile, Unit
from bench.statistics import Ratio, summarize, time_ratio, times_remark
from compress_export.reporting import figures
from exporters.artifact import Artifact

VERSION = 1


SHOWN = 24
"""Lines of a table; what costs less is summed up."""


def show_profiles(profiles: Iterable[tuple[str, Profile]], console: Console) -> None:
    """Prints a table for each (name, profile)."""
    for name, profile in profiles:
        kind = "instructions of one run" if profile.unit == "instructions" else f"ms, median of {profile.runs} runs"
        table = Table(title=Text(f"{name} on {figures.device_text(profile.device)}: {kind}"), title_justify="left")
        for head in ("layer", "operators", profile.unit, "share"):
            table.add_column(head, justify="left" if head in ("layer", "operators") else "right", overflow="fold")
        layers = profile.layers()
        for layer in layers[:SHOWN]:
            table.add_row(*(Text(cell) for cell in _layer_cells(layer, profile)))
        rest = layers[SHOWN:]
        if rest:
            summed = LayerTotal(f"{len(rest)} more", (), sum(layer.amount for layer in rest))
            table.add_row(*(Text(cell) for cell in _layer_cells(summed, profile)))
        console.print(table)
        if not profile.joined:
            console.print(Text("what its profiler names could not be brought together with the file's layers"))


def _layer_cells(layer: LayerTotal, profile: Profile) -> tuple[str, str, str, str]:
    share = f"{100 * layer.amount / profile.total:.1f} %" if profile.total else ""
    return layer.layer, ", ".join(layer.operators), amount(profile.unit, layer.amount), share


def amount(unit: Unit, value: float) -> str:
    """An amount of a profile as text."""
    return f"{value:,.0f}" if unit == "instructions" else f"{value:.3f}"


def profiles_as_plain(names: Sequence[str], found: Sequence[Profile | NotMeasured], out: Path) -> dict[str, Any]:
    """Every profile by layer, worst first, and by operator in the order in which they run."""
    return {
        "version": VERSION,
        "added_to": str(out),
        "profiles": [
            {
                "file": name,
                **asdict(each),
                **({"layers": [asdict(layer) for layer in each.layers()]} if isinstance(each, Profile) else {}),
            }
            for name, each in zip(names, found, strict=True)
        ],
    }


VERSION = 1


TIMED = ("file", "size", "load", "first", "p10", "p50", "p90", "runs", "peak memory", "beside the first")


COUNTED = ("file", "size", "instructions", "vector", "memory traffic", "peak allocated", "answers as on this machine")


def show_rows(artifacts: Sequence[Artifact], rows: Sequence[Row], place: Path, console: Console) -> None:
    """Prints a line for each file, then what a reader must know, and where the rows lie."""
    counted = any(isinstance(row, Simulated) for row in rows)
    table = Table(title=Text(figures.device_text(rows[0].device)), title_justify="left")
    for name in COUNTED if counted else TIMED:
        table.add_column(name, justify="left" if name == "file" else "right", overflow="fold")
    for artifact, row in zip(artifacts, rows, strict=True):
        cells = _file_cells(row, _ratio(row, rows))
        table.add_row(*(Text(cell) for cell in (artifact.path.name, figures.size(artifact.bytes), *cells)))
    console.print(table)
    for artifact, row in zip(artifacts, rows, strict=True):
        for note in _notes(row):
            console.print(Text(f"{artifact.path.name}: {note}"), soft_wrap=True)
    console.print(Text(f"rows added to {place}"), soft_wrap=True)


def _file_cells(row: Row, ratio: Ratio | None) -> tuple[str, ...]:
    if isinstance(row, NotMeasured):
        return ("not measured",)
    if isinstance(row, Simulated):
        run, parity = row.run, row.parity
        traffic = "not looked at" if row.traffic is None else figures.size(row.traffic.memory_bytes)
        share, memory = f"{100 * run.vector / run.instructions:.1f} %", figures.size(row.memory.model_peak * 1024)
        return f"{run.instructions:,}", share, traffic, memory, f"cosine {parity.cosine:.7f}"
    if row.invalid:
        return ("invalid",)
    found, peak = summarize(row), row.memory.model_peak
    times = (row.load_ms, row.first_ms, found.p10, found.p50, found.p90)
    memory = "not measured" if peak is None else figures.size(peak * 1024)
    return *(f"{ms:.3g} ms" for ms in times), str(found.runs), memory, "" if ratio is None else figures.faster(ratio)


def _ratio(row: Row, rows: Sequence[Row]) -> Ratio | None:
    """The file's time over that of the first file of its format, with which it took turns; None for that first one."""
    if not isinstance(row, Measurement) or row.invalid:
        return None
    first = next(each for each in rows if isinstance(each, Measurement) and each.session == row.session)
    return None if first is row or first.invalid else time_ratio(row, first)


def _notes(row: Row) -> list[str]:
    if isinstance(row, NotMeasured):
        return [row.reason]
    return [note for note in (_trouble(row), row.note) if note]


def _trouble(row: Measurement | Simulated) -> str:
    return times_remark(row) if isinstance(row, Measurement) else ""


def as_plain(artifacts: Sequence[Artifact], rows: Sequence[Row], place: Path) -> dict[str, Any]:
    """The rows as they are stored, each with its file and its statistics (null where there are no times)."""
    plain = []
    for artifact, row in zip(artifacts, rows, strict=True):
        timed = asdict(summarize(row)) if isinstance(row, Measurement) else None
        ratio = _ratio(row, rows)
        extra = {"file": str(artifact.path), "statistics": timed, "ratio": None if ratio is None else asdict(ratio)}
        plain.append({**extra, **json.loads(to_line(row))})
    return {"version": VERSION, "added_to": str(place), "rows": plain}
