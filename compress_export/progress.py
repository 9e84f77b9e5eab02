"""Progress of a run: a bar with the time left on a terminal, a line for each stage in a log."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from compress_export.console import output_options

Advance = Callable[[float, float, str], None]
"""Tells how far a stage is: done, total, and what is running."""

LOG_SECONDS = 20.0
VERBOSE_SECONDS = 2.0


class Reporter:
    """Shows stages on `console` (standard error by default, so that output can be piped); nothing with --quiet."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True, soft_wrap=False)

    def say(self, text: str) -> None:
        if output_options().quiet:
            return
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    @contextmanager
    def stage(self, title: str) -> Iterator[Advance]:
        """A stage under way; on the way out a line with the seconds it took."""
        start = time.monotonic()
        if self.console.is_terminal and not output_options().quiet:
            with self._bar(title) as advance:
                yield advance
        else:
            self.say(f"{title} ...")
            yield self._log(title)
        self.say(f"{title}: {time.monotonic() - start:.1f} s")

    @contextmanager
    def _bar(self, title: str) -> Iterator[Advance]:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TaskProgressColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}", markup=False),
        )
        with Progress(*columns, console=self.console, transient=True) as bar:
            task = bar.add_task(title, total=None, now="")
            yield lambda done, total, now: bar.update(task, completed=done, total=total, now=now)

    def _log(self, title: str) -> Advance:
        last = time.monotonic()
        pause = VERBOSE_SECONDS if output_options().verbose else LOG_SECONDS

        def advance(done: float, total: float, now: str) -> None:
            nonlocal last
            if time.monotonic() - last >= pause:
                last = time.monotonic()
                self.say(f"{title}: {100 * done / max(total, 1e-9):.0f} % {now}")

        return advance
