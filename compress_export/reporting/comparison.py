"""Several runs, files or measurements as columns of one table. Rows are compared only where they mean the same."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.budgets.limits import Unit
from bench.budgets.model_files import ModelFile
from bench.budgets.verdicts import contrast
from bench.measurement import BenchError, Measurement, process_said, read
from bench.run_files import COMPRESSED, RunFiles
from bench.statistics import Ratio, summarize, time_ratio, times_remark
from compress_export.errors import InputError
from exporters.artifact import Artifact


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


@dataclass(frozen=True)
class Row:
    """What a figure is. Two figures stand in one row only if all of this is equal; `where` is the device, with its
    kind and threads, so that host, simulated and phone figures never do."""

    title: str
    unit: Unit
    where: str = ""
    kind: str = ""
    more: bool = False

    def usable(self, entry: Entry) -> bool:
        """Whether a figure of this row is to be shown: invalid times are not, the memory beside them is."""
        return self.unit != "ms" or entry.measured is None or not entry.measured.invalid


@dataclass(frozen=True)
class Entry:
    """One figure; `dtype` is the type of the file that it was taken from, `measured` the row that it came from."""

    value: float
    dtype: str = ""
    measured: Measurement | None = None


@dataclass(frozen=True)
class Column:
    """One of the things compared, with its figures."""

    name: str
    figures: dict[Row, Entry]


@dataclass(frozen=True)
class Comparison:
    """The columns, the rows in order, and what a reader must know to judge them."""

    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]

    def ratio(self, row: Row, column: Column) -> Ratio | None:
        """The column's figure over the first column's; with an interval where the two files took turns. None where
        one of the two is missing, and for percentages, whose difference in points says more."""
        first, own = self.columns[0].figures.get(row), column.figures.get(row)
        if column is self.columns[0] or first is None or own is None or not first.value or row.unit == "percent":
            return None
        if row.title.endswith("latency, p50") and took_turns(first, own):
            assert first.measured is not None
            assert own.measured is not None
            return time_ratio(own.measured, first.measured)
        return Ratio(own.value / first.value, None, None, 0)

    def mixed(self, row: Row, column: Column) -> str:
        """The remark on a ratio between files of different types; "" where they are of one."""
        first, own = self.columns[0].figures.get(row), column.figures.get(row)
        if first is None or own is None or first.dtype == own.dtype or not (first.dtype and own.dtype):
            return ""
        return f"{own.dtype} beside {first.dtype}"


def took_turns(one: Entry, other: Entry) -> bool:
    """Whether the two files were measured in one session, A B B A."""
    rows = one.measured, other.measured
    return all(rows) and len({row.session for row in rows if row is not None}) == 1


def compared(paths: Sequence[Path]) -> Comparison:
    """The comparison of what lies at these paths. InputError for what is none of the three; BenchError from readers."""
    files_only = all(_is_file(path) for path in paths)
    try:
        figures = [_figures(path, files_only) for path in paths]
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"a file of these runs has lost its content ({error}); make the run again") from error
    taken = [Column(name, own) for name, own in zip(_names(paths), figures, strict=True)]
    rows = tuple(dict.fromkeys(row for column in taken for row in column.figures))
    columns = tuple(Column(each.name, {row: e for row, e in each.figures.items() if row.usable(e)}) for each in taken)
    altered = [note for path, column in zip(paths, taken, strict=True) for note in _altered(path, column.name)]
    return Comparison(columns, rows, (*altered, *_doubts(taken), *_notes(columns, rows)))


def _is_run(path: Path) -> bool:
    return path.is_dir() and ((path / "settings.json").is_file() or (path / "artifacts.json").is_file())


def _is_file(path: Path) -> bool:
    return not _is_run(path) and path.suffix != ".jsonl"


def _names(paths: Sequence[Path]) -> list[str]:
    """The paths without the folders that all share."""
    shared = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    names = [path.absolute().relative_to(shared).as_posix() for path in paths]
    return names if len(set(names)) == len(names) else [str(path) for path in paths]


def _figures(path: Path, files_only: bool) -> dict[Row, Entry]:
    if not path.exists():
        raise InputError(f"{path}: there is no such run or file")
    if _is_run(path):
        return dict(_of_run(RunFiles(path)))
    if path.suffix == ".jsonl":
        return dict(_of_measurements(path))
    if path.is_dir() and path.suffix != ".mlpackage":
        raise InputError(f"{path} is a folder, and neither a run (it has no settings.json) nor an .mlpackage")
    run = RunFiles.of(path)
    if run is not None:
        run.check()
    subject = ModelFile(str(path), path, run)
    if subject.problem is not None:
        raise InputError(f"{path}: {subject.problem}")
    return dict(_of_file(subject, "" if files_only else f"{path.suffix} "))


def _of_run(run: RunFiles) -> Iterator[tuple[Row, Entry]]:
    run.check()
    survey, accuracy = run.survey(COMPRESSED), run.accuracy(COMPRESSED)
    if survey is not None:
        yield Row("parameters", "count"), Entry(survey["parameters"])
        yield Row("MACs", "count"), Entry(survey["macs"])
    if accuracy is not None:
        yield Row("top-1 accuracy", "percent", more=True), Entry(accuracy["top1"])
    for artifact in run.artifacts:
        if artifact.network == COMPRESSED:
            yield Row(f".{artifact.format} size", "bytes"), Entry(artifact.bytes, artifact.dtype)
            yield from _timed(run, artifact, f".{artifact.format} ")


def _of_file(subject: ModelFile, prefix: str) -> Iterator[tuple[Row, Entry]]:
    contents, artifact = subject.contents, subject.artifact
    types = [name for name in (contents.dtypes if contents is not None else ()) if "int64" not in name]
    dtype = artifact.dtype if artifact is not None else next(iter(types), "")
    yield Row(f"{prefix}size", "bytes"), Entry(subject.measured[0], dtype)
    if contents is not None:
        yield Row("stored numbers", "count"), Entry(contents.parameters)
    if artifact is not None and subject.run is not None:
        yield from _timed(subject.run, artifact, prefix)


def _timed(run: RunFiles, artifact: Artifact, prefix: str) -> Iterator[tuple[Row, Entry]]:
    """Latency and memory of the file on every device that measured it, the newest figures of each (of a phone, in each
    process)."""
    places = [(row["device"]["name"], row["device"].get("process", "")) for _, row in run.rows]
    for name, process in dict.fromkeys(places):
        row = run.measured(artifact.network, artifact.sha256, name, process)
        if row is not None:
            yield from _measured(row, prefix, artifact.dtype)


def _of_measurements(path: Path) -> Iterator[tuple[Row, Entry]]:
    rows = [row for row in read(path) if isinstance(row, Measurement)]
    if not rows:
        raise BenchError(f"{path} holds no measurement; `compress-export bench RUN` makes some")
    for row in rows:
        yield from _measured(row, f"{row.network} .{row.format} ", "")


def _measured(row: Measurement, prefix: str, dtype: str) -> Iterator[tuple[Row, Entry]]:
    device, threads = row.device, f"{row.threads} thread{'s' if row.threads > 1 else ''}"
    where = f"{device.name} ({device.kind}, {device.cpu}{process_said(device.process)}, {threads})"
    yield Row(f"{prefix}latency, p50", "ms", where, device.kind), Entry(summarize(row).p50, dtype, row)
    if row.memory.model_peak is not None:
        yield Row(f"{prefix}peak memory", "bytes", where, device.kind), Entry(row.memory.model_peak * 1024, dtype, row)


def _altered(path: Path, name: str) -> Iterator[str]:
    """Which compressed files of a run are no longer those whose figures it recorded; a file alone is refused then."""
    run = RunFiles(path)
    for artifact in run.artifacts if _is_run(path) else ():
        told = run.altered(artifact) if artifact.network == COMPRESSED else ""
        if told:
            yield f"{name}, {artifact.path.name}: {told}"


def _doubts(columns: Iterable[Column]) -> Iterator[str]:
    """Which files have times that are not to be used, or not to be trusted, and why."""
    for column in columns:
        for row, entry in column.figures.items():
            told = times_remark(entry.measured) if row.unit == "ms" and entry.measured is not None else ""
            if told:
                title = row.title.removesuffix("latency, p50").strip()
                yield f"{column.name}{', ' if title else ''}{title} on {row.where}: {told}"


def _notes(columns: Sequence[Column], rows: Sequence[Row]) -> Iterator[str]:
    kinds = sorted({row.kind for row in rows if row.kind})
    if len(kinds) > 1:
        yield f"{', '.join(kinds[:-1])} and {kinds[-1]} figures are not ranked together: each has rows of its own"
    titles = [row.title for row in rows if row.kind]
    places = sorted({row.where for row in rows if row.kind and titles.count(row.title) > 1})
    if len(places) > 1 and len(kinds) == 1:
        yield f"times of different devices are not ranked together: {'; '.join(places)}"
    if any(_apart(columns, row) for row in rows if row.unit == "ms"):
        yield "times come from different sessions, and machines drift: trust no few percent before one session has both"


def _apart(columns: Iterable[Column], row: Row) -> bool:
    entries = [column.figures[row] for column in columns if row in column.figures]
    return any(not took_turns(entries[0], other) for other in entries[1:])
