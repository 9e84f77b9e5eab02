"""`compress-export list KIND`: what there is to choose from."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import click

from compress_export.errors import InputError, nearest
from compress_export.voice import SPOKEN, console, tell, voice

Row = tuple[str, str]


def _networks() -> Iterator[Row]:
    from torchvision import models

    from compress_export.networks import OWN

    yield from ((name, "torchvision") for name in models.list_models(module=models))
    yield from ((name, "compress-export") for name in OWN)
    yield "timm:NAME", "any classification network of timm"
    yield "FILE.py:FUNCTION", "a network of your own"


def _methods() -> Iterator[Row]:
    import sys

    from compressor.methods import METHODS

    for name, method in METHODS.items():
        page = sys.modules[method.decompose.__module__].__doc__ or ""
        yield name, " ".join(page.partition("\n\n")[0].split())


def _formats() -> Iterator[Row]:
    from exporters.formats import FORMATS

    for name, form in FORMATS.items():
        yield name, f"{form.title}, run by {form.runtime}{'' if form.runs_here else ' (not on this system)'}"


def _devices() -> Iterator[Row]:
    from bench.devices import DEVICES

    yield from ((name, engine.title) for name, engine in DEVICES.items())


def _recipes() -> Iterator[Row]:
    from compressor.recipes import RECIPES

    yield from ((name, recipe.source) for name, recipe in RECIPES.items())


def _ranks() -> Iterator[Row]:
    from compressor.paper_ranks import PAPER_RANKS

    yield from ((name, f"{paper.network}: {paper.source}") for name, paper in PAPER_RANKS.items())


KINDS: dict[str, Callable[[], Iterator[Row]]] = {
    "networks": _networks,
    "methods": _methods,
    "formats": _formats,
    "devices": _devices,
    "recipes": _recipes,
    "ranks": _ranks,
}


@click.command("list", short_help="Say what there is to choose from.")
@click.argument("kind", metavar="networks|methods|formats|devices|recipes|ranks")
@SPOKEN
def list_kind(kind: str) -> None:
    """Print every name of a KIND with what it is. With --quiet the names alone, one to a line."""
    if kind not in KINDS:
        raise InputError(f"there is no list of {kind!r}: {nearest(kind, KINDS)}")
    rows = list(KINDS[kind]())
    if voice().quiet and not voice().as_json:
        click.echo("\n".join(name for name, _ in rows))
    tell([{"name": name, "what": what} for name, what in rows], lambda: _show(rows))


def _show(rows: list[Row]) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table
    from rich.text import Text

    table = Table("name", "what", box=SIMPLE_HEAD, show_edge=False)
    for name, what in rows:
        table.add_row(Text(name, no_wrap=True), Text(what))
    console().print(table)
