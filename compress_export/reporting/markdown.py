"""report.md: the summary as a page that reads well as text and on a code host."""

from __future__ import annotations

import re

from bench.measurement import Measurement, Schedule
from compress_export.reporting import counted, figures, processes
from compress_export.reporting.figures import closing_rows
from compress_export.reporting.markdown_table import bullets, escape, table
from compress_export.reporting.notes import unsteady_sentence
from compress_export.reporting.record import Record
from compress_export.reporting.values import FileRow, FormatRow, Summary
from exporters.formats import FORMATS


def surroundings(record: Record) -> str:
    """The sections that there is something to say in, ending with a line end."""
    blocks = [*_tuning(record), *_memory(record), *_front(record), *_times(record)]
    asked = [
        (escape(f"{section}: {name}"), escape(str(value)))
        for section, values in record.changed.items()
        for name, value in values.items()
    ]
    if asked:
        blocks += ["## What was asked", table(("setting", "value"), asked)]
    blocks += ["## Environment", table(("", ""), [(escape(name), escape(value)) for name, value in record.environment])]
    stored = [(escape(file.name), f"{file.bytes:,}", f"`{file.sha256}`") for file in record.files]
    # a name may hold backticks of its own
    fence = max((run for run in re.findall("`+", record.command) if len(run) > 2), key=len, default="``") + "`"
    blocks += ["## Make it again", f"{fence}sh\n{record.command}\n{fence}", table(("file", "bytes", "sha256"), stored)]
    return "\n" + "\n\n".join(blocks) + "\n"


def _tuning(record: Record) -> list[str]:
    if not record.tuning:
        return []
    rows = [
        (escape(row.cut), str(row.epoch), "" if row.loss is None else f"{row.loss:.4f}", f"{row.top1:.2f} %")
        for row in record.tuning
    ]
    return ["## Fine-tuning", table(("cut", "epoch", "training loss", "held-out top-1"), rows)]


def _memory(record: Record) -> list[str]:
    rows = []
    for file in (file for row in record.summary.formats for file in (row.original, row.compressed)):
        if isinstance(file.row, Measurement):
            memory = file.row.memory
            phases = [phase.resident for phase in (memory.start, memory.loaded, memory.first, memory.end)]
            said = ["not measured" if kb is None else f"{kb * 1024 / 1e6:.1f}" for kb in phases]
            rows.append((escape(file.artifact.path.name), *said, figures.memory(file)))
    if not rows:
        return []
    head = ("file", "start", "loaded", "first run", "end", "the model's own peak")
    return ["## Memory by phase", "Resident MB of the process, its runtime included.", table(head, rows)]


def _front(record: Record) -> list[str]:
    if not record.front:
        return []
    rows = [
        (
            "chosen" if point.chosen else str(place),
            "not known" if point.parameters is None else figures.count(point.parameters),
            "not known" if point.macs is None else figures.count(point.macs),
            "not measured" if point.ms is None else f"{point.ms:.2f}",
            "not known" if point.loss is None else f"{point.loss:.4g}",
        )
        for place, point in enumerate(record.front, 1)
    ]
    return ["## Front", table(("plan", "parameters", "MACs", "predicted ms", "predicted loss"), rows)]


def _times(record: Record) -> list[str]:
    rows = [
        (escape(layer.name), f"{layer.ms.original:.3g}", f"{layer.ms.compressed:.3g}")
        for layer in record.summary.layers
        if layer.ms is not None
    ]
    if not rows:
        return []
    source = [f"Predicted: {escape(record.cost_source)}"] if record.cost_source else []
    return ["## Time by layer", *source, table(("layer", "ms", "after"), rows)]


def markdown(summary: Summary) -> str:
    """The whole page, ending with a line end."""
    blocks = [
        f"# {escape(summary.title)}, compressed",
        f"Weights: {summary.origin}. Image: {summary.input}. Data: {escape(summary.data or 'none')}. "
        f"Ranks: {escape(summary.rule)}, {escape(summary.goal)}.",
    ]
    if summary.failures:
        blocks += ["## Failed", bullets(summary.failures)]
    blocks += ["## Before and after", _totals(summary)]
    if summary.formats:
        blocks += ["## Files", _files(summary), "## Latency and memory", _latency(summary)]
    if summary.beside:
        blocks += [f"## {processes.TITLE}", table(processes.HEAD, processes.table(summary.beside)), processes.SAYS]
    if counted.cores(summary):
        blocks += ["## Instructions", _counted(summary)]
    blocks += ["## Layers", _layers(summary)]
    if summary.notes:
        blocks += ["## Notes", bullets(summary.notes)]
    return "\n\n".join(blocks) + "\n"


def _totals(summary: Summary) -> str:
    rows = [
        (
            "parameters",
            f"{summary.parameters.original:,}",
            f"{summary.parameters.compressed:,}",
            figures.smaller(summary.parameters),
        ),
        ("MACs", f"{summary.macs.original:,}", f"{summary.macs.compressed:,}", figures.smaller(summary.macs)),
    ]
    if summary.paper_parameters is not None:
        factor = summary.parameters.original / summary.paper_parameters
        rows.append(
            (
                "parameters, as the papers count (a bias in every factor)",
                f"{summary.parameters.original:,}",
                f"{summary.paper_parameters:,}",
                f"{factor:.2f}x smaller",
            )
        )
    change = summary.accuracy
    if change is None:
        rows.append(("accuracy", "not measured", "not measured", ""))
    else:
        flips = f"{change.gained} gained, {change.lost} lost of {change.images}; {change.differing} predictions differ"
        rows.append(("top-1", f"{change.top1.original:.2f} %", f"{change.top1.compressed:.2f} %", flips))
        if change.top5 is not None:
            rows.append(("top-5", f"{change.top5.original:.2f} %", f"{change.top5.compressed:.2f} %", ""))
        if change.untuned_top1 is not None:
            rows.append(("top-1, cut and not tuned", "", f"{change.untuned_top1:.2f} %", ""))
    return table(("", "original", "compressed", "change"), [*rows, *closing_rows(summary.shared)])


def _files(summary: Summary) -> str:
    rows = []
    for row in summary.formats:
        for file in (row.original, row.compressed):
            artifact = file.artifact
            rows.append(
                (
                    f"{escape(artifact.path.name)}",
                    FORMATS[row.format].title,
                    f"{artifact.bytes:,}",
                    figures.smaller(row.bytes) if file is row.compressed else "",
                    artifact.dtype,
                    file.answers,
                    escape(figures.parity(file)),
                    f"`{artifact.sha256[:12]}`",
                )
            )
    head = ("file", "format", "bytes", "size", "type", "answers", "compared with the module", "sha256")
    return table(head, rows)


def _latency(summary: Summary) -> str:
    if summary.device is None or not _threads(summary):
        return "Not measured."
    device = summary.device
    rows = [line for row in summary.formats for line in _latency_rows(row)]
    head = ("file", "load", "first", "min", "p10", "p50", "p90", "p99", "mean", "sd", "runs", "peak memory", "time")
    where = f"On {escape(figures.place(device))}{_cores(summary)}"
    place = f"{where}, {_threads(summary)}, one image at a time; ms.{_cap(summary)}{_notes(summary)}"
    warning = unsteady_sentence(summary.formats, summary.again)
    return "\n\n".join([place, *([f"**{_with_code(warning)}.**"] if warning else []), table(head, rows), _EXPLAINED])


def _with_code(text: str) -> str:
    """Text whose end is a command between backticks, which stays code; all else is escaped."""
    said, _, command = text.partition("`")
    whole = command.endswith("`") and "`" not in command[:-1]  # else a name in it has a backtick of its own
    return f"{escape(said)} `{command}" if whole else escape(text)


_EXPLAINED = (
    "The files of one format took turns on the same core (A B B A); `time` is the compressed file against the original "
    "with its 95 % interval (Hodges-Lehmann over the rounds). Peak memory is what loading and running the file adds to "
    "a process that has the runtime already."
)


def _measured(summary: Summary) -> list[Measurement]:
    rows = [file.row for row in summary.formats for file in (row.original, row.compressed)]
    return [row for row in rows if isinstance(row, Measurement)]


def _cores(summary: Summary) -> str:
    """The phone's cores that were pinned to: on a phone they decide more than anything else."""
    found = {row.pinned_cores for row in _measured(summary) if row.processes and row.pinned_cores}
    return "".join(f", cores {', '.join(map(str, cores))}" for cores in sorted(found))


def _notes(summary: Summary) -> str:
    """What the rows say about how they were measured, each once."""
    found = dict.fromkeys(row.note for row in _measured(summary) if row.processes and row.note)
    return "".join(f" Note: {escape(note)}." for note in found)


def _threads(summary: Summary) -> str:
    found = {row.threads for row in _measured(summary)}
    return ", ".join(f"{threads} thread{'s' if threads > 1 else ''}" for threads in sorted(found))


def _cap(summary: Summary) -> str:
    """A sentence where a measurement was asked to be shorter than the default."""
    caps = {row.schedule.cap_seconds for row in _measured(summary)}
    short = min(caps, default=Schedule.cap_seconds)
    return f" Measured for at most {short:g} s a file (--cap)." if short < Schedule.cap_seconds else ""


def _counted(summary: Summary) -> str:
    tables = [
        f"On the {escape(core)}, one thread, one image:\n\n{table(counted.HEAD, counted.rows(summary, core))}"
        for core in counted.cores(summary)
    ]
    return "\n\n".join([*tables, counted.EXPLAINED])


def _latency_rows(row: FormatRow) -> list[tuple[str, ...]]:
    return [
        _latency_row(row.original, ""),
        _latency_row(row.compressed, figures.faster(row.ratio)),
    ]


def _latency_row(file: FileRow, ratio: str) -> tuple[str, ...]:
    name, found = escape(file.artifact.path.name), file.statistics
    if not isinstance(file.row, Measurement):
        return (name, *["not measured"] * 2, *[""] * 10)
    if found is None:
        return (f"{name} (invalid)", *[""] * 10, figures.memory(file), "")
    values = (found.first, found.min, found.p10, found.p50, found.p90)
    return (
        name,
        f"{file.row.load_ms:.1f}",
        *(f"{value:.2f}" for value in values),
        "" if found.p99 is None else f"{found.p99:.2f}",
        f"{found.mean:.2f}",
        "" if found.sd is None else f"{found.sd:.2f}",
        str(found.runs),
        figures.memory(file),
        ratio,
    )


def _layers(summary: Summary) -> str:
    rows = [
        (
            escape(layer.name),
            layer.weight,
            escape(layer.method),
            layer.rank,
            figures.share(layer.parameters.original, summary.parameters.original),
            figures.count(layer.parameters.compressed),
            figures.share(layer.macs.original, summary.macs.original),
            figures.count(layer.macs.compressed),
            "" if layer.error is None else f"{layer.error:.3f}",
            "" if layer.stability is None else f"{layer.stability:.3f}",
            escape(layer.reason),
        )
        for layer in summary.layers
    ]
    head = (
        "layer",
        "weight",
        "method",
        "rank",
        "parameters",
        "after",
        "MACs",
        "after",
        "weight error",
        "stability",
        "why",
    )
    return table(head, rows)
