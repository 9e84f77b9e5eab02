"""READERS: which files can be opened. Any other is judged by its size alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from bench.inside import read_mlpackage, read_onnx, read_pte, read_ptl, read_safetensors
from bench.inside.contents import ContentError, Contents

READERS: dict[str, Callable[[Path], Contents]] = {
    "pte": read_pte.read,
    "onnx": read_onnx.read,
    "ptl": read_ptl.read,
    "mlpackage": read_mlpackage.read,
    "safetensors": read_safetensors.read,
}


def read(path: Path) -> Contents | None:
    """What the file holds; None if its suffix is none of READERS. ContentError if it is cut short or something else."""
    reader = READERS.get(path.suffix.removeprefix("."))
    if reader is None:
        return None
    try:
        return reader(path)
    except ContentError as error:
        raise ContentError(f"{path.name} is no whole .{path.suffix.removeprefix('.')}: {error}") from error
