"""`compress-export study GRID`: what each method is worth on real data, cell by cell."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress_export.cli.options import OUTPUT, GroupedCommand, given_in, listed, option, options, with_settings
from compress_export.console import print_result
from compress_export.errors import InputError, nearest

if TYPE_CHECKING:
    from compress_export.settings import SourceSettings, TuneSettings
    from compress_export.study.grids import Cell
    from compressor.distributed import ProcessGroup

STUDY = "The study"


@dataclass(frozen=True)
class StudyOptions:
    """The cells of a grid that are made, and where their lines and runs are kept."""

    network: str | None
    seeds: tuple[str, ...]
    systems: str | None
    budgets: tuple[str, ...]
    epochs: float | None
    cap: float | None
    tables: bool
    results: Path
    runs: Path


CELLS = options(
    option("--network", group=STUDY, metavar="NAME", help="The network to study: as in compress-export NETWORK."),
    listed("--seeds", group=STUDY, metavar="SEED,...", help="These of the grid's seeds alone."),
    option("--systems", group=STUDY, metavar="NAME;...", help="These systems alone, between semicolons."),
    listed("--budgets", group=STUDY, metavar="FRACTION,...", help="These fractions of the MACs alone."),
    option("--epochs", group=STUDY, type=click.FloatRange(0, min_open=True), help="Of each cell.  "
           "[default: the grid's]"),
    option("--cap", group=STUDY, type=click.FloatRange(0, min_open=True), metavar="SECONDS", help="Time the files of "
           "each cell without times on this machine, each no longer than this.  [default: time nothing]"),
    option("--tables", group=STUDY, is_flag=True, help="Make nothing: only print the table, and write the plot beside "
           "the results."),
    option("--results", group=STUDY, default="results/study.jsonl", metavar="FILE", show_default=True,
           type=click.Path(path_type=Path), help="The results file; what it holds is not made again."),
    option("--runs", group=STUDY, default="runs/study", metavar="DIR", show_default=True,
           type=click.Path(path_type=Path), help="Folder of the cells' runs."),
)  # fmt: skip


@click.command("study", cls=GroupedCommand, short_help="Measure methods and recipes against each other.")
@click.argument("grid")
@with_settings("source", "fine_tune", without=("fine_tune.epochs",))
@CELLS
@OUTPUT
@click.pass_context
def study(context: click.Context, /, grid: str, **words: Any) -> None:
    """Make every cell of GRID (methods, claims, headline, deep, paper) that the results file lacks; print its table.

    The same command goes on where it was interrupted, within a cell too.
    """
    from compress_export.pipeline.run import on_main_process
    from compress_export.study.grids import GRIDS

    chosen, given = StudyOptions(**words), given_in(context)
    if grid not in GRIDS:
        raise InputError(f"there is no grid {grid!r}: {nearest(grid, GRIDS)}")

    def make(group: ProcessGroup) -> None:
        from compress_export.cli.to_settings import source_of, tune_of

        source = source_of(chosen.network or "alexnet-caffe", given)
        if GRIDS[grid].kind == "trained" and not (chosen.network and source.data):
            raise InputError(
                f"the grid {grid} trains: pass --network and --data, such as --data cifar10 --data-root DIR"
            )
        _make(grid, chosen, source, tune_of(given), group)
        _show(grid, chosen.results)

    if chosen.tables:
        _show(grid, chosen.results)
    else:
        on_main_process(make)


def _make(grid: str, chosen: StudyOptions, source: SourceSettings, tune: TuneSettings, group: ProcessGroup) -> None:
    """Makes every cell that is chosen and not in the results file yet, each added as soon as it is made; an interrupted
    one goes on where it was, for its run is still there. Then the times that are asked for."""
    from compress_export.console import Reporter
    from compress_export.models.networks import NetworkRequest, load_network
    from compress_export.pipeline.run import compressed_run
    from compress_export.study.cells import borrow, counted_line, request_of, timed, trained_line
    from compress_export.study.grids import GRIDS
    from compress_export.study.results import TrainedLine, add_line, find, put_line, read_lines

    cells = _cells(grid, chosen, source, tune)
    for number, cell in enumerate(cells, 1):
        if find(read_lines(chosen.results), cell) is not None:
            continue
        Reporter().say(f"cell {number} of {len(cells)}: {cell.name}")
        if cell.data is None:
            add_line(chosen.results, counted_line(grid, cell))
            continue
        path, request = chosen.runs / cell.name, request_of(cell, source, tune)
        borrow(chosen.runs, path, request)
        add_line(chosen.results, trained_line(grid, cell, compressed_run(path, request, group)))
    if chosen.cap is None or GRIDS[grid].kind != "trained":
        return
    network = load_network(NetworkRequest(source.network, "none", source.input))
    with Reporter().stage("Timing files in turns with the original's") as advance:
        for done, cell in enumerate(cells):
            line = find(read_lines(chosen.results), cell)
            if isinstance(line, TrainedLine) and line.ms is None:
                put_line(chosen.results, replace(line, ms=timed(line, network, chosen.cap)))
            advance(done + 1, len(cells), cell.name)


def _cells(grid: str, chosen: StudyOptions, source: SourceSettings, tune: TuneSettings) -> list[Cell]:
    """The cells of the grid that the options leave. InputError for a system that there is none of."""
    import hashlib
    import json

    from compress_export.study.grids import GRIDS, SYSTEMS, cells_of

    own = GRIDS[grid]
    systems = [name.strip() for name in (chosen.systems or "").split(";") if name.strip()]
    unknown = [name for name in systems if name not in SYSTEMS]
    if unknown:
        raise InputError(f"there is no system {unknown[0]!r}: {nearest(unknown[0], SYSTEMS)}")
    absent = [name for name in systems if name not in own.systems]
    if absent:
        raise InputError(f"the grid {grid} has no system {absent[0]!r}; it has: {'; '.join(own.systems)}")
    seeds = tuple(map(str, own.seeds))
    for name, values, known in (("--budgets", chosen.budgets, own.budgets), ("--seeds", chosen.seeds, seeds)):
        foreign = [value for value in values if value not in known]
        if foreign:
            raise InputError(f"{name} {foreign[0]}: this grid has {', '.join(known)}")
    network = (chosen.network or "").rpartition("/")[2]
    weights = source.weights if source.weights_sha256 is None else source.weights_sha256
    # tells networks of one name apart: where files lie, and what differs between cells, is no part of it
    identity: list[object] = [source.network_sha256, weights, source.input, source.mean, source.std, source.train]
    identity += filter(None, (source.resize, source.crop_pct, source.interpolation))
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:12]
    course = f"{tune.optimizer} {tune.rate} {tune.rate_schedule}, batches of {source.batch}"
    return [
        replace(cell, epochs=chosen.epochs or cell.epochs)
        for cell in cells_of(grid, network, source.data, course, source.images, digest)
        if (not systems or cell.system in systems)
        and (
            cell.budget is None
            or (cell.budget in (chosen.budgets or own.budgets) and str(cell.seed) in (chosen.seeds or seeds))
        )
    ]


def _show(grid: str, results: Path) -> None:
    from compress_export.study.grids import GRIDS
    from compress_export.study.results import TABLES, markdown, of_grid, plot, read_lines

    lines = of_grid(read_lines(results), grid)
    table = TABLES[grid](lines)
    if GRIDS[grid].kind == "trained" and lines:
        plot(lines, results.with_name(f"study-{grid}.svg"))
    print_result([dict(zip(table[0], row, strict=True)) for row in table[1:]], lambda: click.echo(markdown(table)))
