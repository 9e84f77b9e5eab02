"""Tables in the terminal: the report, the plan, and measurements and profiles of files that belong to no run."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.measurement import Measurement, NotMeasured, Row, Simulated, to_line
from bench.profile.profile import LayerTotal, Profile
from bench.statistics import Ratio, summarize, time_ratio, times_remark
from compress_export.reporting import figures
from compress_export.reporting.model import Report
from compress_export.reporting.notes import unsteady_sentence
from compressor.plan import Plan
from exporters.artifact import Artifact

if TYPE_CHECKING:
    from compressor.survey import Survey  # brings torch along, which a report does not need


def show(report: Report, console: Console) -> None:
    """Prints the report's closing table, original beside compressed, then its notes, then what failed, in full."""
    totals = figures.totals(report, figures.count)
    rows = [*totals.rows, *figures.format_rows(report)]
    title = f"{report.title}: original and compressed"
    print_table(figures.Table(totals.head, rows), ("", "change"), console, title)
    if report.device is not None:
        turns = "; ratios are taken round by round, in turns" if any(row.ratio for row in report.formats) else ""
        console.print(Text(f"latency and memory on {figures.device_text(report.device)}{turns}"))
    warning = unsteady_sentence(report.formats, report.again)
    if warning:
        console.print(Text(warning), style="bold")
    if report.processes:
        print_table(figures.processes_table(report), ("file", "process"), console, figures.PROCESSES_TITLE)
        console.print(Text(figures.PROCESSES_NOTE))
    for note in report.notes:
        console.print(Text(f"note: {note}"))
    for failure in report.failures:
        console.print(Text(f"failed: {failure}"), style="bold red")


def print_table(
    found: figures.Table, left: Container[str], console: Console, title: str = "", light: bool = False
) -> None:
    """Prints a table, a `light` one without frame; columns are right-aligned but those in `left`."""
    box = SIMPLE_HEAD if light else HEAVY_HEAD
    table = Table(title=Text(title) if title else None, title_justify="left", box=box, show_edge=not light)
    for name in found.head:
        table.add_column(Text(name), justify="left" if name in left else "right", overflow="fold")
    for row in found.rows:
        table.add_row(*map(Text, row))
    console.print(table)


def show_plan(plan: Plan, survey: Survey, console: Console, metric: str = "top-1") -> None:
    """Prints the plan: a line for each layer with its fraction of the network and the reason; then the totals."""
    from compressor.planning.planner import planned_parameters  # brings torch along, which a report does not need

    table = Table(title=Text(f"Plan: {plan.rule}, {plan.goal}"), title_justify="left")
    for name in ("layer", "weight", "params", "MACs", "method", "rank", "why"):
        right = name in ("params", "MACs", "rank")
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "why", overflow="fold")
    for layer in plan.layers:
        cost = survey.layer(layer.name).cost
        cells = (
            layer.name,
            "x".join(map(str, layer.weight)),
            f"{100 * cost.parameters / survey.parameters:.1f} %",
            f"{100 * cost.macs / max(1, survey.macs):.1f} %",
            layer.method,
            ", ".join(map(str, layer.rank)),
            layer.reason.removeprefix("kept: "),
        )
        table.add_row(*(Text(cell) for cell in cells))
    console.print(table)
    console.print(Text(f"parameters: {survey.parameters:,} -> {planned_parameters(plan, survey):,}"))
    before, after = plan.original, plan.chosen
    if before is not None and after is not None:
        fewer = f"{before.macs / max(1, after.macs):.2f}x fewer"
        lines = [f"MACs: {before.macs / 1e6:,.1f}M -> {after.macs / 1e6:,.1f}M ({fewer})"]
        if before.ms is not None and after.ms is not None:
            faster = f"{before.ms / max(after.ms, 1e-9):.2f}x faster"
            lines.append(f"predicted time: {before.ms:.2f} ms -> {after.ms:.2f} ms ({faster}), {plan.cost_source}")
        elif before.instructions is not None and after.instructions is not None:
            fewer = f"{before.instructions / max(1, after.instructions):.2f}x fewer"
            counts = f"{before.instructions / 1e6:,.2f}M -> {after.instructions / 1e6:,.2f}M"
            lines.append(f"predicted instructions: {counts} ({fewer}); {plan.cost_source}")
        else:
            lines.append(f"time: {plan.cost_source}")
        if plan.timed is not None:
            ratio = f"{1 / plan.timed:.2f}x faster"
            lines.append(f"measured in turns with the original, at this plan's ranks: {ratio}")
        if after.drop is not None:
            lines.append(f"predicted loss before tuning: {after.drop:.2f} points of {metric} ({plan.loss_source})")
        for line in lines:
            console.print(Text(line))
    for note in plan.notes:
        console.print(Text(f"note: {note}"))


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
