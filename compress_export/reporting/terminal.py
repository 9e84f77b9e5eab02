"""The closing table in the terminal: original beside compressed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from compress_export.reporting import counted, figures, processes
from compress_export.reporting.figures import closing_rows
from compress_export.reporting.notes import unsteady_sentence
from compress_export.reporting.values import Summary
from compressor.plan import Plan

if TYPE_CHECKING:
    from compressor.survey import Survey  # brings torch along, which a report does not need


def show(summary: Summary, console: Console) -> None:
    """Prints the summary's table, then what failed, in full."""
    table = Table(title=Text(f"{summary.title}: original and compressed"), title_justify="left")
    for name in ("", "original", "compressed", "change"):
        table.add_column(name, justify="left" if name in ("", "change") else "right")
    for row in _rows(summary):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    if summary.device is not None:
        how = "; ratios are taken round by round, in turns" if any(row.ratio for row in summary.formats) else ""
        console.print(Text(f"latency and memory on {figures.place(summary.device)}{how}"))
    warning = unsteady_sentence(summary.formats, summary.again)
    if warning:
        console.print(Text(warning), style="bold")
    if summary.beside:
        _show_processes(summary, console)
    for note in summary.notes:
        console.print(Text(f"note: {note}"))
    for failure in summary.failures:
        console.print(Text(f"failed: {failure}"), style="bold red")


def _show_processes(summary: Summary, console: Console) -> None:
    table = Table(title=processes.TITLE, title_justify="left")
    for place, name in enumerate(processes.HEAD):
        table.add_column(name, justify="left" if place < 2 else "right")
    for row in processes.table(summary.beside):
        table.add_row(*(Text(cell) for cell in row))
    console.print(table)
    console.print(Text(processes.SAYS))


def _rows(summary: Summary) -> list[tuple[str, str, str, str]]:
    rows = [
        (
            name,
            figures.count(pair.original),
            figures.count(pair.compressed),
            figures.smaller(pair),
        )
        for name, pair in (("parameters", summary.parameters), ("MACs", summary.macs))
    ]
    if summary.paper_parameters is not None:
        ratio = f"{summary.parameters.original / summary.paper_parameters:.2f}x smaller"
        before = figures.count(summary.parameters.original)
        rows.append(("parameters, papers' count", before, figures.count(summary.paper_parameters), ratio))
    change = summary.accuracy
    if change is None:
        rows.append(("top-1", "not measured", "not measured", ""))
    else:
        flips = f"{change.gained} gained, {change.lost} lost of {change.images}"
        rows.append(("top-1", f"{change.top1.original:.2f} %", f"{change.top1.compressed:.2f} %", flips))
        if change.top5 is not None:
            rows.append(("top-5", f"{change.top5.original:.2f} %", f"{change.top5.compressed:.2f} %", ""))
    rows += closing_rows(summary.shared)
    for row in summary.formats:
        first, last = row.original, row.compressed
        sizes = figures.size(row.bytes.original), figures.size(row.bytes.compressed)
        rows.append((f".{row.format} size", *sizes, figures.smaller(row.bytes)))
        rows.append((f".{row.format} answers", first.answers, last.answers, _short(figures.parity(last))))
        times = figures.milliseconds(first), figures.milliseconds(last)
        rows.append((f".{row.format} latency, p50", *times, figures.faster(row.ratio)))
        rows.append(
            (
                f".{row.format} peak memory",
                figures.memory(first),
                figures.memory(last),
                figures.less_memory(first, last),
            )
        )
        rows += counted.closing_rows(row)
    return rows


def _short(text: str) -> str:
    """The first clause; the page has the rest."""
    return text.split(",")[0]


def show_plan(plan: Plan, survey: Survey, console: Console) -> None:
    """Prints the plan: a line for each layer with its share of the network, and the reason; then what is left."""
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
    for line in _predicted(plan):
        console.print(Text(line))
    for note in plan.notes:
        console.print(Text(f"note: {note}"))


def _predicted(plan: Plan) -> Iterator[str]:
    """What a plan with a budget predicts of the whole network, and what that rests on."""
    before, after = plan.original, plan.chosen
    if before is None or after is None:
        return
    yield f"MACs: {before.macs / 1e6:,.1f}M -> {after.macs / 1e6:,.1f}M ({before.macs / max(1, after.macs):.2f}x fewer)"
    if before.ms is not None and after.ms is not None:
        faster = before.ms / max(after.ms, 1e-9)
        yield f"predicted time: {before.ms:.2f} ms -> {after.ms:.2f} ms ({faster:.2f}x faster), {plan.cost_source}"
    else:
        yield f"time: {plan.cost_source}"
    if plan.timed is not None:
        yield f"measured in turns with the original, at this plan's ranks: {1 / plan.timed:.2f}x faster"
    if after.drop is not None:
        yield f"predicted loss before tuning: {after.drop:.2f} points of top-1 ({plan.loss_source})"
