"""Costs by layer, worst first: a table in the terminal, and JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.measurement import NotMeasured
from bench.profiles import LayerShare, Profile, Unit
from compress_export.reporting import figures

VERSION = 1
SHOWN = 24
"""Lines of a table; what costs less is summed up."""


def show_profiles(profiles: Iterable[tuple[str, Profile]], console: Console) -> None:
    """Prints a table for each (name, profile)."""
    for name, profile in profiles:
        kind = "instructions of one run" if profile.unit == "instructions" else f"ms, median of {profile.runs} runs"
        table = Table(title=Text(f"{name} on {figures.place(profile.device)}: {kind}"), title_justify="left")
        for head in ("layer", "operators", profile.unit, "share"):
            table.add_column(head, justify="left" if head in ("layer", "operators") else "right", overflow="fold")
        layers = profile.layers()
        for layer in layers[:SHOWN]:
            table.add_row(*(Text(cell) for cell in _cells(layer, profile)))
        rest = layers[SHOWN:]
        if rest:
            summed = LayerShare(f"{len(rest)} more", (), sum(layer.amount for layer in rest))
            table.add_row(*(Text(cell) for cell in _cells(summed, profile)))
        console.print(table)
        if not profile.joined:
            console.print(Text("what its profiler names could not be brought together with the file's layers"))


def _cells(layer: LayerShare, profile: Profile) -> tuple[str, str, str, str]:
    share = f"{100 * layer.amount / profile.total:.1f} %" if profile.total else ""
    return layer.layer, ", ".join(layer.operators), amount(profile.unit, layer.amount), share


def amount(unit: Unit, value: float) -> str:
    """An amount of a profile as text."""
    return f"{value:,.0f}" if unit == "instructions" else f"{value:.3f}"


def as_plain(names: Sequence[str], found: Sequence[Profile | NotMeasured], out: Path) -> dict[str, Any]:
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
