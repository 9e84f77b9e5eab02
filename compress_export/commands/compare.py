"""`compress-export compare A B ...`: runs, files or measurements side by side."""

from __future__ import annotations

from pathlib import Path

import click

from compress_export.errors import InputError
from compress_export.voice import SPOKEN, console, tell


@click.command(short_help="Set runs, files or measurements side by side.")
@click.argument("paths", nargs=-1, type=click.Path(path_type=Path), metavar="A B ...")
@SPOKEN
def compare(paths: tuple[Path, ...]) -> None:
    """Set runs, exported files or measurements.jsonl side by side, with ratios to the first.

    Times and memory have a ratio only on one device: host, simulated and phone figures are never ranked together. A
    float16 file beside a float32 one is marked.
    """
    from compress_export.reporting.comparison import compared
    from compress_export.reporting.comparison_table import as_plain, show_comparison

    if len(paths) < 2:
        raise InputError(
            "compare takes two or more runs, files or measurements.jsonl; a run's own files are "
            "set side by side by `compress-export report RUN`"
        )
    found = compared(paths)
    tell(as_plain(found), lambda: show_comparison(found, console()))
