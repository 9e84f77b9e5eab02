"""The size of the image that a file takes, where the file tells it; no toolkit is loaded."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

from bench.inside import read_onnx, read_pte
from bench.inside.contents import ContentError

Shape = tuple[int, ...]

READERS: dict[str, Callable[[Path], Shape | None]] = {
    "pte": read_pte.input_shape,
    "onnx": read_onnx.input_shape,
}
"""A .ptl keeps no shapes; an .mlpackage does not run where this is needed."""


def input_shape(path: Path) -> Shape | None:
    """The shape of the file's first input, such as (1, 3, 224, 224); None where the file does not tell, or leaves a
    side open. ContentError if the file is cut short or something else."""
    suffix = path.suffix.removeprefix(".")
    reader = READERS.get(suffix)
    try:
        return None if reader is None else reader(path)
    except (ContentError, IndexError, struct.error) as error:
        raise ContentError(f"{path.name} is no whole .{suffix}: {error}") from error
