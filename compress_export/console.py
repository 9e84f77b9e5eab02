"""The output of a command: its options --quiet, --verbose and --json, its tables, and the progress of a run."""

from __future__ import annotations

import json
import os
import time
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


Advance = Callable[[float, float, str], None]
"""Tells how far a stage is: done, total, and what is running."""

LOG_SECONDS = 20.0
VERBOSE_SECONDS = 2.0


class Reporter:
    """Shows stages on `console` (standard error by default, so that output can be piped); nothing with --quiet."""

    def __init__(self, console: Console | None = None) -> None:
        from rich.console import Console

        self.console = console or Console(stderr=True, soft_wrap=False)

    def say(self, text: str) -> None:
        if output_options().quiet:
            return
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """A stage under way: a bar with the time left on a terminal, lines in a log; then the seconds it took."""
        start = last = time.monotonic()
        pause = VERBOSE_SECONDS if output_options().verbose else LOG_SECONDS

        def log(done: float, total: float, now: str) -> None:
            nonlocal last
            if time.monotonic() - last >= pause:
                last = time.monotonic()
                self.say(f"{title}: {100 * done / max(total, 1e-9):.0f} % {now}")

        if self.console.is_terminal and not output_options().quiet:
            from rich import progress

            columns = (
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(bar_width=24),
                progress.TaskProgressColumn(),
                progress.TimeElapsedColumn(),
                progress.TextColumn("left"),
                progress.TimeRemainingColumn(),
                progress.TextColumn("{task.fields[now]}", markup=False),
            )
            with progress.Progress(*columns, console=self.console, transient=True) as bar:
                task = bar.add_task(title, total=None, now="")
                yield lambda done, total, now: bar.update(task, completed=done, total=total, now=now)
        else:
            self.say(f"{title} ...")
            yield log
        self.say(f"{title}: {time.monotonic() - start:.1f} s")
