"""A comparison in the terminal and as JSON."""

from __future__ import annotations

from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.budgets.wording import contrast
from compress_export.reporting.comparison import Column, Comparison, Row


def show_comparison(found: Comparison, console: Console) -> None:
    """Prints a column for each thing compared, ratios beside the figures, and the notes."""
    table = Table(box=SIMPLE_HEAD, show_edge=False)
    table.add_column("", overflow="fold")
    for column in found.columns:
        table.add_column(Text(column.name), justify="right", overflow="fold")
    for row in found.rows:
        table.add_row(Text(_title(row)), *(Text(cell) for cell in _cells(found, row)))
    console.print(table)
    for note in (*found.notes, *_type_notes(found)):
        console.print(Text(f"note: {note}"), soft_wrap=True)


def _title(row: Row) -> str:
    return f"{row.title}\n  on {row.where}" if row.where else row.title


def _cells(found: Comparison, row: Row) -> list[str]:
    """The row's figures, exact where two that differ would look the same, with each one's ratio to the first."""
    missing = "not there" if row.unit in ("bytes", "count") and not row.where else "not measured"
    known = [column.figures[row].value for column in found.columns if row in column.figures]
    said = iter(contrast(row.unit, *known))
    return [
        f"{next(said)}{_ratio(found, row, column)}" if row in column.figures else missing for column in found.columns
    ]


def _ratio(found: Comparison, row: Row, column: Column) -> str:
    ratio = found.ratio(row, column)
    if row.unit == "percent" and column is not found.columns[0] and row in found.columns[0].figures:
        return f" ({column.figures[row].value - found.columns[0].figures[row].value:+.2f})"
    if ratio is None:
        return ""
    bounds = "" if ratio.low is None or ratio.high is None else f", {ratio.low:.3g} to {ratio.high:.3g}"
    mark = "*" if found.mixed(row, column) else ""
    return f" ({ratio.value:.3g}x{bounds}){mark}"


def _type_notes(found: Comparison) -> list[str]:
    """What a star beside a ratio means."""
    pairs = {found.mixed(row, column) for row in found.rows for column in found.columns[1:]} - {""}
    return [f"* {pair}: the ratio is partly that of the types" for pair in sorted(pairs)]


def as_plain(found: Comparison) -> dict[str, Any]:
    """The comparison as JSON holds it: null where there is no figure, or no ratio that means something."""
    return {
        "version": 1,
        "columns": [column.name for column in found.columns],
        "rows": [_plain_row(found, row) for row in found.rows],
        "notes": [*found.notes, *_type_notes(found)],
    }


def _plain_row(found: Comparison, row: Row) -> dict[str, Any]:
    entries = [column.figures.get(row) for column in found.columns]
    ratios = [found.ratio(row, column) for column in found.columns]
    return {
        "title": row.title,
        "unit": row.unit,
        "device": row.where or None,
        "kind": row.kind or None,
        "values": [None if entry is None else entry.value for entry in entries],
        "types": [None if entry is None else entry.dtype or None for entry in entries],
        "ratios": [None if ratio is None else ratio.value for ratio in ratios],
        "intervals": [None if r is None or r.low is None else [r.low, r.high] for r in ratios],
    }
