"""The counts of the simulated ARM CPU, for the pages, for programs and for the terminal. Counts, never times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from bench.measurement import Counts, Simulated
from compress_export.reporting import figures
from compress_export.reporting.values import FileRow, FormatRow, Pair, Summary

HEAD = (
    "file", "instructions", "change", "vector", "load", "store", "branch", "other", "to load the file", "bytes read",
    "bytes written", "to and from memory", "peak allocated", "answers against this machine's",
)  # fmt: skip

EXPLAINED = (
    "Counted on a simulated CPU: instructions of one run. `to and from memory` is what passes the second "
    "level of the core's cache model. `peak allocated` is what loading and running the file adds to what the program "
    "had asked for, touched or not. These are no times: a core runs some instructions many times faster than others."
)


@dataclass(frozen=True)
class CountedPair:
    """Both files of a format on one core, counted with the same program, so that they may be compared."""

    format: str
    core: str
    instructions: Pair


def cores(summary: Summary) -> tuple[str, ...]:
    """The simulated devices that files of this run were counted on, in the order in which they appear."""
    found = [row.device.name for file in _files(summary) for row in file.simulated]
    return tuple(dict.fromkeys(found))


def rows(summary: Summary, core: str) -> list[tuple[str, ...]]:
    """A row under HEAD for each file that was counted on `core`."""
    table = []
    for form in summary.formats:
        first, last = _row(form.original, core), _row(form.compressed, core)
        for file, row in ((form.original, first), (form.compressed, last)):
            if row is not None:
                change = _change(first, last) if row is last else ""
                table.append((file.artifact.path.name, *_cells(row, change)))
    return table


def closing_rows(form: FormatRow) -> list[tuple[str, str, str, str]]:
    """A row of the closing table for each core on which both files of the format were counted."""
    table = []
    for first in form.original.simulated:
        last = _row(form.compressed, first.device.name)
        if last is not None:
            counts = figures.count(first.run.instructions), figures.count(last.run.instructions)
            table.append((f".{form.format} instructions, {first.device.cpu}", *counts, _change(first, last)))
    return table


def pairs(formats: Sequence[FormatRow]) -> Iterator[CountedPair]:
    """What can be compared: format by format, each on every core that counted both of its files."""
    for form in formats:
        for first in form.original.simulated:
            last = _row(form.compressed, first.device.name)
            if last is not None and _comparable(first, last):
                pair = Pair(first.run.instructions, last.run.instructions)
                yield CountedPair(form.format, first.device.name, pair)


def plain(summary: Summary) -> list[dict[str, Any]]:
    """An object for each file and each core that counted it; what was not looked at is None."""
    return [
        _plain(file, row, _row(form.original, row.device.name) if file is form.compressed else None)
        for form in summary.formats
        for file in (form.original, form.compressed)
        for row in file.simulated
    ]


def _plain(file: FileRow, row: Simulated, first: Simulated | None) -> dict[str, Any]:
    fewer = first.run.instructions / row.run.instructions if first is not None and _comparable(first, row) else None
    traffic = None if row.traffic is None else {**asdict(row.traffic), "memory_bytes": row.traffic.memory_bytes}
    return {
        "file": file.artifact.path.name,
        "core": row.device.name,
        "device": asdict(row.device),
        "emulator": row.emulator,
        "runtime": row.runtime,
        "runtime_version": row.runtime_version,
        "images": row.images,
        "measured_at": row.measured_at,
        **{name: _with_sum(counts) for name, counts in (("load", row.load), ("first", row.first), ("run", row.run))},
        "fewer": fewer,
        "traffic": traffic,
        "allocated_peak_kb": row.memory.model_peak,
        "parity": asdict(row.parity),
    }


def _with_sum(counts: Counts) -> dict[str, int]:
    return {"instructions": counts.instructions, **asdict(counts)}


def fewer(pair: Pair) -> str:
    return f"{pair.smaller:.2f}x fewer" if pair.smaller >= 1 else f"{1 / pair.smaller:.2f}x more"


def _files(summary: Summary) -> list[FileRow]:
    return [file for form in summary.formats for file in (form.original, form.compressed)]


def _row(file: FileRow, core: str) -> Simulated | None:
    return next((row for row in file.simulated if row.device.name == core), None)


def _change(first: Simulated | None, last: Simulated | None) -> str:
    """How many times fewer; nothing where two counters or runtimes would be compared."""
    if first is None or last is None:
        return ""
    if not _comparable(first, last):
        return "not comparable: counted with different programs"
    return fewer(Pair(first.run.instructions, last.run.instructions))


def _comparable(first: Simulated, last: Simulated) -> bool:
    return (first.emulator, first.runtime_version) == (last.emulator, last.runtime_version)


def _cells(row: Simulated, change: str) -> tuple[str, ...]:
    run = row.run
    same = round((row.parity.top1_agreement or 0) * row.parity.images)
    return (
        f"{run.instructions:,}",
        change,
        *(
            f"{100 * part / run.instructions:.1f} %"
            for part in (run.vector, run.load, run.store, run.branch, run.other)
        ),
        figures.count(row.load.instructions),
        figures.size(run.load_bytes),
        figures.size(run.store_bytes),
        "not looked at" if row.traffic is None else figures.size(row.traffic.memory_bytes),
        figures.size(row.memory.model_peak * 1024),
        f"cosine {row.parity.cosine:.7f}; same class {same} of {row.parity.images}",
    )
