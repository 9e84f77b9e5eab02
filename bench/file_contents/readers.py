"""READERS: kinds of files that can be opened. Any other is judged by its size alone."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.file_contents import read_mlpackage, read_onnx, read_pte, read_ptl, read_tflite
from bench.file_contents.contents import ContentError, Contents, Weight

Shape = tuple[int, ...]
T = TypeVar("T")
SAFETENSORS_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


class _Tensor(msgspec.Struct):
    """An entry of a .safetensors header; the offsets begin behind the header."""

    dtype: str
    shape: Shape
    data_offsets: tuple[int, int]


def _read_safetensors(path: Path) -> Contents:
    """The content of a .safetensors file, from its header: eight bytes of length, JSON, then the data."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ContentError(f"its header of {length:,} bytes does not fit into {size:,} bytes")
        try:
            header = msgspec.json.decode(file.read(length), type=dict[str, msgspec.Raw])
            tensors = {
                name: msgspec.json.decode(entry, type=_Tensor)
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except msgspec.MsgspecError as error:
            raise ContentError(f"its header cannot be read ({type(error).__name__}: {error})") from error
    data = 8 + length
    weights = []
    for name, tensor in tensors.items():
        start, stop = tensor.data_offsets
        dtype = SAFETENSORS_TYPES.get(tensor.dtype, tensor.dtype)
        weights.append(Weight(name, dtype, tensor.shape, stop - start, path, data + start))
    end = max((data, *(data + tensor.data_offsets[1] for tensor in tensors.values())))
    if end != size:
        raise ContentError(f"its header speaks of {end:,} bytes, and it has {size:,}")
    return Contents(size, tuple(weights))


READERS: dict[str, Callable[[Path], Contents]] = {
    "pte": read_pte.read,
    "onnx": read_onnx.read,
    "tflite": read_tflite.read,
    "ptl": read_ptl.read,
    "mlpackage": read_mlpackage.read,
    "safetensors": _read_safetensors,
}
INPUT_READERS: dict[str, Callable[[Path], Shape | None]] = {
    "pte": read_pte.input_shape,
    "onnx": read_onnx.input_shape,
    "tflite": read_tflite.input_shape,
}
"""A .ptl keeps no shapes; an .mlpackage does not run where this is needed."""


def read(path: Path) -> Contents | None:
    """The content of the file; None if its suffix is none of READERS. ContentError if it is cut short or another."""
    return _opened(path, READERS.get(path.suffix.removeprefix(".")))


def input_shape(path: Path) -> Shape | None:
    """The shape of the file's first input, such as (1, 3, 224, 224); None where the file does not tell, or leaves a
    side open. ContentError if the file is cut short or something else."""
    return _opened(path, INPUT_READERS.get(path.suffix.removeprefix(".")))


def _opened(path: Path, reader: Callable[[Path], T] | None) -> T | None:
    try:
        return None if reader is None else reader(path)
    except (ContentError, IndexError, struct.error) as error:
        reason = error if isinstance(error, ContentError) else f"its parts do not fit together ({error})"
        raise ContentError(f"{path.name} is no whole {path.suffix}: {reason}") from error
