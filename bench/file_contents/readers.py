"""READERS: which files can be opened. Any other is judged by its size alone."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from bench.file_contents import read_mlpackage, read_onnx, read_pte, read_ptl, read_safetensors
from bench.file_contents.contents import ContentError, Contents

Shape = tuple[int, ...]


INPUT_READERS: dict[str, Callable[[Path], Shape | None]] = {
    "pte": read_pte.input_shape,
    "onnx": read_onnx.input_shape,
}
"""A .ptl keeps no shapes; an .mlpackage does not run where this is needed."""


def input_shape(path: Path) -> Shape | None:
    """The shape of the file's first input, such as (1, 3, 224, 224); None where the file does not tell, or leaves a
    side open. ContentError if the file is cut short or something else."""
    suffix = path.suffix.removeprefix(".")
    reader = INPUT_READERS.get(suffix)
    try:
        return None if reader is None else reader(path)
    except (ContentError, IndexError, struct.error) as error:
        raise ContentError(f"{path.name} is no whole .{suffix}: {error}") from error


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
