"""Measurements and profiles of files that belong to no run: tables in the terminal, and JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec
from rich.console import Console
from rich.text import Text

from bench.measurement import Measurement, NotMeasured, Row, Simulated, to_line
from bench.profile.profile import LayerTotal, Profile
from bench.statistics import Ratio, summarize, time_ratio, times_remark
from compress_export.reporting import figures
from compress_export.reporting.terminal import print_table
from exporters.artifact import Artifact

VERSION = 1
"""Of both JSON objects; raised when a key changes its meaning or goes."""

SHOWN = 24
"""Layers of a profile that a table lists; what costs less is summed up."""

TIMED = ("file", "size", "load", "first", "p10", "p50", "p90", "runs", "peak memory", "beside the first")
COUNTED = ("file", "size", "instructions", "vector", "memory traffic", "peak allocated", "outputs as on this machine")


def show_profiles(profiles: Iterable[tuple[str, Profile]], console: Console) -> None:
    """Prints a table for each (name, profile)."""
    for name, profile in profiles:
        kind = "instructions of one run" if profile.unit == "instructions" else f"ms, median of {profile.runs} runs"
        layers = profile.layers()
        rest = layers[SHOWN:]
        summed = [LayerTotal(f"{len(rest)} more", (), sum(layer.amount for layer in rest))] if rest else []
        rows = []
        for layer in (*layers[:SHOWN], *summed):
            amount = f"{layer.amount:,.0f}" if profile.unit == "instructions" else f"{layer.amount:.3f}"
            fraction = f"{100 * layer.amount / profile.total:.1f} %" if profile.total else ""
            rows.append((layer.layer, ", ".join(layer.operators), amount, fraction))
        title = f"{name} on {figures.device_text(profile.device)}: {kind}"
        head = ("layer", "operators", profile.unit, "fraction")
        print_table(figures.Table(head, rows), ("layer", "operators"), console, title)
        if not profile.joined:
            console.print(Text("what its profiler names could not be brought together with the file's layers"))


def profiles_as_plain(names: Sequence[str], found: Sequence[Profile | NotMeasured], out: Path) -> dict[str, object]:
    """Every profile by layer, worst first, and by operator in the order in which they run."""
    profiles = [
        {"file": name, **msgspec.to_builtins(each)}
        | ({"layers": msgspec.to_builtins(each.layers())} if isinstance(each, Profile) else {})
        for name, each in zip(names, found, strict=True)
    ]
    return {"version": VERSION, "added_to": str(out), "profiles": profiles}


def show_rows(artifacts: Sequence[Artifact], rows: Sequence[Row], place: Path, console: Console) -> None:
    """Prints a line for each file, then the remarks on its measurement, and where the rows lie."""
    head = COUNTED if any(isinstance(row, Simulated) for row in rows) else TIMED
    cells = []
    for artifact, row in zip(artifacts, rows, strict=True):
        found = (artifact.path.name, figures.size(artifact.bytes), *_cells(row, _ratio(row, rows)))
        cells.append((*found, *[""] * (len(head) - len(found))))
    print_table(figures.Table(head, cells), ("file",), console, figures.device_text(rows[0].device))
    for artifact, row in zip(artifacts, rows, strict=True):
        remark = times_remark(row) if isinstance(row, Measurement) else ""
        for note in (row.reason,) if isinstance(row, NotMeasured) else (remark, row.note):
            if note:
                console.print(Text(f"{artifact.path.name}: {note}"), soft_wrap=True)
    console.print(Text(f"rows added to {place}"), soft_wrap=True)


def _cells(row: Row, ratio: Ratio | None) -> tuple[str, ...]:
    if isinstance(row, NotMeasured):
        return (figures.NOT_MEASURED,)
    if isinstance(row, Simulated):
        vector = f"{100 * row.run.vector / row.run.instructions:.1f} %"
        traffic = "not recorded" if row.traffic is None else figures.size(row.traffic.memory_bytes)
        memory = figures.size(row.memory.model_peak * 1024)
        return f"{row.run.instructions:,}", vector, traffic, memory, f"cosine {row.parity.cosine:.7f}"
    if row.invalid:
        return ("invalid",)
    found, peak = summarize(row), row.memory.model_peak
    times = (f"{ms:.3g} ms" for ms in (row.load_ms, row.first_ms, found.p10, found.p50, found.p90))
    memory = figures.NOT_MEASURED if peak is None else figures.size(peak * 1024)
    return *times, str(found.runs), memory, "" if ratio is None else figures.faster(ratio)


def _ratio(row: Row, rows: Sequence[Row]) -> Ratio | None:
    """The file's time over that of the first file of its format, with which it took turns; None for that first one."""
    if not isinstance(row, Measurement) or row.invalid:
        return None
    first = next(each for each in rows if isinstance(each, Measurement) and each.session == row.session)
    return None if first is row or first.invalid else time_ratio(row, first)


def as_plain(artifacts: Sequence[Artifact], rows: Sequence[Row], place: Path) -> dict[str, object]:
    """The rows as they are stored, each with its file and its statistics (null where there are no times)."""
    plain = []
    for artifact, row in zip(artifacts, rows, strict=True):
        timed = summarize(row) if isinstance(row, Measurement) else None
        extra = {"statistics": msgspec.to_builtins(timed), "ratio": msgspec.to_builtins(_ratio(row, rows))}
        plain.append({"file": str(artifact.path), **extra, **json.loads(to_line(row))})
    return {"version": VERSION, "added_to": str(place), "rows": plain}
