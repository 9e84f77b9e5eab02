"""report.md: the summary as a page that reads well as text and on a code host."""

from __future__ import annotations

from collections.abc import Sequence

from bench.measurement import Measurement, Schedule
from compress_export.reporting import counted, figures, processes
from compress_export.reporting.shared_rows import closing_rows
from compress_export.reporting.steadiness import unsteady_sentence
from compress_export.reporting.summary import FileRow, FormatRow, Summary
from exporters.formats import FORMATS


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


SPECIAL = {ord(character): f"&#{ord(character)};" for character in "\\|`<>*[]&"}


def escape(text: str) -> str:
    """Text from outside (names of files, layers and devices) as plain text inside Markdown."""
    return " ".join(text.translate(SPECIAL).split())


def bullets(lines: tuple[str, ...]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; columns of figures are right-aligned."""
    columns = zip(*rows, strict=True)
    rule = ["--:" if all(cell[:1].isdigit() for cell in column if cell) else "---" for column in columns]
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))


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
