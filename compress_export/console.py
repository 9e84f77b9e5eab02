"""The output of a command: its options --quiet, --verbose and --json, and where tables are printed."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 120
"""Columns of a table that no terminal shows, as in a CI job's log; the variable COLUMNS overrules it."""


@dataclass(frozen=True)
class OutputOptions:
    """`quiet`: nothing but errors, and what was asked for as JSON. `verbose`: progress more often, and errors with
    their traceback. `as_json`: the command's result as JSON on standard output, in place of its table."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False


_OPTIONS: ContextVar[OutputOptions] = ContextVar("output options", default=OutputOptions())  # noqa: B039  # frozen


def output_options() -> OutputOptions:
    return _OPTIONS.get()


def set_output(options: OutputOptions) -> None:
    """Sets the output options; each command begins with the defaults."""
    _OPTIONS.set(options)


def console() -> Console:
    """A console for tables: as wide as the terminal, without colour where there is none."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=WIDTH)


def print_result(value: object, show: Callable[[], None]) -> None:
    """Prints the command's result: `value` as JSON with --json, else by `show`, with --quiet nothing."""
    if output_options().as_json:
        whole = isinstance(value, str)  # it is JSON already, with the end of its last line
        print(value if whole else json.dumps(value, indent=2), end="" if whole else "\n")
    elif not output_options().quiet:
        show()


@contextmanager
def quietly() -> Iterator[None]:
    """Quiet inside the block, whatever was asked for."""
    token = _OPTIONS.set(replace(output_options(), quiet=True, verbose=False))
    try:
        yield
    finally:
        _OPTIONS.reset(token)
