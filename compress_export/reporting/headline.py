"""The first screen of a report: what was gained, what was lost, and where the rest is. Values for the page."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from bench.measurement import Measurement, NotMeasured
from bench.statistics import Ratio
from compress_export.reporting import counted, figures
from compress_export.reporting.notes import unsteady_sentence
from compress_export.reporting.values import FormatRow, Pair, Summary

T = TypeVar("T")

NAMED = 4
"""Layers that the first screen names; the others are one share."""


@dataclass(frozen=True)
class Card:
    """One figure before and after. `share` is the second as a share of the first, for a bar; None draws none.

    `warning` says why the figure is not to be trusted; empty where nothing speaks against it.
    """

    label: str
    headline: str
    before: str
    after: str
    share: float | None
    note: str = ""
    gain: bool = True
    warning: str = ""


@dataclass(frozen=True)
class Share:
    """A layer's part of what is left, in percent."""

    name: str
    percent: float


def cards(summary: Summary) -> tuple[list[Card], list[Card]]:
    """What was gained, and what was lost: a figure that became worse stands among the losses, wherever it belongs."""
    found = [
        *_sizes(summary.formats),
        *_times(summary),
        *_instructions(summary.formats),
        _counted("parameters", summary.parameters),
        _counted("MACs", summary.macs),
        *_memories(summary.formats),
    ]
    gains = [card for card in found if card.gain]
    return gains, [accuracy(summary), *_answers(summary.formats), *(card for card in found if not card.gain)]


def accuracy(summary: Summary) -> Card:
    change = summary.accuracy
    if change is None:
        return Card("top-1 accuracy", "not measured", "", "", None, _why_no_accuracy(summary), gain=False)
    points = change.top1.compressed - change.top1.original
    flips = f"{change.gained} gained, {change.lost} lost of {change.images} images"
    return Card(
        label="top-1 accuracy" if points < 0 else "top-1 accuracy: nothing",
        headline=f"{points:+.2f} points".replace("-", "−"),  # noqa: RUF001  # a minus sign, not a hyphen
        before=f"{change.top1.original:.2f} %",
        after=f"{change.top1.compressed:.2f} %",
        share=None,
        note=flips,
        gain=False,
    )


def _answers(formats: Sequence[FormatRow]) -> Iterator[Card]:
    """The worst of the compressed files' answers against the module's own."""
    compared = [(row.format, row.compressed.artifact.parity) for row in formats]
    run = [(name, p) for name, p in compared if p is not None and p.executed and p.relative_error is not None]
    if run:
        name, worst = max(run, key=lambda each: each[1].relative_error or 0)
        same = min(round((parity.top1_agreement or 0) * parity.images) for _, parity in run)
        note = f"of the module's logits; same class for {same} of {worst.images} images"
        error = f"{worst.relative_error:.0e} of the spread"
        yield Card(f"largest error (.{name})", error, "", "", None, note, gain=False)


def _why_no_accuracy(summary: Summary) -> str:
    return "no --data was given" if summary.data is None else "the weights are untrained, or the run is not finished"


def _counted(label: str, pair: Pair) -> Card:
    return Card(
        label,
        figures.smaller(pair),
        figures.count(pair.original),
        figures.count(pair.compressed),
        _share(pair),
        gain=pair.smaller >= 1,
    )


def _sides(rows: Sequence[T], gained: Callable[[T], bool]) -> Iterator[tuple[list[T], bool]]:
    """Those that gained, then those that lost, each side with whether it is the gain; none that is empty.

    One format stands for its side on a card, with the others in its note: no loss hides behind another's gain.
    """
    for gain in (True, False):
        own = [row for row in rows if gained(row) == gain]
        if own:
            yield own, gain


def _sizes(formats: Sequence[FormatRow]) -> Iterator[Card]:
    for own, gain in _sides(formats, lambda row: row.bytes.smaller >= 1):
        pair = own[0].bytes
        sizes = figures.size(pair.original), figures.size(pair.compressed)
        others = ", ".join(f".{each.format} {figures.smaller(each.bytes)}" for each in own[1:])
        yield Card(f".{own[0].format} size", figures.smaller(pair), *sizes, _share(pair), others, gain)


def _times(summary: Summary) -> Iterator[Card]:
    timed = [(row, row.ratio) for row in summary.formats if row.ratio is not None]
    if not timed:
        yield Card("latency", "not measured", "", "", None, _why_no_times(summary), gain=False)
    for own, gain in _sides(timed, lambda each: each[1].value <= 1):
        row, ratio = own[0]
        others = [f".{each.format} {_faster(other)}" for each, other in own[1:]]
        times = figures.milliseconds(row.original), figures.milliseconds(row.compressed)
        pair = Pair(*(file.statistics.p50 if file.statistics else 0 for file in (row.original, row.compressed)))
        note = "; ".join([_device(row), *others])
        warning = unsteady_sentence([each for each, _ in own], summary.again)
        yield Card(f".{row.format} latency, p50", _faster(ratio), *times, _share(pair), note, gain, warning)


def _faster(ratio: Ratio) -> str:
    """The ratio without its interval."""
    return figures.faster(ratio).partition(" (")[0]


def _device(row: FormatRow) -> str:
    measured = row.compressed.row
    return f"on {measured.device.name} ({measured.device.kind})" if isinstance(measured, Measurement) else ""


def _why_no_times(summary: Summary) -> str:
    rows = [file.row for row in summary.formats for file in (row.original, row.compressed)]
    reasons = {row.reason for row in rows if isinstance(row, NotMeasured)}
    reasons |= {f"invalid: {row.invalid}" for row in rows if isinstance(row, Measurement) and row.invalid}
    cores = counted.cores(summary)
    elsewhere = [f"the files were counted on the {' and the '.join(cores)}, see Instructions"] if cores else []
    return "; ".join([*sorted(reasons), *elsewhere, *([] if reasons else [f"`{summary.again}` measures it"])])


def _instructions(formats: Sequence[FormatRow]) -> Iterator[Card]:
    """Instructions of one run, on a card of their own: they are counts, and no time follows from them."""
    for own, gain in _sides(list(counted.pairs(formats)), lambda each: each.instructions.smaller >= 1):
        pair = own[0].instructions
        core = own[0].core
        others = [f"{_counted_as(each, core)} {counted.fewer(each.instructions)}" for each in own[1:]]
        note = "; ".join([f"counted on {core}, no time", *others])
        counts = figures.count(pair.original), figures.count(pair.compressed)
        yield Card(f".{own[0].format} instructions", counted.fewer(pair), *counts, _share(pair), note, gain)


def _counted_as(each: counted.CountedPair, core: str) -> str:
    return f".{each.format}" if each.core == core else f".{each.format} on {each.core}"


def _memories(formats: Sequence[FormatRow]) -> Iterator[Card]:
    known = [
        (row, Pair(row.original.memory_kb, row.compressed.memory_kb))
        for row in formats
        if row.original.memory_kb and row.compressed.memory_kb
    ]
    for own, gain in _sides(known, lambda each: each[1].smaller >= 1):
        row, pair = own[0]
        peaks = figures.memory(row.original), figures.memory(row.compressed)
        others = ", ".join(f".{each.format} {figures.smaller(other)}" for each, other in own[1:])
        yield Card(f".{row.format} peak memory", figures.smaller(pair), *peaks, _share(pair), others, gain)


def _share(pair: Pair) -> float | None:
    return None if not pair.original else pair.compressed / pair.original


def rest(summary: Summary) -> list[Share]:
    """Where the parameters that are left lie: the largest layers, then all others as one."""
    total = summary.parameters.compressed
    ordered = sorted(summary.layers, key=lambda layer: -layer.parameters.compressed)
    if not total:
        return []
    named = [Share(layer.name, 100 * layer.parameters.compressed / total) for layer in ordered[:NAMED]]
    others = 100 - sum(share.percent for share in named)
    return [*named, Share(f"{len(ordered) - NAMED} other layers", others)] if len(ordered) > NAMED else named


def answers(summary: Summary) -> tuple[str, bool]:
    """A sentence on the files' answers, and whether nothing speaks against shipping them."""
    files = [file for row in summary.formats for file in (row.original, row.compressed)]
    told = Counter(file.answers for file in files)
    passed = told["passed"]
    if not files:
        return "No file was exported yet.", True
    if summary.failures:
        return "Do not ship this.", False
    said = f"{passed} of {len(files)} files answer like the module" if passed < len(files) else (
        f"All {len(files)} files answer like the module ({_images(summary)} images)"
    )  # fmt: skip
    waiting = f"; {told['not executed']} not executed on this system" if told["not executed"] else ""
    gone = f"; {told['gone']} no longer there (see Notes)" if told["gone"] else ""
    return f"{said}{waiting}{gone}.", all(row.compressed.answers != "gone" for row in summary.formats)


def _images(summary: Summary) -> int:
    counts = [
        f.artifact.parity.images for r in summary.formats for f in (r.original, r.compressed) if f.artifact.parity
    ]
    return min(counts, default=0)
