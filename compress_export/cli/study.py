"""`compress-export study GRID`: what each method is worth on real data, cell by cell."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress_export.cli.options import RATE, SOURCE, SPOKEN, listed, options
from compress_export.cli.to_settings import source_of, tune_of
from compress_export.console import tell
from compress_export.errors import InputError, nearest

if TYPE_CHECKING:
    from compress_export.settings import SourceSettings
    from compress_export.study.cells import Bed
    from compress_export.study.grids import Cell
    from compressor.distributed import ProcessGroup

KEPT = options(
    click.option("--results", default="results/study.jsonl", metavar="FILE", show_default=True,
                 help="The results file; what it holds is not made again."),
    click.option("--runs", default="runs/study", metavar="DIR", show_default=True, help="Folder of the cells' runs."),
)  # fmt: skip

CHOICE = options(
    click.option("--network", metavar="NAME", help="The network to study: as in compress-export NETWORK."),
    listed("--seeds", metavar="SEED,...", help="These of the grid's seeds alone."),
    click.option("--systems", metavar="NAME;...", help="These systems alone, between semicolons."),
    listed("--budgets", metavar="SHARE,...", help="These shares of the MACs alone."),
    click.option("--epochs", type=click.FloatRange(0, min_open=True), help="Of each cell.  [default: the grid's]"),
    click.option("--cap", type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Time the files of each "
                 "cell without times on this machine, each no longer than this.  [default: time nothing]"),
    click.option("--tables", is_flag=True, help="Make nothing: only print the table, and write the plot beside the "
                 "results."),
)  # fmt: skip


@click.command("study", short_help="Measure methods and recipes against each other.")
@click.argument("grid")
@SOURCE
@RATE
@CHOICE
@KEPT
@SPOKEN
def study(grid: str, **asked: Any) -> None:
    """Make every cell of GRID (methods, claims, headline, deep, paper) that the results file lacks; print its table.

    The same command goes on where it was interrupted, within a cell too.
    """
    from compress_export.pipeline.run import on_main_process
    from compress_export.study.grids import GRIDS

    if grid not in GRIDS:
        raise InputError(f"there is no grid {grid!r}: {nearest(grid, GRIDS)}")
    if asked["tables"]:
        _show(grid, Path(asked["results"]))
    else:
        on_main_process(lambda group: _studied(grid, asked, group))


def _studied(grid: str, asked: dict[str, Any], group: ProcessGroup) -> None:
    _make(grid, asked, group)
    _show(grid, Path(asked["results"]))


def _make(grid: str, asked: dict[str, Any], group: ProcessGroup) -> None:
    """Every cell that is asked for and not in the results file yet, each added as soon as it is made; then the times
    that are asked for."""
    from compress_export.progress import Reporter
    from compress_export.study.cells import Bed, line_of
    from compress_export.study.grids import GRIDS
    from compress_export.study.lines import add_line, find, read_lines

    if GRIDS[grid].kind == "trained" and not (asked["network"] and asked["data"]):
        raise InputError(f"the grid {grid} trains: pass --network and --data, such as --data cifar10 --data-root DIR")
    names = ("schedule", "total_epochs", "epochs_scale", "rate_step", "patience", "distill", "unlabelled", "recipe",
             "regularizer", "regularizer_weight")  # fmt: skip
    tuning = {**asked, **dict.fromkeys(names), "epochs": None, "cut_order": "network", "trained": "all"}
    bed = Bed(
        source_of(asked["network"] or "alexnet-caffe", asked),
        tune_of({**tuning, "mixed_precision": False}),
        Path(asked["runs"]),
        group,
    )
    results, cells = Path(asked["results"]), _cells(grid, asked, bed)
    for place, cell in enumerate(cells, 1):
        if find(read_lines(results), cell.key) is None:
            Reporter().say(f"cell {place} of {len(cells)}: {cell.name}")
            add_line(results, line_of(cell, bed))
    if asked["cap"] is not None and GRIDS[grid].kind == "trained":
        _time(results, cells, bed.source, asked["cap"])


def _time(results: Path, cells: list[Cell], source: SourceSettings, cap: float) -> None:
    """Times for the lines of `cells` that have none."""
    from compress_export.models.networks import Order, load_network
    from compress_export.progress import Reporter
    from compress_export.study.cells import timed
    from compress_export.study.lines import find, put_line, read_lines

    network = load_network(Order(source.network, "none", source.input))
    with Reporter().stage("Timing files in turns with the original's") as advance:
        for done, cell in enumerate(cells):
            line = find(read_lines(results), cell.key)
            if line is not None and line["ms"] is None:
                put_line(results, {**line, "ms": timed(line, network, cap)})
            advance(done + 1, len(cells), cell.name)


def _course(bed: Bed) -> str:
    tune = bed.tune
    return f"{tune.optimizer} {tune.rate} {tune.rate_shape}, batches of {bed.source.batch}"


def _digest(source: SourceSettings) -> str:
    """What tells a network of one name from another: its code, weights, image and training. Where its files lie, and
    what differs between cells, is no part of it."""
    import hashlib
    import json

    weights = source.weights if source.weights_sha256 is None else source.weights_sha256
    told = [source.network_sha256, weights, source.input, source.mean, source.std, source.train]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:12]


def _cells(grid: str, asked: dict[str, Any], bed: Bed) -> list[Cell]:
    """The cells of the grid that the options leave. InputError for a system that there is none of."""
    from dataclasses import replace

    from compress_export.study.grids import GRIDS, SYSTEMS, cells_of

    name, course = (asked["network"] or "").rpartition("/")[2], _course(bed)
    found = list(cells_of(grid, name, asked["data"], course, asked["images"], _digest(bed.source)))
    systems = [name.strip() for name in (asked["systems"] or "").split(";") if name.strip()]
    unknown = [name for name in systems if name not in SYSTEMS]
    if unknown:
        raise InputError(f"there is no system {unknown[0]!r}: {nearest(unknown[0], SYSTEMS)}")
    absent = [name for name in systems if name not in GRIDS[grid].systems]
    if absent:
        raise InputError(f"the grid {grid} has no system {absent[0]!r}; it has: {'; '.join(GRIDS[grid].systems)}")
    own = GRIDS[grid]
    budgets = _some("--budgets", asked["budgets"], own.budgets)
    seeds = _some("--seeds", asked["seeds"], tuple(map(str, own.seeds)))
    left = [
        cell
        for cell in found
        if (not systems or cell.system in systems)
        and (cell.budget is None or (cell.budget in budgets and str(cell.seed) in seeds))
    ]
    return [replace(cell, epochs=asked["epochs"] or cell.epochs) for cell in left]


def _some(option: str, text: str | None, own: tuple[str, ...]) -> tuple[str, ...]:
    """Those of a grid's own values that the text names between commas, or all. InputError for one it has not."""
    from compress_export.cli.options import parse_names

    asked = parse_names(text)
    foreign = [name for name in asked if name not in own]
    if foreign:
        raise InputError(f"{option} {foreign[0]}: this grid has {', '.join(own)}")
    return asked or own


def _show(grid: str, results: Path) -> None:
    from compress_export.study.grids import GRIDS
    from compress_export.study.lines import read_lines
    from compress_export.study.tables import TABLES, markdown, of_grid, plot

    lines = of_grid(read_lines(results), grid)
    table = TABLES[grid](lines)
    if GRIDS[grid].kind == "trained" and lines:
        plot(lines, results.with_name(f"study-{grid}.svg"))
    tell([dict(zip(table[0], row, strict=True)) for row in table[1:]], lambda: click.echo(markdown(table)))
