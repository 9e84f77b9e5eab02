"""`compress-export check`: verdicts on budgets.toml. Exit status 0 if all hold, 1 if one fails, 2 on bad input."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click

from compress_export.cli.options import QUIET, GroupedCommand, option
from compress_export.console import console, output_options

FAILED, BAD_INPUT = 1, 2


@dataclass(frozen=True)
class CheckOptions:
    """The budgets, what they are compared with, and where verdicts are written; --init drafts budgets of `place`."""

    budgets: str
    base: str | None
    strict: bool
    why: bool
    as_json: bool
    as_markdown: bool
    github: bool
    files: tuple[str, ...]
    place: str | None


@click.command(cls=GroupedCommand, short_help="Hold files to budgets.toml, as CI does.")
@option("--budgets", default="budgets.toml", metavar="FILE", help="The limits.", show_default=True)
@option("--base", metavar="REF|DIR", help="What changes are counted from: a git commit, or a folder that holds "
              "the same files.")  # fmt: skip
@option("--strict", is_flag=True, help="What was not measured fails.")
@option("--why", is_flag=True, help="Say what is inside each file: weights by layer, types, operators, copies.")
@option("--json", "as_json", is_flag=True, help="Print JSON.")
@option("--markdown", "as_markdown", is_flag=True, help="Print Markdown.")
@option("--github", is_flag=True, help="In a GitHub job: write its summary, and mark the lines that failed.")
@option("--write", "files", multiple=True, metavar="FILE", help="Write the verdicts to FILE as well (.md or "
              ".json); may be repeated.")  # fmt: skip
@option("--init", "place", metavar="RUN|DIR", help="Write budgets.toml from what a run or a folder weighs now.")
@QUIET
def check(**words: Any) -> None:
    """Give a verdict on every limit of budgets.toml: passed, failed (by how much, and what grew) or not measured.

    Exit status 1 if one failed, 2 if the budgets or the files cannot be read. No file is run: figures come from the
    files and from what their runs recorded.
    """
    from bench.measurement import BenchError
    from compress_export.errors import InputError

    options = CheckOptions(**words)
    try:
        if options.place is not None:
            _draw(Path(options.budgets), Path(options.place))
            return
        holds = _checked(options)
    except (BenchError, InputError, OSError) as error:
        if output_options().verbose:
            raise
        click.echo(f"compress-export: {error}", err=True)
        sys.exit(BAD_INPUT)
    sys.exit(0 if holds else FAILED)


def _checked(options: CheckOptions) -> bool:
    """Writes and prints the verdicts in every way that was asked for. True if all budgets hold."""
    from bench.budgets.limits import read_budgets
    from bench.budgets.model_files import base_folder
    from bench.budgets.verdicts import check as verdicts_on
    from compress_export.errors import InputError
    from compress_export.reporting import verdicts as pages

    if options.as_json and options.as_markdown:
        raise InputError("--json and --markdown both print; pass one, and --write FILE for the other")
    if options.as_json and options.github:
        raise InputError("--json and --github both print; pass one, and --write FILE.json for the JSON")
    for name in options.files:
        if Path(name).suffix not in (".md", ".json"):
            raise InputError(f"--write {name}: verdicts are written as .md or .json")
    if options.github and "GITHUB_STEP_SUMMARY" not in os.environ:
        raise InputError("--github writes the summary of a GitHub job, and there is no GITHUB_STEP_SUMMARY here")
    budgets = read_budgets(Path(options.budgets))
    with base_folder(options.base, budgets) as base:
        found = pages.Verdicts(verdicts_on(budgets, base), options.base, options.strict, options.why)
        for name in options.files:
            text = pages.as_json(found) if name.endswith(".json") else pages.markdown(found)
            _write(Path(name), text, "--write FILE")
        if options.github:
            _write(Path(os.environ["GITHUB_STEP_SUMMARY"]), pages.markdown(found), "GITHUB_STEP_SUMMARY", "a")
        if options.as_json:
            click.echo(pages.as_json(found), nl=False)
        elif options.as_markdown:
            click.echo(pages.markdown(found), nl=False)
        elif not output_options().quiet:
            pages.show_verdicts(found, console())
        if options.github:
            for line in pages.marks(found):
                click.echo(line)
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
