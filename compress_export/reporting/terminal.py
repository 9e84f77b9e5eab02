"""Tables in the terminal: the closing table, original beside compressed, and the plan."""

from __future__ import annotations

from collections.abc import Container
from typing import TYPE_CHECKING

from rich.box import HEAVY_HEAD, SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress_export.reporting import figures
from compress_export.reporting.model import Report
from compress_export.reporting.notes import unsteady_sentence
from compressor.plan import Plan

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


def show_plan(plan: Plan, survey: Survey, console: Console) -> None:
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
        else:
            lines.append(f"time: {plan.cost_source}")
        if plan.timed is not None:
            ratio = f"{1 / plan.timed:.2f}x faster"
            lines.append(f"measured in turns with the original, at this plan's ranks: {ratio}")
        if after.drop is not None:
            lines.append(f"predicted loss before tuning: {after.drop:.2f} points of top-1 ({plan.loss_source})")
        for line in lines:
            console.print(Text(line))
    for note in plan.notes:
        console.print(Text(f"note: {note}"))
