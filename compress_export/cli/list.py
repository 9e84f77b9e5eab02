"""`compress-export list KIND`: what there is to choose from."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click
import msgspec

from compress_export.cli.options import OUTPUT, GroupedCommand, option
from compress_export.console import console, output_options, print_result
from compress_export.errors import InputError, nearest
from compress_export.settings import SETTINGS, said


@click.command(cls=GroupedCommand, short_help="Set runs, files or measurements side by side.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="A B ...")
@OUTPUT
def compare(paths: tuple[Path, ...]) -> None:
    """Set runs, exported files or measurements.jsonl side by side, with ratios to the first.

    Times and memory have a ratio only on one device: host, simulated and phone figures are never ranked together. A
    float16 file beside a float32 one is marked.
    """
    from compress_export.reporting.comparison import as_plain, compared, show_comparison

    if len(paths) < 2:
        raise InputError(
            "compare takes two or more runs, files or measurements.jsonl; a run's own files are "
            "set side by side by `compress-export report RUN`"
        )
    found = compared(paths)
    print_result(as_plain(found), lambda: show_comparison(found, console()))


@click.command("costs", cls=GroupedCommand, short_help="List or remove measured layer times.")
@OUTPUT
@option("--clear", is_flag=True, help="Remove them: the next plan measures anew.")
def costs(clear: bool) -> None:
    """List the layer times that plans have measured, with the device and runtime they belong to."""
    from compress_export.latency import cache as layer_times_cache

    rows = msgspec.to_builtins(layer_times_cache.rows())
    text = layer_times_cache.removed() if clear else layer_times_cache.listed()
    print_result({"removed": rows} if clear else rows, lambda: click.echo(text))


Row = tuple[str, ...]
KINDS = ("networks", "methods", "formats", "devices", "recipes", "ranks", "settings")


def rows_of(kind: str) -> Iterator[Row]:
    """The rows of a list: a name and what it is; of a setting, its type and default between them."""
    if kind == "networks":
        from torchvision import models

        from compress_export.models.networks import OWN

        yield from ((name, "torchvision") for name in models.list_models(module=models))
        yield from ((name, "compress-export") for name in OWN)
        yield "timm:NAME", "any classification network of timm"
        yield "FILE.py:FUNCTION", "a network of your own; PACKAGE.MODULE:FUNCTION where it is part of a package"
    elif kind == "methods":
        from compressor.decompositions.methods import METHODS

        for name, method in METHODS.items():
            page = sys.modules[method.decompose.__module__].__doc__ or ""
            yield name, " ".join(page.partition("\n\n")[0].split())
    elif kind == "formats":
        from exporters.formats import FORMATS

        for name, form in FORMATS.items():
            place = "" if form.runs_here else " (interpreted on this system)"
            yield name, f"{form.title}, run by {form.runtime}{place}"
    elif kind == "devices":
        from bench.devices import DEVICES

        yield from ((name, engine.title) for name, engine in DEVICES.items())
    elif kind == "settings":
        for name, setting in SETTINGS.items():
            what, _, default = setting.help.partition("  [default: ")
            yield name, setting.takes, default.rstrip("]") or said(setting.default), what
    else:
        from compressor.planning.recipes import PAPER_RANKS, RECIPES

        if kind == "recipes":
            yield from ((name, recipe.source) for name, recipe in RECIPES.items())
        else:
            yield from ((name, f"{paper.network}: {paper.source}") for name, paper in PAPER_RANKS.items())


@click.command("list", cls=GroupedCommand, short_help="Say what there is to choose from.")
@click.argument("kind", metavar="|".join(KINDS))
@OUTPUT
def list_kind(kind: str) -> None:
    """Print every name of a KIND with what it is. With --quiet the names alone, one to a line."""
    if kind not in KINDS:
        raise InputError(f"there is no list of {kind!r}: {nearest(kind, KINDS)}")
    rows = list(rows_of(kind))
    columns = ("name", "type", "default", "what") if kind == "settings" else ("name", "what")
    if output_options().quiet and not output_options().as_json:
        click.echo("\n".join(name for name, *_ in rows))

    def show() -> None:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table
        from rich.text import Text

        table = Table(box=SIMPLE_HEAD, show_edge=False)
        table.add_column(columns[0], no_wrap=True, min_width=max(len(name) for name, *_ in rows))
        for column in columns[1:]:
            table.add_column(column)
        for row in rows:
            table.add_row(*map(Text, row))
        console().print(table)

    print_result([dict(zip(columns, row, strict=True)) for row in rows], show)
