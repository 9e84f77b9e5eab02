"""Cache of measured times: JSON lines in the user's cache folder, one file for each device, format, runtime, threads.

Every time is written when it is measured, so whatever ends a run loses at most the form under way.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec

SCHEMA = 3
ANOTHER = "another version of compress-export"
FOLDER_VARIABLE = "COMPRESS_EXPORT_CACHE"


@dataclass(frozen=True)
class Conditions:
    """Device, format, runtime and threads that the times of one file share."""

    kind: str
    device: str
    format: str
    runtime: str
    version: str
    threads: int

    @property
    def file_name(self) -> str:
        words = (self.kind, self.device, self.format, self.version, f"{self.threads}-threads")
        return re.sub(r"[^A-Za-z0-9.]+", "-", " ".join(words)).strip("-") + ".jsonl"


@dataclass(frozen=True)
class Entry:
    """One time: `what` was measured (a geometry, or a network's hash), by which method at which rank, in ms.

    `beside` is what it is to be compared with, measured in turns with it: the layer itself (its own time, for the layer
    itself), or all layers of the network.
    """

    what: str
    method: str
    rank: tuple[int, ...]
    ms: float
    beside: float
    samples: int
    measured_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Kept:
    """One file of the cache: the conditions of its times (None if it cannot be read), and the times."""

    path: Path
    conditions: Conditions | None
    entries: tuple[Entry, ...]

    @property
    def bytes(self) -> int:
        return self.path.stat().st_size


def cache_folder() -> Path:
    """The folder of what the tool has measured: $COMPRESS_EXPORT_CACHE, or the user's cache folder."""
    from platformdirs import user_cache_path

    own = os.environ.get(FOLDER_VARIABLE)
    return Path(own) if own else user_cache_path("compress-export")


def folder() -> Path:
    """The folder of the times."""
    return cache_folder() / "layer-times"


def load(conditions: Conditions) -> tuple[Entry, ...]:
    """The times measured under these conditions, in the order in which they were measured."""
    path = folder() / conditions.file_name
    kept = _read(path) if path.exists() else None
    return kept.entries if kept is not None and kept.conditions == conditions else ()


def add(conditions: Conditions, entries: Iterable[Entry]) -> None:
    """Adds times to those kept under these conditions. OSError where the folder cannot be written."""
    path = folder() / conditions.file_name
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or _read(path).conditions != conditions:
        path.write_text(json.dumps({"schema": SCHEMA, **asdict(conditions)}) + "\n", encoding="utf-8")
    whole = path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        # a line that a killed run left half written ends here, and is skipped when read
        file.write(("" if whole else "\n") + "".join(json.dumps(asdict(entry)) + "\n" for entry in entries))


def files() -> tuple[Kept, ...]:
    """Everything that is kept, whatever conditions, runtime version or schema it has."""
    return tuple(_read(path) for path in sorted(folder().glob("*.jsonl")))


@dataclass(frozen=True)
class CacheRow:
    """A file of the cache in figures: its conditions (None of another version), how many times, bytes."""

    file: str
    conditions: Conditions | None
    times: int
    bytes: int


def rows() -> list[CacheRow]:
    """A row for each file that is kept."""
    return [CacheRow(kept.path.name, kept.conditions, len(kept.entries), kept.bytes) for kept in files()]


def clear() -> int:
    """Removes everything that is kept, errors of layers too; how many bytes the times were."""
    found = files()
    total = sum(kept.bytes for kept in found)
    for kept in found:
        kept.path.unlink()
    shutil.rmtree(cache_folder() / "layer-errors", ignore_errors=True)
    return total


def removed() -> str:
    """Removes everything that is kept; a sentence that says what that was."""
    number, place = sum(len(kept.entries) for kept in files()), folder()
    return f"Removed {number} times ({clear()} bytes) from {place}"


def listed() -> str:
    """A line for each file that is kept, and the folder that they lie in."""
    lines = []
    for kept in files():
        if kept.conditions is None:
            lines.append(f"{kept.path.name}: {kept.bytes} bytes, written by {ANOTHER}, not used")
            continue
        of = kept.conditions
        days = sorted(entry.measured_at[:10] for entry in kept.entries)
        when = "" if not days else f", {days[0]}" if days[0] == days[-1] else f", {days[0]} to {days[-1]}"
        number = f"{of.threads} thread{'s' * (of.threads > 1)}"
        lines.append(
            f"{of.device} ({of.kind}, {number}), {of.runtime} {of.version}: {len(kept.entries)} times{when}, "
            f"{kept.bytes} bytes"
        )
    return "\n".join([*lines, f"Times lie in {folder()}; `compress-export costs --clear` removes them"])


def foreign(conditions: Conditions) -> tuple[str, ...]:
    """Sources of kept times that no longer hold: versions of the same runtime on the same device, or ANOTHER."""
    found = []
    for kept in files():
        if kept.conditions is None:
            found.append(ANOTHER)
        elif kept.conditions != conditions and replace(kept.conditions, version=conditions.version) == conditions:
            found.append(kept.conditions.version)
    return tuple(found)


class _Head(msgspec.Struct):
    schema: int


def _read(path: Path) -> Kept:
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
    try:
        if msgspec.json.decode(lines[0], type=_Head).schema != SCHEMA:
            return Kept(path, None, ())
        conditions = msgspec.json.decode(lines[0], type=Conditions)
    except (IndexError, msgspec.MsgspecError):
        return Kept(path, None, ())
    entries = []
    for line in lines[1:]:
        # a line that a killed run left half written is skipped
        with suppress(msgspec.MsgspecError):
            entries.append(msgspec.json.decode(line, type=Entry))
    return Kept(path, conditions, tuple(entries))
