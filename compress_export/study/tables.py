"""Tables and plots of the study, from the lines of a results file alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean, stdev

from compress_export.reporting.model import McNemarTest, mcnemar
from compress_export.study.grids import GRIDS, SYSTEMS
from compress_export.study.lines import Line, unpacked

Table = list[list[str]]
REFERENCE = "ours"
"""What every other system is compared with."""


def trained_table(lines: Sequence[Line]) -> Table:
    """A row for each network, budget and system: top-1 before and after tuning over the seeds, the difference to ours
    with McNemar's test, flipped predictions, and the measured time."""
    table = [["network", "MACs", "system", "seeds", "epochs, course", "fewer MACs", "mean error",
              "largest stability", "cut", "tuned", "lost", "flipped", "ours - this", "p", "times faster"]]  # fmt: skip
    groups = groups_of(lines)
    for (network, data, budget, course, system), own in groups.items():
        ours = groups.get((network, data, budget, course, REFERENCE), [])
        before, after = ([line["top1"][name] for line in own] for name in ("original", "compressed"))
        table.append(
            [
                network.rpartition(":")[2],
                budget,
                system,
                str(len(own)),
                course,
                f"{mean(line['macs'][0] / line['macs'][1] for line in own):.2f}x",
                f"{mean(error for line in own for error in line['errors'].values()):.3f}",
                _stability(own),
                spread([line["top1"].get("cut", line["top1"]["compressed"]) for line in own]),
                spread(after),
                f"{mean(before) - mean(after):.2f}",
                f"{mean(_flipped(line) for line in own):.1f} %",
                *_difference(own, ours, system),
                _faster(own),
            ]
        )
    return table


Group = tuple[str, str, str, str, str]


def groups_of(lines: Sequence[Line]) -> dict[Group, list[Line]]:
    """Lines that differ in their seed alone, by network, data, budget, course and system, in the order of SYSTEMS; each
    cell once, whichever grids asked for it."""
    found: dict[Group, list[Line]] = {}
    order = {name: place for place, name in enumerate(SYSTEMS)}
    trained = [line for line in lines if line["cell"]["budget"] is not None]
    for line in sorted(trained, key=lambda row: order.get(row["cell"]["system"], len(order))):
        cell = line["cell"]
        images = "" if cell["images"] is None else f" of {cell['images']:,} images"
        course = ", ".join(filter(None, (f"{cell['epochs']:g}{images}", cell["course"])))
        own = found.setdefault((cell["network"], cell["data"], cell["budget"], course, cell["system"]), [])
        if all(other["cell"] != cell for other in own):
            own.append(line)
    return dict(sorted(found.items(), key=lambda pair: (*pair[0][:2], -float(pair[0][2].rstrip("x")), pair[0][3])))


def _compared(first: Line, name: str, second: Line) -> McNemarTest:
    return mcnemar(
        unpacked(first["predictions"][name]), unpacked(second["predictions"]["compressed"]), unpacked(first["labels"])
    )


def _difference(own: Sequence[Line], ours: Sequence[Line], system: str) -> list[str]:
    """Points by which ours is better on the seeds that both have, and the largest of their McNemar's p: seeds answer to
    the same images, so their answers are not put together."""
    by_seed = {line["cell"]["seed"]: line for line in ours}
    pairs = [(by_seed[line["cell"]["seed"]], line) for line in own if line["cell"]["seed"] in by_seed]
    if not pairs or system == REFERENCE:
        return ["", ""]
    points = mean(one["top1"]["compressed"] - other["top1"]["compressed"] for one, other in pairs)
    p = max(_compared(one, "compressed", other).p for one, other in pairs)
    return [f"{points:+.2f}", f"{p:.1g}" if p > 1e-300 else "below 1e-300"]


def _stability(own: Sequence[Line]) -> str:
    """The largest sum of squared norms of a CP's terms over the kernel's; above 1 they cancel each other."""
    found = [value for line in own for value in line["stability"].values() if value is not None]
    return f"{max(found):.2f}" if found else ""


def _faster(own: Sequence[Line]) -> str:
    ratios = [line["ms"]["ratio"]["value"] for line in own if line["ms"] and "ratio" in line["ms"]]
    return f"{1 / mean(ratios):.2f}" if ratios else "not measured"


def ours_table(lines: Sequence[Line]) -> Table:
    """Ours on all training images, tuned longest: top-1 in percent of the test images, of the original, cut, tuned."""
    table = [["network", "data", "fewer MACs", "fewer parameters", "times faster", "top-1", "cut", "tuned", "flipped",
              "epochs", "seeds"]]  # fmt: skip
    for at, own in longest_of_ours(lines).items():
        shares = [mean(line[what][0] / line[what][1] for line in own) for what in ("macs", "parameters")]
        table.append(
            [
                at[0].rpartition(":")[2],
                at[1],
                *(f"{share:.2f}x" for share in shares),
                _faster(own),
                *(spread([line["top1"][name] for line in own]) for name in ("original", "cut", "compressed")),
                f"{mean(_flipped(line) for line in own):.1f} %",
                f"{own[0]['cell']['epochs']:g}",
                str(len(own)),
            ]
        )
    return table


def longest_of_ours(lines: Sequence[Line]) -> dict[Group, list[Line]]:
    """Our groups on all training images, at each budget those that were tuned for the most epochs."""
    groups = groups_of([row for row in lines if row["cell"]["system"] == REFERENCE and row["cell"]["images"] is None])
    most: dict[tuple[str, ...], float] = {}
    for at, own in groups.items():
        most[at[:3]] = max(most.get(at[:3], 0), own[0]["cell"]["epochs"])
    return {at: own for at, own in groups.items() if own[0]["cell"]["epochs"] == most[at[:3]]}


def _flipped(line: Line) -> float:
    """The percentage of predictions that are others than the original's."""
    return 100 * _compared(line, "original", line).flipped / len(unpacked(line["labels"]))


def paper_table(lines: Sequence[Line]) -> Table:
    """AlexNet's weights and MACs, as printed and as counted here."""
    table = [["AlexNet with two groups", "weights", "fewer", "MACs", "fewer"]]
    for line in lines:
        if "counted" not in line:
            continue
        whole = line["original"]
        rows = {
            "original": whole,
            "printed in the paper": {"parameters": line["printed"]["weights"], **line["printed"]},
        }
        for name, row in line["counted"].items():
            rows[name] = row
            if "papers_count" in row:
                rows[f"{name}, a bias in every factor"] = {**row, "parameters": row["papers_count"]}
        for name, row in rows.items():
            table.append(
                [
                    name,
                    f"{row['parameters'] / 1e6:.2f}M",
                    f"{whole['parameters'] / row['parameters']:.2f}x",
                    f"{row['macs'] / 1e6:.1f}M",
                    f"{whole['macs'] / row['macs']:.2f}x",
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
        if line["grid"] == grid
        or (line["cell"]["system"] in own.systems and line["cell"]["budget"] in own.budgets
            and line["cell"]["epochs"] == own.epochs)
    ]  # fmt: skip


def spread(values: Sequence[float]) -> str:
    """The mean, and where the values differ their standard deviation."""
    return f"{mean(values):.2f}" + (f" ± {stdev(values):.2f}" if len(set(values)) > 1 else "")


def markdown(table: Table) -> str:
    head, *body = table
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def plot(lines: Sequence[Line], path: Path) -> None:
    """Top-1 after tuning against the share of MACs, a curve for each system with its spread over seeds: an SVG."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.subplots()
    curves: dict[str, list[tuple[float, list[float]]]] = {}
    for (*_, system), own in groups_of(lines).items():
        share = mean(line["macs"][1] / line["macs"][0] for line in own)
        curves.setdefault(system, []).append((share, [line["top1"]["compressed"] for line in own]))
    for system, points in curves.items():
        shares = [share for share, _ in sorted(points)]
        means = [mean(values) for _, values in sorted(points)]
        reach = [(max(values) - min(values)) / 2 for _, values in sorted(points)]
        axes.errorbar(shares, means, yerr=reach, marker="o", capsize=3, label=system)
    axes.set_xlabel("share of the MACs")
    axes.set_ylabel("top-1 after tuning, %")
    axes.legend(fontsize="small")
    figure.savefig(path, format="svg")
