"""The weights and operators of a CoreML .mlpackage with an ML program. Field numbers are those of Model.proto and
MIL.proto; a constant in weight.bin lies behind a record of 64 bytes that begins with a mark."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from pathlib import Path

from bench.file_contents.contents import ContentError, Contents, Weight, counted
from bench.file_contents.protobuf import Message, mapped

PROGRAM, FUNCTIONS, BLOCKS, OPERATIONS = 502, 2, 3, 3
KEY, VALUE = 1, 2
TYPE, OUTPUTS, ATTRIBUTES = 1, 3, 5
BLOB = 5
MARK = 0xDEADBEEF
TYPES = {1: "bool", 10: "float16", 11: "float32", 12: "float64", 21: "int8", 22: "int16", 23: "int32", 24: "int64",
         31: "uint8", 32: "uint16"}  # fmt: skip


def read(path: Path) -> Contents:
    """What the folder holds. ContentError if it is no whole package, or holds no ML program."""
    manifest = path / "Manifest.json"
    models = sorted(path.rglob("*.mlmodel"))
    if not manifest.is_file() or not models:
        raise ContentError("it has no Manifest.json and .mlmodel; a .mlpackage is a folder with both")
    with mapped(models[0]) as buffer:
        program = Message(buffer, 0, len(buffer)).first(PROGRAM)
        if program is None:
            raise ContentError("it holds no ML program (an older kind of CoreML model?)")
        operations = list(_operations(program))
        weights = tuple(weight for each in operations for weight in _weights(each, models[0].parent))
        operators = counted(name for each in operations if (name := each.string(TYPE)) != "const")
    size = sum(each.stat().st_size for each in path.rglob("*") if each.is_file())
    return Contents(size, weights, operators)


def _operations(program: Message) -> Iterator[Message]:
    for function in program.each(FUNCTIONS):
        for body in function.each(VALUE):
            for block in body.each(BLOCKS):
                for content in block.each(VALUE):
                    yield from content.each(OPERATIONS)


def _weights(operation: Message, folder: Path) -> Iterator[Weight]:
    """The constant that the operation stands for, where it keeps its numbers in a blob file."""
    if operation.string(TYPE) != "const":
        return
    for attribute in operation.each(ATTRIBUTES):
        value = attribute.first(VALUE)
        blob = None if value is None else value.first(BLOB)
        if attribute.string(KEY) != "val" or value is None:
            continue
        output = operation.first(OUTPUTS)
        name = "" if output is None else output.string(1)
        dtype, shape = _type(value)
        if blob is not None:
            # "@model_path/weights/weight.bin"
            place = folder / blob.string(1).partition("/")[2]
            size, offset = _found(name, place, blob.integer(2))
            yield Weight(name, dtype, shape, size, place, offset)
        elif shape and dtype in ("float16", "float32"):
            # a short bias stands in the model itself; other short constants are strides, paddings and names
            yield Weight(name, dtype, shape, int(dtype[5:]) // 8 * math.prod(shape), folder, None)


def _found(name: str, place: Path, record: int) -> tuple[int, int]:
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


def _type(value: Message) -> tuple[str, tuple[int, ...]]:
    kind = value.first(2)
    tensor = None if kind is None else kind.first(1)
    if tensor is None:
        return "none", ()
    dtype = tensor.integer(1)
    return TYPES.get(dtype, f"type {dtype}"), tuple(_dimension(each) for each in tensor.each(3))


def _dimension(dimension: Message) -> int:
    constant = dimension.first(1)
    return 0 if constant is None else constant.integer(1)
