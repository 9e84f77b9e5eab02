"""`compress-export check`: verdicts on budgets.toml. Exit status 0 if all hold, 1 if one fails, 2 on bad input."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from compress_export.cli.options import LOUDNESS
from compress_export.console import console, voice

if TYPE_CHECKING:
    from compress_export.reporting.verdicts import Verdicts

FAILED, BAD_INPUT = 1, 2


@click.command(short_help="Hold files to budgets.toml, as CI does.")
@click.option("--budgets", default="budgets.toml", metavar="FILE", help="The limits.", show_default=True)
@click.option("--base", metavar="REF|DIR", help="What changes are counted from: a git commit, or a folder that holds "
              "the same files.")  # fmt: skip
@click.option("--strict", is_flag=True, help="What was not measured fails.")
@click.option("--why", is_flag=True, help="Say what is inside each file: weights by layer, types, operators, copies.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@click.option("--github", is_flag=True, help="In a GitHub job: write its summary, and mark the lines that failed.")
@click.option("--write", "files", multiple=True, metavar="FILE", help="Write the verdicts to FILE as well (.md or "
              ".json); may be repeated.")  # fmt: skip
@click.option("--init", "place", metavar="RUN|DIR", help="Write budgets.toml from what a run or a folder weighs now.")
@LOUDNESS
def check(**asked: Any) -> None:
    """Give a verdict on every limit of budgets.toml: passed, failed (by how much, and what grew) or not measured.

    Exit status 1 if one failed, 2 if the budgets or the files cannot be read. No file is run: figures come from the
    files and from what their runs recorded.
    """
    from bench.measurement import BenchError
    from compress_export.errors import InputError

    try:
        if asked["place"] is not None:
            _draw(Path(asked["budgets"]), Path(asked["place"]))
            return
        _check_wishes(asked)
        holds = _checked(asked)
    except (BenchError, InputError, OSError) as error:
        if voice().verbose:
            raise
        click.echo(f"compress-export: {error}", err=True)
        sys.exit(BAD_INPUT)
    sys.exit(0 if holds else FAILED)


def _check_wishes(asked: dict[str, Any]) -> None:
    from compress_export.errors import InputError

    if asked["as_json"] and asked["as_markdown"]:
        raise InputError("--json and --markdown both print; pass one, and --write FILE for the other")
    if asked["as_json"] and asked["github"]:
        raise InputError("--json and --github both print; pass one, and --write FILE.json for the JSON")
    for name in asked["files"]:
        if Path(name).suffix not in (".md", ".json"):
            raise InputError(f"--write {name}: verdicts are written as .md or .json")
    if asked["github"] and "GITHUB_STEP_SUMMARY" not in os.environ:
        raise InputError("--github writes the summary of a GitHub job, and there is no GITHUB_STEP_SUMMARY here")


def _checked(asked: dict[str, Any]) -> bool:
    """Whether all budgets hold, after saying so in every way that was asked for."""
    from bench.budgets.limits import read_budgets
    from bench.budgets.model_files import base_folder
    from bench.budgets.verdicts import check as verdicts_on
    from compress_export.reporting import verdicts as verdict_pages
    from compress_export.reporting.verdicts import Verdicts

    budgets = read_budgets(Path(asked["budgets"]))
    with base_folder(asked["base"], budgets) as base:
        found = Verdicts(verdicts_on(budgets, base), asked["base"], asked["strict"], asked["why"])
        for name in asked["files"]:
            text = verdict_pages.as_json(found) if name.endswith(".json") else verdict_pages.markdown(found)
            _write(Path(name), text, "--write FILE")
        if asked["github"]:
            _write(Path(os.environ["GITHUB_STEP_SUMMARY"]), verdict_pages.markdown(found), "GITHUB_STEP_SUMMARY", "a")
        _print(found, asked)
    return found.holds


def _write(path: Path, text: str, option: str, mode: str = "w") -> None:
    """Writes the text, or adds it (mode "a"). InputError, with the option that names another place, if it cannot."""
    from compress_export.errors import InputError

    try:
        with path.open(mode, encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise InputError(
            f"{path} cannot be written ({error.strerror}); pass another place with {option}, or make its folder one "
            "that can be written"
        ) from error


def _print(found: Verdicts, asked: dict[str, Any]) -> None:
    from compress_export.reporting import verdicts as verdict_pages
    from compress_export.reporting.verdicts import show_verdicts

    if asked["as_json"]:
        click.echo(verdict_pages.as_json(found), nl=False)
    elif asked["as_markdown"]:
        click.echo(verdict_pages.markdown(found), nl=False)
    elif not voice().quiet:
        show_verdicts(found, console())
    if asked["github"]:
        for line in verdict_pages.marks(found):
            click.echo(line)


def _draw(budgets: Path, place: Path) -> None:
    from bench.budgets.first_draft import draft
    from compress_export.errors import InputError

    if budgets.exists():
        raise InputError(f"{budgets} exists; remove it, or pass another with --budgets FILE")
    if not place.exists():
        raise InputError(f"--init {place}: there is no such run or folder")
    _write(budgets, draft(place, budgets.parent), "--budgets FILE")
    other = "" if str(budgets) == "budgets.toml" else f" --budgets {budgets}"
    click.echo(f"{budgets}: look at the limits, then `compress-export check{other}`")
