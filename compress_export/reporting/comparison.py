"""Several runs, files or measurements as columns of one table; figures are compared only where they mean the same."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.text import Text

from bench.budgets.limits import Unit
from bench.budgets.model_files import ModelFile
from bench.budgets.verdicts import contrast
from bench.measurement import BenchError, Measurement, process_said, read
from bench.run_files import COMPRESSED, RecordedAccuracy, RunFile, RunFiles, network_of, type_of
from bench.statistics import Ratio, summarize, time_ratio, times_remark
from compress_export.errors import InputError
from compress_export.reporting.figures import NOT_MEASURED, Table
from compress_export.reporting.terminal import print_table
from exporters.artifact import Artifact

LATENCY = "latency, p50"


@dataclass(frozen=True)
class Metric:
    """A quantity and where it was measured. Two figures stand in one row only if all of this is equal; `where` is the
    device, with its kind and threads, so that host, simulated and phone figures never do."""

    title: str
    unit: Unit
    where: str = ""
    kind: str = ""


@dataclass(frozen=True)
class Figure:
    """One figure; `dtype` is the type of the file that it belongs to, `measured` the measurement that it came from."""

    value: float
    dtype: str = ""
    measured: Measurement | None = None

    def in_turns_with(self, other: Figure) -> bool:
        """True where the two files were measured in one session, A B B A."""
        ours, theirs = self.measured, other.measured
        return ours is not None and theirs is not None and ours.session == theirs.session


@dataclass(frozen=True)
class Column:
    """One of the things compared, with its figures; invalid times are left out, the memory beside them is not."""

    name: str
    figures: dict[Metric, Figure]


@dataclass(frozen=True)
class Comparison:
    """The columns, the metrics in order, and notes that a reader needs to judge them."""

    columns: tuple[Column, ...]
    metrics: tuple[Metric, ...]
    notes: tuple[str, ...]

    def pair(self, metric: Metric, column: Column) -> tuple[Figure, Figure] | None:
        """The figures of the first column and of `column`; None for the first itself, or where one is missing."""
        first, figure = self.columns[0].figures.get(metric), column.figures.get(metric)
        return None if column is self.columns[0] or first is None or figure is None else (first, figure)

    def ratio(self, metric: Metric, column: Column) -> Ratio | None:
        """The column's figure over the first column's, with an interval where the two files took turns. None where
        one is missing, and for percentages, whose difference in points says more."""
        pair = self.pair(metric, column)
        if pair is None or not pair[0].value or metric.unit == "percent":
            return None
        first, last = pair[0].measured, pair[1].measured
        if metric.title.endswith(LATENCY) and first is not None and last is not None and pair[0].in_turns_with(pair[1]):
            return time_ratio(last, first)
        return Ratio(pair[1].value / pair[0].value, None, None, 0)

    def mixed_types(self, metric: Metric, column: Column) -> str:
        """The two types where a ratio is between files of different types, else ""."""
        first, last = (figure.dtype for figure in self.pair(metric, column) or (Figure(0), Figure(0)))
        return f"{last} beside {first}" if first and last and first != last else ""


def show_comparison(found: Comparison, console: Console) -> None:
    """Prints a column for each thing compared, ratios beside the figures, and the notes."""
    rows = [
        (f"{metric.title}\n  on {metric.where}" if metric.where else metric.title, *_cells(found, metric))
        for metric in found.metrics
    ]
    print_table(Table(("", *(column.name for column in found.columns)), rows), ("",), console, light=True)
    for note in found.notes:
        console.print(Text(f"note: {note}"), soft_wrap=True)


def _cells(found: Comparison, metric: Metric) -> Iterator[str]:
    """The metric's figures, exact where two that differ would look the same, with each one's ratio to the first."""
    missing = "not there" if metric.unit in ("bytes", "count") and not metric.where else NOT_MEASURED
    texts = iter(contrast(metric.unit, *(c.figures[metric].value for c in found.columns if metric in c.figures)))
    for column in found.columns:
        pair, ratio = found.pair(metric, column), found.ratio(metric, column)
        if metric not in column.figures:
            yield missing
        elif pair is not None and metric.unit == "percent":
            yield f"{next(texts)} ({pair[1].value - pair[0].value:+.2f})"
        elif ratio is None:
            yield next(texts)
        else:
            bounds = "" if ratio.low is None or ratio.high is None else f", {ratio.low:.3g} to {ratio.high:.3g}"
            star = "*" if found.mixed_types(metric, column) else ""
            yield f"{next(texts)} ({ratio.value:.3g}x{bounds}){star}"


def as_plain(found: Comparison) -> dict[str, object]:
    """The comparison as JSON holds it: null where there is no figure, or no ratio that means something."""
    rows = []
    for metric in found.metrics:
        figures = [column.figures.get(metric) for column in found.columns]
        ratios = [found.ratio(metric, column) for column in found.columns]
        rows.append(
            {
                "title": metric.title,
                "unit": metric.unit,
                "device": metric.where or None,
                "kind": metric.kind or None,
                "values": [None if figure is None else figure.value for figure in figures],
                "types": [None if figure is None else figure.dtype or None for figure in figures],
                "ratios": [None if ratio is None else ratio.value for ratio in ratios],
                "intervals": [None if r is None or r.low is None else [r.low, r.high] for r in ratios],
            }
        )
    names = [column.name for column in found.columns]
    return {"version": 1, "columns": names, "rows": rows, "notes": list(found.notes)}


def compared(paths: Sequence[Path]) -> Comparison:
    """The comparison of what lies at these paths. InputError for what is none of the three; BenchError from readers."""
    files_only = all(not _is_run(path) and path.suffix != ".jsonl" for path in paths)
    every = [_figures(path, files_only) for path in paths]
    shared = Path(os.path.commonpath([path.absolute().parent for path in paths]))
    names = [path.absolute().relative_to(shared).as_posix() for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    notes, columns = [], []
    for path, name, figures in zip(paths, names, every, strict=True):
        run = RunFiles(path)
        for artifact in run.artifacts if _is_run(path) else ():  # a file alone is refused then
            remark = run.altered(artifact) if network_of(artifact.network) == COMPRESSED else ""
            notes += [f"{name}, {artifact.path.name}: {remark}"] if remark else []
        usable = {
            metric: figure
            for metric, figure in figures.items()
            if metric.unit != "ms" or figure.measured is None or not figure.measured.invalid
        }
        columns.append(Column(name, usable))
    for name, figures in zip(names, every, strict=True):
        for metric, figure in figures.items():
            if metric.unit == "ms" and figure.measured is not None and (remark := times_remark(figure.measured)):
                title = metric.title.removesuffix(LATENCY).strip()
                notes.append(f"{name}{', ' if title else ''}{title} on {metric.where}: {remark}")
    metrics = tuple(dict.fromkeys(metric for figures in every for metric in figures))
    found = Comparison(tuple(columns), metrics, ())
    return Comparison(found.columns, metrics, (*notes, *_notes(found)))


def _notes(found: Comparison) -> Iterator[str]:
    """Notes on figures that are not ranked together, times of different sessions, and ratios between two types."""
    kinds = sorted({metric.kind for metric in found.metrics if metric.kind})
    if len(kinds) > 1:
        yield f"{', '.join(kinds[:-1])} and {kinds[-1]} figures are not ranked together: each has rows of its own"
    titles = [metric.title for metric in found.metrics if metric.kind]
    places = sorted({metric.where for metric in found.metrics if metric.kind and titles.count(metric.title) > 1})
    if len(places) > 1 and len(kinds) == 1:
        yield f"times of different devices are not ranked together: {'; '.join(places)}"
    timed = [[c.figures[m] for c in found.columns if m in c.figures] for m in found.metrics if m.unit == "ms"]
    if any(not figures[0].in_turns_with(other) for figures in timed for other in figures[1:]):
        yield "times come from different sessions, and machines drift: trust no few percent before one session has both"
    for types in sorted({found.mixed_types(m, c) for m in found.metrics for c in found.columns[1:]} - {""}):
        yield f"* {types}: the ratio is partly that of the types"


# ---- figures of a run, a file or measurements.jsonl ---------------------------------------------------------------


def _is_run(path: Path) -> bool:
    return path.is_dir() and ((path / RunFile.SETTINGS).is_file() or (path / RunFile.ARTIFACTS).is_file())


def _figures(path: Path, files_only: bool) -> dict[Metric, Figure]:
    if not path.exists():
        raise InputError(f"{path}: there is no such run or file")
    if _is_run(path):
        return dict(_of_run(RunFiles(path)))
    if path.suffix == ".jsonl":
        rows = [row for row in read(path) if isinstance(row, Measurement)]
        if not rows:
            raise BenchError(f"{path} holds no measurement; `compress-export bench RUN` makes some")
        return dict(pair for row in rows for pair in _measured(row, f"{row.network} .{row.format} ", ""))
    if path.is_dir() and path.suffix != ".mlpackage":
        raise InputError(f"{path} is a folder, and neither a run (it has no settings.json) nor an .mlpackage")
    run = RunFiles.of(path)
    if run is not None:
        run.check()
    file = ModelFile(str(path), path, run)
    if file.problem is not None:
        raise InputError(f"{path}: {file.problem}")
    contents, artifact, dtype = file.contents, file.artifact, file.dtype
    kind = type_of(artifact.network) if artifact is not None else "int8" if dtype == "int8" else ""
    prefix = "" if files_only else _prefix(path.suffix.removeprefix("."), kind)
    found = {Metric(f"{prefix}size", "bytes"): Figure(file.measured[0], dtype)}
    if contents is not None:
        found[Metric("stored numbers", "count")] = Figure(contents.parameters)
    if artifact is None or run is None:
        return found
    return found | dict(_judged(file.accuracy, prefix, dtype)) | dict(_timed(run, artifact, prefix))


def _of_run(run: RunFiles) -> Iterator[tuple[Metric, Figure]]:
    run.check()
    survey, accuracy = run.survey(COMPRESSED), run.accuracy(COMPRESSED)
    if survey is not None:
        yield Metric("parameters", "count"), Figure(survey.parameters)
        yield Metric("MACs", "count"), Figure(survey.macs)
    if accuracy is not None:
        yield Metric("top-1 accuracy", "percent"), Figure(accuracy.top1)
    for artifact in run.artifacts:
        if network_of(artifact.network) == COMPRESSED:
            prefix = _prefix(artifact.format, type_of(artifact.network))
            yield Metric(f"{prefix}size", "bytes"), Figure(artifact.bytes, artifact.dtype)
            yield from _judged(run.accuracy_of(artifact), prefix, artifact.dtype)
            yield from _timed(run, artifact, prefix)


def _prefix(form: str, kind: str) -> str:
    """The start of a metric's title that tells a run's files apart: ".pte int8 "."""
    return f".{form} {kind} " if kind else f".{form} "


def _judged(accuracy: RecordedAccuracy | None, prefix: str, dtype: str) -> Iterator[tuple[Metric, Figure]]:
    """Top-1 accuracy of a file and the predictions that flipped; of as many test images only they are compared."""
    if accuracy is not None:
        images = f"of {accuracy.images:,} test images"
        yield Metric(f"{prefix}top-1 accuracy {images}", "percent"), Figure(accuracy.top1, dtype)
        if accuracy.flipped is not None:
            yield Metric(f"{prefix}flipped predictions {images}", "count"), Figure(accuracy.flipped, dtype)


def _timed(run: RunFiles, artifact: Artifact, prefix: str) -> Iterator[tuple[Metric, Figure]]:
    """Latency and memory of the file on every device that measured it, the newest figures of each (of a phone, in each
    process)."""
    places = [(row.device.name, row.device.process) for row in run.rows]
    for name, process in dict.fromkeys(places):
        row = run.measured(artifact.network, artifact.sha256, name, process)
        if row is not None:
            yield from _measured(row, prefix, artifact.dtype)


def _measured(row: Measurement, prefix: str, dtype: str) -> Iterator[tuple[Metric, Figure]]:
    device, threads = row.device, f"{row.threads} thread{'s' if row.threads > 1 else ''}"
    where = f"{device.name} ({device.kind}, {device.cpu}{process_said(device.process)}, {threads})"
    yield Metric(f"{prefix}{LATENCY}", "ms", where, device.kind), Figure(summarize(row).p50, dtype, row)
    if row.memory.model_peak is not None:
        memory = Figure(row.memory.model_peak * 1024, dtype, row)
        yield Metric(f"{prefix}peak memory", "bytes", where, device.kind), memory
