"""Charts of a report as SVG for the page: drawn by matplotlib, coloured by the page's own variables.

Original and compressed differ in stroke and filling, not in colour alone, so that a print in black and white reads too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.measurement import Measurement
from bench.run_files import ORIGINAL
from bench.statistics import quantile
from compress_export.reporting import figures
from compress_export.reporting.model import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

INK, MUTED, LINE, BEFORE, AFTER, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
"""Stand-ins that the page's variables replace, so that one drawing serves light and dark."""
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", BEFORE: "before", AFTER: "after", PAPER: "card"}

WIDTH = 5.4
"""Inches; 72 units of the drawing each. At 390 px a drawing is shrunk by a tenth, and stays legible."""

LABELS = 12
"""Labels that fit below a chart; of more, every second or third is written."""

LONGEST = 14
"""Characters of a layer's name below a chart; of a longer name the end is written."""

STYLE: dict[Any, Any] = {  # matplotlib types its keys one by one
    "svg.fonttype": "none",
    "text.parse_math": False,  # a layer may be called $x$
    "font.size": 10.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "legend.frameon": False,
}


@dataclass(frozen=True)
class Plot:
    """A drawing: its anchor in the page, its title, a sentence that says what it shows, and the SVG."""

    id: str
    title: str
    says: str
    svg: str


def tuning(report: Report) -> Plot | None:
    """Validation accuracy over all epochs of fine-tuning, a ring at each factorization. None without fine-tuning."""
    rows = report.tuning
    if not rows:
        return None
    starts = [index for index, row in enumerate(rows) if row.epoch == 0]
    with _figure("tuning", 2.5) as (figure, finish):
        axes = figure.subplots()
        axes.plot(range(len(rows)), [row.top1 for row in rows], color=AFTER, linewidth=1.8)
        axes.plot(starts, [rows[index].top1 for index in starts], "o", color=AFTER, markerfacecolor=PAPER,
                  markersize=6, markeredgewidth=1.6)  # fmt: skip
        if report.training:
            axes.axhline(report.training[-1].top1, color=BEFORE, linewidth=1.4, linestyle=(0, (4, 3)))
        axes.set_ylabel(f"validation {report.metric}, %")
        if len(starts) == 1:
            step = 1 + (len(rows) - 1) // LABELS
            axes.set_xticks(range(0, len(rows), step))
            axes.set_xlabel("epoch of fine-tuning")
        else:
            named = starts[:: 1 + (len(starts) - 1) // LABELS]
            labels = []
            for names in (rows[index].layers for index in named):  # the end of a layer's name, or the number of layers
                several = names.count(", ")
                name = names if len(names) <= LONGEST else f"…{names[1 - LONGEST :]}"
                labels.append(f"{several + 1} layers" if several else name)
            axes.set_xticks(named, labels, rotation=35, ha="right")
            axes.set_xlabel("layers factorized at this step")
        axes.grid(axis="x", visible=False)
        axes.margins(x=0.03)
        svg = finish()
    layers = f"{len(starts)} times" if len(starts) > 1 else "once"
    says = f"A ring marks where layers were factorized ({layers}), each followed by its epochs of fine-tuning."
    if report.training:
        says += f" The dashed line is the original, {report.training[-1].top1:.1f} %."
    return Plot("tuning", "Fine-tuning", says, svg)


def latency(report: Report) -> Plot | None:
    """Every file's runs as a box, the first run apart. None where nothing was measured."""
    timed = [(file.name, file.measured) for file in reversed(report.files) if file.statistics is not None]
    pairs = [(name, row) for name, row in timed if row is not None]
    if not pairs:
        return None
    from matplotlib.ticker import LogLocator, NullLocator

    with _figure("latency", 0.9 + 0.42 * len(pairs)) as (figure, finish):
        axes = figure.subplots()
        for height, (_, row) in enumerate(pairs):
            ordered = sorted(row.samples_ms)
            low, first, middle, third, high = (quantile(ordered, part) for part in (0.1, 0.25, 0.5, 0.75, 0.9))
            colour, filled = (BEFORE, PAPER) if row.network == ORIGINAL else (AFTER, AFTER)
            axes.plot([low, high], [height, height], color=colour, linewidth=1.4)
            axes.barh(height, third - first, 0.5, left=first, facecolor=filled, edgecolor=colour, linewidth=1.4)
            bar = colour if filled == PAPER else PAPER
            axes.plot([middle, middle], [height - 0.25, height + 0.25], color=bar, linewidth=2)
            axes.plot(row.first_ms, height, "x", color=colour, markersize=6, markeredgewidth=1.6)
        axes.set_yticks(range(len(pairs)), [name for name, _ in pairs])
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_locator(NullLocator())
        axes.set_xlabel("ms for one image, logarithmic")
        axes.grid(axis="y", visible=False)
        axes.set_ylim(-0.6, len(pairs) - 0.4)
        svg = finish()
    says = (
        "A box holds the middle half of the runs, whiskers reach from p10 to p90, the bar inside is the median; x is "
        "the first run, which counts in none of them."
    )
    return Plot("latency", "Latency", says, svg)


def memory(report: Report) -> Plot | None:
    """Resident memory of each file's process by phase. None where no device tells."""
    rows = [row for row in report.formats if all(_phases(file.measured) for file in row.files)]
    if not rows:
        return None
    with _figure("memory", 2.3) as (figure, finish):
        panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
        for axes, row in zip(panels, rows, strict=True):
            for file, colour, line in ((row.original, BEFORE, (0, (4, 3))), (row.compressed, AFTER, "-")):
                filled = PAPER if colour == BEFORE else AFTER
                axes.plot(range(4), _phases(file.measured), color=colour, linestyle=line, linewidth=1.7, marker="o",
                          markersize=4.5, markerfacecolor=filled)  # fmt: skip
            axes.set_title(f".{row.title}", fontsize=10.5, color=INK)
            axes.set_xticks(range(4), ["start", "loaded", "first run", "end"], rotation=35, ha="right")
            axes.grid(axis="x", visible=False)
        peak = max(value for row in rows for file in row.files for value in _phases(file.measured))
        panels[0].set_ylim(0, 1.08 * peak)
        panels[0].set_ylabel("resident memory, MB")
        svg = finish()
    says = "Resident memory of the process, its runtime included. Dashed with rings: original; solid: compressed."
    return Plot("memory", "Memory by phase", says, svg)


def _phases(row: Measurement | None) -> list[float]:
    """Resident MB at the start, after loading, after the first run and at the end; empty where one is not known."""
    if row is None:
        return []
    phases = (row.memory.start, row.memory.loaded, row.memory.first, row.memory.end)
    known = [phase.resident * 1024 / 1e6 for phase in phases if phase.resident is not None]
    return known if len(known) == len(phases) else []


MARKERS = {"": "o", "int8": "s"}
"""Marker of a file by its number type, "" for float32; all others get a triangle."""


def costs(report: Report) -> Plot | None:
    """Top-1 of every file against its median time and its instructions. None where no two files have both figures."""
    known = figures.file_costs(report)
    panels = {"ms for one image": [(file, file.ms) for file in known if file.ms is not None]}
    for core in report.cores[:1]:
        counts = [(file, file.instructions / 1e6) for file in known if file.instructions is not None]
        panels[f"million instructions, {core}"] = counts
    panels = {label: points for label, points in panels.items() if len(points) > 1}
    if not panels:
        return None
    with _figure("costs", 2.9) as (figure, finish):
        axes_of = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, (label, points) in zip(axes_of, panels.items(), strict=True):
            for file, cost in points:
                colour, filled = (BEFORE, PAPER) if file.original else (AFTER, AFTER)
                marker = MARKERS.get(file.type, "^")
                axes.plot(cost, file.top1, marker, color=colour, markerfacecolor=filled, markersize=7)
                title, near = f".{file.format} {file.type}".strip(), (6, 4)
                axes.annotate(title, (cost, file.top1), xytext=near, textcoords="offset points", fontsize=8)
            axes.set_xlabel(label)
            axes.margins(0.2)
        axes_of[0].set_ylabel("top-1, %")
        svg = finish()
    says = (
        "Each mark is an exported file, run on the test images: the higher and the further left, the better. Hollow: "
        "original; filled: compressed; a square is int8."
    )
    return Plot("costs", "Accuracy against cost", says, svg)


def pareto_front(report: Report) -> Plot | None:
    """Predicted loss against the cost of each plan of the Pareto front, and the chosen one: the predicted time where
    the chosen plan and two others have one, else the parameters. None without a front of two plans."""
    points = report.pareto_front
    timed = [(point.ms, point) for point in points if point.ms is not None]
    by_time = len(timed) > 1 and all(point.ms is not None for point in points if point.chosen)
    found = timed if by_time else [(point.parameters / 1e6, point) for point in points]
    if len(found) < 2:
        return None
    with _figure("front", 2.5) as (figure, finish):
        axes = figure.subplots()
        line = sorted((cost, point.loss) for cost, point in found if point.on_front)
        axes.plot([x for x, _ in line], [y for _, y in line], color=BEFORE, linewidth=1.2, marker="o",
                  markerfacecolor=PAPER, markersize=5)  # fmt: skip
        for cost, point in found:
            if point.chosen:
                axes.plot(cost, point.loss, "s", color=AFTER, markersize=9, zorder=3)
                at = (cost, point.loss)
                axes.annotate("chosen", at, xytext=(8, 8), textcoords="offset points", color=INK, weight="bold")
        axes.set_xlabel("predicted ms" if by_time else "parameters, millions")
        axes.set_ylabel("predicted loss")
        svg = finish()
    says = "Each ring is a plan of the Pareto front of predicted loss against size and time, computed without limits."
    chosen = next((point for point in points if point.chosen), None)
    if chosen is not None:
        off = "" if chosen.on_front else "; this run's limits keep it off the front"
        says += f" The filled square is the chosen plan{off}."
    return Plot("front", f"Pareto front: loss against {'time' if by_time else 'parameters'}", says, svg)


@contextmanager
def _figure(name: str, height: float) -> Iterator[tuple[Figure, Callable[[], str]]]:
    """An empty figure, and the function that turns it into SVG for the page. Imports matplotlib."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    with matplotlib.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasSVG(figure)

        def finish() -> str:
            text = io.StringIO()
            figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            svg = text.getvalue()
            svg = svg[svg.index("<svg") :]  # without the head of an XML file
            svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
            svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)  # the page sets the size
            svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
            svg = svg.replace("<svg", f'<svg role="img" aria-labelledby="{name}" class="plot"', 1)
            svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # every drawing would number its groups alike
            svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
            for colour, variable in VARIABLES.items():
                svg = svg.replace(colour, f"var(--{variable})")
            return svg

        yield figure, finish
