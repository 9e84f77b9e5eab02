"""Which shared libraries a program needs, and where they lie: what the loader would do, before there is a loader."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path

NEEDED = re.compile(r"\(NEEDED\)\s+Shared library: \[([^]]+)\]")


def closure(programs: Iterable[Path], folders: Sequence[Path]) -> dict[str, Path]:
    """Every library that the programs need, by the name they call it, as far as it lies in the folders."""
    found: dict[str, Path] = {}
    waiting = list(programs)
    while waiting:
        for name in _needed(waiting.pop()):
            place = _find(name, folders)
            if place is not None and name not in found:
                found[name] = place
                waiting.append(place)
    return found


def _needed(path: Path) -> list[str]:
    told = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True)
    return NEEDED.findall(told.stdout)


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    """The library called `name`, or its file with the whole version behind it (wheels hold no links)."""
    for folder in folders:
        for path in (folder / name, *sorted(folder.glob(f"{name}.*"))):
            if path.is_file():
                return path.resolve()
    return None
