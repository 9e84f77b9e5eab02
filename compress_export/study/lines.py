"""The results file: one JSON line for each cell, with a version, and the packed answers that comparisons need."""

from __future__ import annotations

import base64
import json
import zlib
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from compress_export.errors import InputError

VERSION = 2
"""Raised whenever a line says something else than before."""

Line = dict[str, Any]


def read_lines(path: Path) -> list[Line]:
    """The lines of a results file, none where there is no file; a last one that a kill cut short is left out.

    InputError for a line of another version, or one that is no JSON.
    """
    if not path.exists():
        return []
    lines = []
    for number, text in enumerate(path.read_text(encoding="utf-8").splitlines(keepends=True), 1):
        if not text.endswith("\n"):
            break
        try:
            line = json.loads(text)
        except ValueError as error:
            raise InputError(f"{path}, line {number}, is no JSON ({error}); remove that line") from error
        if line.get("version") != VERSION:
            raise InputError(
                f"{path}, line {number}, is of version {line.get('version')}, and this study writes {VERSION}: the two "
                "cannot stand in one table; pass --results with another file, or take the version that wrote it"
            )
        lines.append(line)
    return lines


def add_line(path: Path, line: Line) -> None:
    """Adds a line at the end; a last one that a kill cut short goes first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+b") as file:
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        file.write(json.dumps({"version": VERSION, **line}).encode() + b"\n")


def put_line(path: Path, line: Line) -> None:
    """Puts a line in the place of that of the same cell. A kill leaves the file as it was."""
    lines = [line if each["cell"] == line["cell"] else each for each in read_lines(path)]
    fresh = path.with_name(f"{path.name}.part")
    fresh.write_text("".join(json.dumps(each) + "\n" for each in lines), encoding="utf-8")
    fresh.replace(path)


def find(lines: Iterable[Line], key: Line) -> Line | None:
    """The line of the cell with this key."""
    return next((line for line in lines if line["cell"] == key), None)


def packed(classes: Sequence[int]) -> str:
    """Small numbers, such as the predicted class of every image, as text."""
    wide = b"".join(int(value).to_bytes(2, "little") for value in classes)
    return base64.b85encode(zlib.compress(wide, 9)).decode()


def unpacked(text: str) -> list[int]:
    wide = zlib.decompress(base64.b85decode(text))
    return [int.from_bytes(wide[place : place + 2], "little") for place in range(0, len(wide), 2)]
