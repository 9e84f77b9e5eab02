"""report.md: the report as a page that reads well as text and on a code host; Markdown tables for other pages."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from bench.measurement import Schedule
from compress_export.reporting import figures
from compress_export.reporting.figures import Table
from compress_export.reporting.model import Report
from compress_export.reporting.notes import unsteady_sentence

SPECIAL = {ord(character): f"&#{ord(character)};" for character in "\\|`<>*[]&"}

TURNS = (
    "The files of one format took turns on the same core (A B B A); `time` is the compressed file against the original "
    "with its 95 % interval (Hodges-Lehmann over the rounds). Peak memory is what loading and running the file adds to "
    "a process that has the runtime already."
)


def escape(text: str) -> str:
    """Text from outside (names of files, layers and devices) as plain text inside Markdown."""
    return " ".join(text.translate(SPECIAL).split())


def bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {escape(line)}" for line in lines)


def table(found: Table) -> str:
    """A Markdown table with every cell escaped; columns of figures are right-aligned, hashes are code."""
    rule = ["--:" if numeric else "---" for numeric in found.numeric]
    rows = [
        [f"`{cell}`" if name == "sha256" and cell else escape(cell) for name, cell in zip(found.head, row, strict=True)]
        for row in found.rows
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in (found.head, rule, *rows))


def markdown(report: Report) -> str:
    """The whole page, ending with a line end; sections that there is nothing to say in are left out."""
    return "\n\n".join(_blocks(report)) + "\n"


def _blocks(report: Report) -> Iterator[str]:
    yield f"# {escape(report.title)}, compressed"
    yield (
        f"Weights: {report.origin}. Image: {report.input}. Data: {escape(report.data or 'none')}. "
        f"Ranks: {escape(report.rule)}, {escape(report.goal)}."
    )
    if report.failures:
        yield from ("## Failed", bullets(report.failures))
    yield from ("## Original and compressed", table(figures.totals(report, "{:,}".format)))
    if report.formats:
        yield from ("## Files", table(figures.files_table(report)))
        if types := figures.types_table(report):
            yield from ("## Number types", table(types))
        yield from ("## Latency and memory", *_latency(report))
    if report.processes:
        yield from (f"## {figures.PROCESSES_TITLE}", table(figures.processes_table(report)), figures.PROCESSES_NOTE)
    if report.cores:
        yield "## Instructions"
        for core in report.cores:
            yield f"On the {escape(core)}, one thread, one image:"
            yield table(figures.instructions_table(report, core))
        yield figures.COUNTED_NOTE
    yield from ("## Layers", table(figures.layers_table(report)))
    if report.notes:
        yield from ("## Notes", bullets(report.notes))
    if epochs := figures.epochs_table(report.tuning, report.metric):
        yield from ("## Fine-tuning", table(epochs))
    if phases := figures.memory_table(report):
        yield from ("## Memory by phase", "Resident MB of the process, its runtime included.", table(phases))
    if points := figures.pareto_table(report.pareto_front):
        yield from ("## Pareto front", table(points))
    timed = [(layer.name, layer.ms) for layer in report.layers if layer.ms is not None]
    if timed:
        yield "## Time by layer"
        if report.cost_source:
            yield f"Predicted: {escape(report.cost_source)}"
        rows = [(name, f"{ms.original:.3g}", f"{ms.compressed:.3g}") for name, ms in timed]
        yield table(Table(("layer", "original, ms", "compressed, ms"), rows))
    if changed := figures.settings_table(report.changed_settings):
        yield from ("## Settings", table(changed))
    yield from ("## Environment", table(Table(("", ""), report.environment)))
    # a name may hold backticks of its own
    fence = max((run for run in re.findall("`+", report.command) if len(run) > 2), key=len, default="``") + "`"
    yield from ("## Reproduce", f"{fence}sh\n{report.command}\n{fence}", table(figures.stored_table(report.stored)))


def _latency(report: Report) -> Iterator[str]:
    rows = report.measurements
    if report.device is None or not rows:
        yield "Not measured."
        return
    # on a phone the cores that a process is pinned to decide more than anything else
    pinned = sorted({row.pinned_cores for row in rows if row.processes and row.pinned_cores})
    cores = "".join(f", cores {', '.join(map(str, cores))}" for cores in pinned)
    threads = ", ".join(f"{n} thread{'s' if n > 1 else ''}" for n in sorted({row.threads for row in rows}))
    cap = min(row.schedule.cap_seconds for row in rows)
    short = f" Measured for at most {cap:g} s a file (bench.cap)." if cap < Schedule.cap_seconds else ""
    notes = "".join(
        f" Note: {escape(n)}." for n in dict.fromkeys(row.note for row in rows if row.processes and row.note)
    )
    device = escape(figures.device_text(report.device))
    yield f"On {device}{cores}, {threads}, one image at a time; ms.{short}{''.join(notes)}"
    warning = unsteady_sentence(report.formats, report.again)
    if warning:
        yield f"**{_with_code(warning)}.**"
    yield table(figures.latency_table(report))
    yield TURNS


def _with_code(text: str) -> str:
    """Text whose end is a command between backticks, which stays code; all else is escaped."""
    before, _, command = text.partition("`")
    whole = command.endswith("`") and "`" not in command[:-1]  # else a name in it has a backtick of its own
    return f"{escape(before)} `{command}" if whole else escape(text)
