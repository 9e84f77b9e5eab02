"""Weights and operators of a CoreML .mlpackage with an ML program. Field numbers are those of Model.proto and
MIL.proto; a constant in weight.bin lies behind a record of 64 bytes that begins with a mark."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

from bench.file_contents.contents import ContentError, Contents, Weight, counted, mapped
from bench.file_contents.protobuf import Message

PROGRAM, FUNCTIONS, BLOCKS, OPERATIONS = 502, 2, 3, 3
KEY, VALUE = 1, 2
TYPE, OUTPUTS, ATTRIBUTES = 1, 3, 5
BLOB = 5
MARK = 0xDEADBEEF
TYPES = {1: "bool", 10: "float16", 11: "float32", 12: "float64", 21: "int8", 22: "int16", 23: "int32", 24: "int64",
         31: "uint8", 32: "uint16"}  # fmt: skip


def read(path: Path) -> Contents:
    """The content of the folder. ContentError if it is no whole package, or holds no ML program."""
    manifest = path / "Manifest.json"
    models = sorted(path.rglob("*.mlmodel"))
    if not manifest.is_file() or not models:
        raise ContentError("it has no Manifest.json and .mlmodel; a .mlpackage is a folder with both")
    with mapped(models[0]) as buffer:
        program = Message(buffer, 0, len(buffer)).first(PROGRAM)
        if program is None:
            raise ContentError("it holds no ML program (an older kind of CoreML model?)")
        operations = list(program.all(FUNCTIONS, VALUE, BLOCKS, VALUE, OPERATIONS))
        constants = (operation for operation in operations if operation.string(TYPE).startswith("const"))
        weights = tuple(weight for constant in constants for weight in _weights(constant, models[0].parent))
        operators = counted(name for operation in operations if (name := operation.string(TYPE)) != "const")
    size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    return Contents(size, weights, operators)


def _weights(constant: Message, folder: Path) -> Iterator[Weight]:
    """The weight that the constant is; none where it is a stride, a padding or a name. One that is computed from
    constants when the model is loaded ("constexpr_affine_dequantize") is all of them, the codes under its own name."""
    for attribute in constant.all(ATTRIBUTES):
        value, key = attribute.first(VALUE), attribute.string(KEY)
        if value is None:
            continue
        output, tensor, blob = constant.first(OUTPUTS), value.first(2, 1), value.first(BLOB)
        name = "" if output is None else output.string(1)
        name += "" if key in ("val", "quantized_data") else f".{key}"
        kind = 0 if tensor is None else tensor.integer(1)
        dtype = "none" if tensor is None else TYPES.get(kind, f"type {kind}")
        shape = () if tensor is None else tuple(map(_dimension, tensor.all(3)))
        if blob is not None:
            # "@model_path/weights/weight.bin"
            place = folder / blob.string(1).partition("/")[2]
            size, offset = _blob(name, place, blob.integer(2))
            yield Weight(name, dtype, shape, size, place, offset)
        elif shape and dtype in ("float16", "float32", "int8"):
            # a short bias stands in the model itself
            yield Weight(name, dtype, shape, int(dtype.lstrip("floatin")) // 8 * math.prod(shape), folder, None)


def _blob(name: str, place: Path, record: int) -> tuple[int, int]:
    """(bytes, offset) of the constant that the record in the blob file describes."""
    if not place.is_file():
        raise ContentError(f"its {place.name} is missing")
    with place.open("rb") as file:
        file.seek(record)
        head = file.read(24)
    mark, _, size, offset = struct.unpack("<IIQQ", head) if len(head) == 24 else (0, 0, 0, 0)
    if mark != MARK or offset + size > place.stat().st_size:
        raise ContentError(f"its {place.name} is cut short: {name} is not in it")
    return size, offset


def _dimension(dimension: Message) -> int:
    constant = dimension.first(1)
    return 0 if constant is None else constant.integer(1)
