"""Charts of a record as SVG for the page: drawn by matplotlib, coloured by the page's own variables.

Original and compressed differ in stroke and filling, not in colour alone, so that a print in black and white reads too.
"""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.measurement import Measurement
from bench.statistics import quantile
from compress_export.reporting.record import Epoch, FrontPoint, Record
from compress_export.reporting.values import FormatRow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, LINE, BEFORE, AFTER, PAPER = "#010101", "#020202", "#030303", "#040404", "#050505", "#060606"
"""Stand-ins that the page's variables replace, so that one drawing serves light and dark."""
VARIABLES = {INK: "ink", MUTED: "muted", LINE: "line", BEFORE: "before", AFTER: "after", PAPER: "card"}

WIDTH = 5.4
"""Inches; 72 units of the drawing each. At 390 px a drawing is shrunk by a tenth, and stays legible."""

LABELS = 12
"""Names of layers that fit below a chart; of more, every second or third is named."""

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
    """A drawing: its title, a sentence that says what it shows, and the SVG to stand in a page."""

    title: str
    says: str
    svg: str


def tuning(record: Record) -> Plot | None:
    """Held-out accuracy over all epochs of tuning, with a mark at each cut. None where nothing was tuned."""
    rows = record.tuning
    if not rows:
        return None
    with _figure("tuning", 2.5) as (figure, finish):
        axes = figure.subplots()
        axes.plot([row.place for row in rows], [row.top1 for row in rows], color=AFTER, linewidth=1.8)
        cuts = [row for row in rows if row.epoch == 0]
        axes.plot([row.place for row in cuts], [row.top1 for row in cuts], "o", color=AFTER, markerfacecolor=PAPER,
                  markersize=6, markeredgewidth=1.6)  # fmt: skip
        _reference(axes, record.training)
        axes.set_ylabel("held-out top-1, %")
        named = cuts[:: 1 + (len(cuts) - 1) // LABELS]
        axes.set_xticks([row.place for row in named], [_shorter(row.cut) for row in named], rotation=35, ha="right")
        axes.grid(axis="x", visible=False)
        axes.margins(x=0.03)
        svg = finish()
    says = f"A ring marks each cut ({len(cuts)}), each followed by its epochs of tuning."
    if record.training:
        says += f" The dashed line is the original, {record.training[-1].top1:.1f} %."
    return Plot("Fine-tuning", says, svg)


def _reference(axes: Axes, training: Sequence[Epoch]) -> None:
    if training:
        axes.axhline(training[-1].top1, color=BEFORE, linewidth=1.4, linestyle=(0, (4, 3)))


def latency(record: Record) -> Plot | None:
    """Every file's runs as a box, the first run apart. None where nothing was measured."""
    pairs = list(_measured(record.summary.formats))
    if not pairs:
        return None
    from matplotlib.ticker import LogLocator, NullLocator

    with _figure("latency", 0.9 + 0.42 * len(pairs)) as (figure, finish):
        axes = figure.subplots()
        for place, (_, row) in enumerate(reversed(pairs)):
            _box(axes, place, row)
        axes.set_yticks(range(len(pairs)), [label for label, _ in reversed(pairs)])
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
    return Plot("Latency", says, svg)


def _box(axes: Axes, place: int, row: Measurement) -> None:
    ordered = sorted(row.samples_ms)
    low, first, middle, third, high = (quantile(ordered, share) for share in (0.1, 0.25, 0.5, 0.75, 0.9))
    colour = BEFORE if row.network == "original" else AFTER
    axes.plot([low, high], [place, place], color=colour, linewidth=1.4)
    filled = PAPER if row.network == "original" else colour
    axes.barh(place, third - first, 0.5, left=first, facecolor=filled, edgecolor=colour, linewidth=1.4)
    axes.plot([middle, middle], [place - 0.25, place + 0.25], color=colour if filled == PAPER else PAPER, linewidth=2)
    axes.plot(row.first_ms, place, "x", color=colour, markersize=6, markeredgewidth=1.6)


def memory(record: Record) -> Plot | None:
    """Resident memory of each file's process by phase. None where no device tells."""
    rows = [row for row in record.summary.formats if all(_phases(file.row) for file in (row.original, row.compressed))]
    if not rows:
        return None
    with _figure("memory", 2.3) as (figure, finish):
        panels = figure.subplots(1, len(rows), sharey=True, squeeze=False)[0]
        for axes, row in zip(panels, rows, strict=True):
            for file, colour, line in ((row.original, BEFORE, (0, (4, 3))), (row.compressed, AFTER, "-")):
                filled = PAPER if colour == BEFORE else AFTER
                axes.plot(range(4), _phases(file.row), color=colour, linestyle=line, linewidth=1.7, marker="o",
                          markersize=4.5, markerfacecolor=filled)  # fmt: skip
            axes.set_title(f".{row.format}", fontsize=10.5, color=INK)
            axes.set_xticks(range(4), ["start", "loaded", "first run", "end"], rotation=35, ha="right")
            axes.grid(axis="x", visible=False)
        peak = max(value for row in rows for file in (row.original, row.compressed) for value in _phases(file.row))
        panels[0].set_ylim(0, 1.08 * peak)
        panels[0].set_ylabel("resident memory, MB")
        svg = finish()
    says = "Resident memory of the process, its runtime included. Dashed with rings: original; solid: compressed."
    return Plot("Memory by phase", says, svg)


def _phases(row: object) -> list[float]:
    """Resident MB at the start, after loading, after the first run and at the end; empty where one is not told."""
    if not isinstance(row, Measurement):
        return []
    phases = (row.memory.start, row.memory.loaded, row.memory.first, row.memory.end)
    known = [phase.resident * 1024 / 1e6 for phase in phases if phase.resident is not None]
    return known if len(known) == len(phases) else []


def front(record: Record) -> Plot | None:
    """Predicted loss against what each plan of the front costs, and the chosen one. None without a front."""
    axis = front_axis(record.front)
    if axis is None:
        return None
    name, label, read = axis
    points = sorted(_points(record.front, read), key=lambda each: each[:2])
    chosen = [(x, y) for x, y, point in points if point.chosen]
    with _figure("front", 2.5) as (figure, finish):
        axes = figure.subplots()
        line = [(x, y) for x, y, point in points if point.on_front]
        axes.plot([x for x, _ in line], [y for _, y in line], color=BEFORE, linewidth=1.2, marker="o",
                  markerfacecolor=PAPER, markersize=5)  # fmt: skip
        for place in chosen:
            axes.plot(*place, "s", color=AFTER, markersize=9, zorder=3)
            axes.annotate("chosen", place, xytext=(8, 8), textcoords="offset points", color=INK, weight="bold")
        axes.set_xlabel(label)
        axes.set_ylabel("predicted loss")
        svg = finish()
    return Plot(f"Loss against {name}", _front_says(record.front, bool(chosen)), svg)


def _front_says(points: Sequence[FrontPoint], drawn: bool) -> str:
    says = "Each ring is a plan at another price of size and time, made without limits."
    chosen = next((point for point in points if point.chosen), None)
    if chosen is None:
        return says
    if not drawn:
        return f"{says} The plan chosen is not drawn: its cost or its loss is not known."
    off = "" if chosen.on_front else "; it was weighed by this run's own limits, and need not lie on the line"
    return f"{says} The filled square is the plan chosen{off}."


Reader = Callable[[FrontPoint], float | None]
AXES: tuple[tuple[str, str, Reader], ...] = (
    ("time", "predicted ms", lambda point: point.ms),
    ("parameters", "parameters, millions", lambda p: None if p.parameters is None else p.parameters / 1e6),
    ("work", "MACs, millions", lambda point: None if point.macs is None else point.macs / 1e6),
)


def front_axis(points: Sequence[FrontPoint]) -> tuple[str, str, Reader] | None:
    """The first of time, parameters and work that two points or more tell, with its label and reader; one that the
    chosen plan tells goes before."""
    told = [axis for axis in AXES if len(list(_points(points, axis[2]))) > 1]
    with_chosen = (axis for axis in told if any(point.chosen for _, _, point in _points(points, axis[2])))
    return next(with_chosen, told[0] if told else None)


def _points(points: Sequence[FrontPoint], read: Reader) -> Iterator[tuple[float, float, FrontPoint]]:
    """(cost, loss, point) of each whose cost and loss are known."""
    for point in points:
        cost = read(point)
        if cost is not None and point.loss is not None:
            yield cost, point.loss, point


def _measured(formats: Sequence[FormatRow]) -> Iterator[tuple[str, Measurement]]:
    for row in formats:
        for file in (row.original, row.compressed):
            if isinstance(file.row, Measurement) and file.statistics is not None:
                yield file.artifact.path.name, file.row


def _shorter(name: str) -> str:
    return name if len(name) <= 18 else f"…{name[-17:]}"


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
            return _for_the_page(text.getvalue(), name)

        yield figure, finish


def _for_the_page(svg: str, name: str) -> str:
    """The drawing without its XML head, in the page's colours and font, its size left to the page."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'(<svg[^>]*?) width="[^"]*"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg[^>]*?) height="[^"]*"', r"\1", svg, count=1)
    svg = svg.replace("<svg", f'<svg role="img" aria-labelledby="{name}" class="plot"', 1)
    svg = re.sub(r'<g id="[^"]*"', "<g", svg)  # every drawing would number its groups alike
    svg = re.sub(r"font-family: [^;\"]*", "font-family: var(--font)", svg)
    for colour, variable in VARIABLES.items():
        svg = svg.replace(colour, f"var(--{variable})")
    return svg
