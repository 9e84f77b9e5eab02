"""The results file of the study, a JSON line for each cell, and the tables and plots that are made from it alone."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import msgspec

from bench.statistics import Ratio
from compress_export.errors import InputError
from compress_export.study.grids import GRIDS, SYSTEMS, Cell
from compressor.mcnemar import mcnemar
from exporters.artifact import write_whole

VERSION = 2
"""Raised whenever a line says something else than before."""

Number = int | float
"""A number that is written as it was read: 2 stays 2."""

REFERENCE = "ours"
"""The system that every other is compared with."""


@dataclass(frozen=True)
class Times:
    """Median ms of the original's file and the compressed one's, and their ratio; or the reasons why there are none."""

    p50: tuple[float, float] | None = None
    ratio: Ratio | None = None
    cpu: str = ""
    runtime: str = ""
    not_measured: tuple[str, ...] = ()


@dataclass(frozen=True)
class TrainedLine:
    """A cell that was planned, compressed and tuned. Pairs are of the original and the compressed network; top-1 and
    predictions stand by the networks' names in accuracy.json, and `held_out` holds step, epoch and top-1 on the
    validation split."""

    grid: str
    cell: Cell
    parameters: tuple[int, int]
    macs: tuple[int, int]
    ranks: dict[str, tuple[str | int, ...]]
    errors: dict[str, float]
    stability: dict[str, float | None]
    top1: dict[str, float]
    held_out: tuple[tuple[Number, Number, float], ...]
    predictions: dict[str, str]
    labels: str
    ms: Times | None = None


@dataclass(frozen=True)
class Counts:
    """Parameters and MACs; `papers_count` are the parameters with a bias in every factor, as a paper counts them."""

    parameters: Number
    macs: Number
    papers_count: Number | None = None


@dataclass(frozen=True)
class CountedLine:
    """The table of a paper: a network as it is, as printed there, and by several plans as counted here."""

    grid: str
    cell: Cell
    original: Counts
    printed: dict[str, float]
    counted: dict[str, Counts]


Line = TrainedLine | CountedLine


def read_lines(path: Path) -> list[Line]:
    """The lines of a results file, none where there is no file; a last one that a kill cut short is left out.

    InputError for a line of another version, or one that is no line of a study.
    """
    if not path.exists():
        return []
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not text.endswith("\n"):
            break
        where = f"{path}, line {number},"
        try:
            found = json.loads(text)
        except ValueError as error:
            raise InputError(f"{where} is no JSON ({error}); remove that line") from error
        if found.get("version") != VERSION:
            raise InputError(
                f"{where} is of version {found.get('version')}, and this study writes {VERSION}: the two cannot stand "
                "in one table; pass --results with another file, or take the version that wrote it"
            )
        try:
            lines.append(to_line(found))
        except msgspec.ValidationError as error:
            raise InputError(f"{where} is no line of a study ({error}); remove that line") from error
    return lines


def to_line(found: Mapping[str, Any]) -> Line:
    """A line from its JSON object; an earlier one calls the untuned network `cut`. ValidationError if it is none."""
    if "counted" in found:
        return msgspec.convert(found, CountedLine)
    top1 = {"untuned" if name == "cut" else name: value for name, value in found.get("top1", {}).items()}
    return msgspec.convert({**found, "top1": top1}, TrainedLine)


def add_line(path: Path, line: Line) -> None:
    """Adds a line at the end; a last one that a kill cut short goes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        file.write(_json(line).encode())


def put_line(path: Path, line: Line) -> None:
    """Puts a line in the place of that of the same cell. A kill leaves the file as it was."""
    write_whole(path, "".join(_json(line if other.cell == line.cell else other) for other in read_lines(path)))


def _json(line: Line) -> str:
    return json.dumps({"version": VERSION, **msgspec.to_builtins(line)}) + "\n"


def find(lines: Iterable[Line], cell: Cell) -> Line | None:
    """The line of the cell, whichever grid it was made for."""
    return next((line for line in lines if line.cell == cell), None)


def packed(classes: Sequence[int]) -> str:
    """Small numbers, such as the predicted class of every image, as text."""
    wide = b"".join(int(value).to_bytes(2, "little") for value in classes)
    return base64.b85encode(zlib.compress(wide, 9)).decode()


def unpacked(text: str) -> list[int]:
    """The numbers that were packed."""
    wide = zlib.decompress(base64.b85decode(text))
    return [int.from_bytes(wide[index : index + 2], "little") for index in range(0, len(wide), 2)]


Table = list[list[str]]
Group = tuple[str, str, str, str, str]
"""Network, data, budget, course and system."""


def trained_table(lines: Sequence[Line]) -> Table:
    """A row for each network, budget and system: top-1 before and after tuning over the seeds, the difference to ours
    with McNemar's test, flipped predictions, and the measured time.

    The difference is that of the seeds that both have, and p the largest of theirs: seeds are tested on the same
    images, so their predictions are not put together. The stability is the largest sum of squared norms of a CP's terms
    over the kernel's; above 1 they cancel each other.
    """
    table = [["network", "MACs", "system", "seeds", "epochs, course", "fewer MACs", "mean error", "largest stability",
              "untuned", "tuned", "lost", "flipped", "ours - this", "p", "times faster"]]  # fmt: skip
    groups = groups_of(lines)
    for (network, data, budget, course, system), own in groups.items():
        reference = {line.cell.seed: line for line in groups.get((network, data, budget, course, REFERENCE), [])}
        pairs = [(reference[line.cell.seed], line) for line in own if line.cell.seed in reference]
        difference = ["", ""]
        if pairs and system != REFERENCE:
            points = mean(ours.top1["compressed"] - line.top1["compressed"] for ours, line in pairs)
            p = max(mcnemar(_correct(ours), _correct(line)).p for ours, line in pairs)
            difference = [f"{points:+.2f}", f"{p:.1g}" if p > 1e-300 else "below 1e-300"]
        before, after = ([line.top1[name] for line in own] for name in ("original", "compressed"))
        stability = [value for line in own for value in line.stability.values() if value is not None]
        table.append(
            [
                network.rpartition(":")[2],
                budget,
                system,
                str(len(own)),
                course,
                f"{mean(line.macs[0] / line.macs[1] for line in own):.2f}x",
                f"{mean(error for line in own for error in line.errors.values()):.3f}",
                f"{max(stability):.2f}" if stability else "",
                spread([line.top1.get("untuned", line.top1["compressed"]) for line in own]),
                spread(after),
                f"{mean(before) - mean(after):.2f}",
                f"{mean(map(_flipped, own)):.1f} %",
                *difference,
                _faster(own),
            ]
        )
    return table


def groups_of(lines: Sequence[Line]) -> dict[Group, list[TrainedLine]]:
    """Lines that differ in their seed alone, in the order of SYSTEMS; each cell once, whichever grids asked for it."""
    found: dict[Group, list[TrainedLine]] = {}
    order = {name: index for index, name in enumerate(SYSTEMS)}
    trained = [line for line in lines if isinstance(line, TrainedLine)]
    for line in sorted(trained, key=lambda row: order.get(row.cell.system, len(order))):
        cell = line.cell
        images = "" if cell.images is None else f" of {cell.images:,} images"
        course = ", ".join(filter(None, (f"{cell.epochs:g}{images}", cell.course)))
        own = found.setdefault((cell.network, cell.data or "", cell.budget or "", course, cell.system), [])
        if all(other.cell != cell for other in own):
            own.append(line)
    return dict(sorted(found.items(), key=lambda pair: (*pair[0][:2], -float(pair[0][2].rstrip("x")), pair[0][3])))


def _correct(line: TrainedLine) -> list[bool]:
    """The test images that the compressed network has right."""
    pairs = zip(unpacked(line.predictions["compressed"]), unpacked(line.labels), strict=True)
    return [predicted == label for predicted, label in pairs]


def _flipped(line: TrainedLine) -> float:
    """The percentage of predictions that are others than the original's."""
    before, after = (unpacked(line.predictions[name]) for name in ("original", "compressed"))
    return 100 * sum(one != other for one, other in zip(before, after, strict=True)) / len(before)


def _faster(own: Sequence[TrainedLine]) -> str:
    ratios = [line.ms.ratio.value for line in own if line.ms is not None and line.ms.ratio is not None]
    return f"{1 / mean(ratios):.2f}" if ratios else "not measured"


def ours_table(lines: Sequence[Line]) -> Table:
    """Ours on all training images, tuned longest: top-1 in percent of the test images, of the original, cut, tuned."""
    table = [["network", "data", "fewer MACs", "fewer parameters", "times faster", "top-1", "untuned", "tuned",
              "flipped", "epochs", "seeds"]]  # fmt: skip
    for (network, data, *_), own in longest_of_ours(lines).items():
        table.append(
            [
                network.rpartition(":")[2],
                data,
                f"{mean(line.macs[0] / line.macs[1] for line in own):.2f}x",
                f"{mean(line.parameters[0] / line.parameters[1] for line in own):.2f}x",
                _faster(own),
                *(spread([line.top1[name] for line in own]) for name in ("original", "untuned", "compressed")),
                f"{mean(map(_flipped, own)):.1f} %",
                f"{own[0].cell.epochs:g}",
                str(len(own)),
            ]
        )
    return table


def longest_of_ours(lines: Sequence[Line]) -> dict[Group, list[TrainedLine]]:
    """Our groups on all training images, at each budget those that were tuned for the most epochs."""
    groups = groups_of([line for line in lines if line.cell.system == REFERENCE and line.cell.images is None])
    most: dict[tuple[str, ...], float] = {}
    for group, own in groups.items():
        most[group[:3]] = max(most.get(group[:3], 0), own[0].cell.epochs)
    return {group: own for group, own in groups.items() if own[0].cell.epochs == most[group[:3]]}


def paper_table(lines: Sequence[Line]) -> Table:
    """AlexNet's weights and MACs, as printed and as counted here."""
    table = [["AlexNet with two groups", "weights", "fewer", "MACs", "fewer"]]
    for line in lines:
        if isinstance(line, TrainedLine):
            continue
        whole, printed = line.original, line.printed
        rows = {"original": whole, "printed in the paper": Counts(printed["weights"], printed["macs"])}
        for name, row in line.counted.items():
            rows[name] = row
            if row.papers_count is not None:
                rows[f"{name}, a bias in every factor"] = Counts(row.papers_count, row.macs)
        for name, row in rows.items():
            table.append(
                [
                    name,
                    f"{row.parameters / 1e6:.2f}M",
                    f"{whole.parameters / row.parameters:.2f}x",
                    f"{row.macs / 1e6:.1f}M",
                    f"{whole.macs / row.macs:.2f}x",
                ]
            )
    return table


TABLES: dict[str, Callable[[Sequence[Line]], Table]] = {
    name: paper_table if grid.kind == "counted" else trained_table for name, grid in GRIDS.items()
}
"""The table of each grid."""


def of_grid(lines: Sequence[Line], grid: str) -> list[Line]:
    """Lines of the cells that a grid asks for, whichever grid they were made for."""
    own = GRIDS[grid]
    return [
        line
        for line in lines
        if line.grid == grid
        or (line.cell.system in own.systems and line.cell.budget in own.budgets and line.cell.epochs == own.epochs)
    ]


def spread(values: Sequence[float]) -> str:
    """The mean, and where the values differ their standard deviation."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(set(values)) > 1 else "")


def markdown(table: Table) -> str:
    """The table in Markdown, its first column left-aligned."""
    head, *body = table
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(lines: Sequence[Line], path: Path) -> None:
    """Top-1 after tuning against the fraction of MACs, a curve for each system with its spread over seeds: an SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    curves: dict[str, list[tuple[float, list[float]]]] = {}
    for (*_, system), own in groups_of(lines).items():
        fraction = mean(line.macs[1] / line.macs[0] for line in own)
        curves.setdefault(system, []).append((fraction, [line.top1["compressed"] for line in own]))
    for system, points in curves.items():
        fractions = [fraction for fraction, _ in sorted(points)]
        means = [mean(values) for _, values in sorted(points)]
        reach = [(max(values) - min(values)) / 2 for _, values in sorted(points)]
        axes.errorbar(fractions, means, yerr=reach, marker="o", capsize=3, label=system)
    axes.set_xlabel("fraction of the MACs")
    axes.set_ylabel("top-1 after tuning, %")
    axes.legend(fontsize="small")
    figure.savefig(path, format="svg")
