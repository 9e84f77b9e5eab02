"""Log: runs the steps of a build, those of the runner and of the app."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from bench.measurement import BenchError


class Log:
    """Runs steps and says how long each took; their words go to a file, whose last lines are shown if one fails."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def do(self, command: Sequence[str], what: str) -> None:
        """Runs a command, which does `what`. BenchError if it fails."""
        print(f"{what} ...", flush=True)
        begin = time.monotonic()
        with self._path.open("ab") as words:
            done = subprocess.run(command, stdout=words, stderr=subprocess.STDOUT, check=False)
        if done.returncode:
            last = "\n".join(self._path.read_text(errors="replace").splitlines()[-20:])
            raise BenchError(
                f"{what} failed with exit status {done.returncode}; the last lines of {self._path}:\n{last}"
            )
        print(f"  {time.monotonic() - begin:.0f} s", flush=True)
