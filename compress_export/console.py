"""How a command speaks: --quiet, -v and --json, set once by the command line and asked wherever something is said."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from rich.console import Console

WIDTH = 120
"""Columns of a table that no terminal shows, as in a CI job's log; the variable COLUMNS overrules it."""


@dataclass(frozen=True)
class Voice:
    """`quiet`: nothing but errors, and what was asked for as JSON. `verbose`: more often, and errors with their
    traceback. `as_json`: the command's result as JSON on standard output, in place of its table."""

    quiet: bool = False
    verbose: bool = False
    as_json: bool = False


_VOICE: ContextVar[Voice] = ContextVar("voice", default=Voice())  # noqa: B039  # a Voice is frozen


def voice() -> Voice:
    return _VOICE.get()


def ordinary() -> None:
    """Back to the ordinary voice; each command begins with it."""
    _VOICE.set(Voice())


def console() -> Console:
    """Where tables are printed: as wide as the terminal, without colour where there is none."""
    from rich.console import Console

    found = Console()
    return found if found.is_terminal or "COLUMNS" in os.environ else Console(width=WIDTH)


def tell(value: Any, show: Callable[[], None]) -> None:
    """The command's result: `value` as JSON if that was asked for, else what `show` prints, else (quiet) nothing."""
    if voice().as_json:
        click.echo(value if isinstance(value, str) else json.dumps(value, indent=2), nl=not isinstance(value, str))
    elif not voice().quiet:
        show()


def change_voice(field: str) -> Callable[[click.Context, click.Parameter, bool], bool]:
    def change(_context: click.Context, _parameter: click.Parameter, value: bool) -> bool:
        if value:
            _VOICE.set(replace(voice(), **{field: True}))
        return value

    return change


@contextmanager
def hushed() -> Iterator[None]:
    """Quiet for a while, whatever was asked for."""
    token = _VOICE.set(replace(voice(), quiet=True, verbose=False))
    try:
        yield
    finally:
        _VOICE.reset(token)
