"""Which rows a report shows: those of one device; and a phone's inside an app beside those outside it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from bench.measurement import Device, Measurement, Row, Simulated
from bench.statistics import summarize

HEAD = ("file", "process", "median ms", "of the shell's", "p90 ms", "runs", "peak memory, MB")
TITLE = "The same phone, inside an app and outside"
SAYS = "Each process was measured in a session of its own: trust no few percent between them."


def beside(rows: Sequence[Row], device: Device | None) -> tuple[Measurement, ...]:
    """The newest usable measurement of each file in each process of the phone; none where there is one process only."""
    if device is None or device.kind != "phone":
        return ()
    found: dict[tuple[str, str, str], Measurement] = {}
    for row in rows:
        if isinstance(row, Measurement) and not row.invalid and same_phone(row.device, device):
            found[row.format, row.network, row.device.process] = row
    several = len({row.device.process for row in found.values()}) > 1
    return tuple(found[key] for key in sorted(found, reverse=True)) if several else ()


def on_one_device(rows: Sequence[Row]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows of the device that was timed last and all simulated ones, and a note that names the other devices.

    Times of two devices never stand in one table; simulated rows hold counts, which have a table of their own.
    """
    timed = [row.device for row in rows if not isinstance(row, Simulated) and row.device.kind != "simulated"]
    if not timed:
        return tuple(rows), ()
    others = dict.fromkeys(f"{each.name} ({each.kind})" for each in timed if not same_phone(each, timed[-1]))
    note = f"measurements.jsonl also has rows of {', '.join(others)}, which are not compared with these."
    kept = tuple(row for row in rows if row.device == timed[-1] or row.device.kind == "simulated")
    return kept, (note,) if others else ()


def same_phone(one: Device, other: Device) -> bool:
    return replace(one, process=other.process) == other


def table(found: Sequence[Measurement]) -> list[tuple[str, ...]]:
    """A row under HEAD for each of them."""
    return [_cells(row, of_shell(row, found)) for row in found]


def of_shell(row: Measurement, found: Sequence[Measurement]) -> float | None:
    """How many times the shell's median the row's is; None where the file has no row of the shell."""
    same = (each for each in found if (each.format, each.network) == (row.format, row.network))
    shell = next((each for each in same if each.device.process == "shell"), None)
    return None if shell is None else summarize(row).p50 / summarize(shell).p50


def plain(found: Sequence[Measurement]) -> list[dict[str, Any]]:
    """The same for programs; what was not measured is None."""
    return [
        {
            "file": f"{row.network}.{row.format}",
            "process": row.device.process,
            **{name: getattr(summarize(row), name) for name in ("p50", "p90", "runs")},
            "of_shell": of_shell(row, found),
            "model_peak_kb": row.memory.model_peak,
        }
        for row in found
    ]


def _cells(row: Measurement, ratio: float | None) -> tuple[str, ...]:
    figures, peak = summarize(row), row.memory.model_peak
    compared = "not measured" if ratio is None else f"{ratio:.2f}x"
    times = f"{figures.p50:.2f}", compared, f"{figures.p90:.2f}", str(figures.runs)
    memory = "not measured" if peak is None else f"{peak * 1024 / 1e6:.1f}"
    return f"{row.network}.{row.format}", row.device.process, *times, memory
