"""Weights and operators of an ExecuTorch .pte, those inside its XNNPACK delegates included.

The file is a FlatBuffer, and so is each delegate; field numbers are those of ExecuTorch's program.fbs and XNNPACK's
runtime_schema.fbs; headers those of its extended_header and XNNHeader.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.file_contents.contents import ContentError, Contents, Weight, counted, mapped
from bench.file_contents.flatbuffer import Flat

PLANS, SEGMENTS, CONSTANTS, NAMED_DATA = 1, 4, 5, 7
VALUES, INPUTS, CHAINS, OPERATORS, DELEGATES = 2, 3, 5, 6, 7
NODES, XVALUES, CONSTANT_DATA = 1, 2, 8
KERNEL_CALL, TENSOR, QUANTIZED, INVALID = 1, 5, 2, 2**64 - 1
"""Union members: a kernel's call among instructions, a tensor among values, a quantized tensor among XNNPACK's."""

SCALARS = {0: "uint8", 1: "int8", 2: "int16", 3: "int32", 4: "int64", 5: "float16", 6: "float32", 7: "float64",
           11: "bool", 15: "bfloat16"}  # fmt: skip
XNN_TYPES = {
    1: "float32", 2: "float16", 3: "qint8", 4: "quint8", 5: "qint32", 6: "qint8 by channel", 7: "qint32 by channel",
    8: "qint4 by channel", 10: "qint4 by block", 12: "int32", 14: "bfloat16",
}  # fmt: skip
XNN_NODES = (
    "Add", "FullyConnected", "Softmax", "Sigmoid", "StaticTranspose", "Clamp", "Conv2d", "Div",
    "StaticResizeBilinear2D", "StaticConstantPad", "AvgPooling2d", "Minimum", "DepthwiseConv2d", "MaxPooling2d",
    "Multiply", "Subtract", "Floor", "Convert", "GlobalAvgPooling2d", "StaticReshape", "ArgMaxPooling2d",
    "SquareRoot", "Ceiling", "Hardswish", "LeakyReLU", "Maximum", "Negate", "Square", "ELU", "Abs", "PReLU",
    "Concatenate2", "Concatenate3", "Concatenate4", "StaticSlice", "ScaledDotProductAttention",
    "BatchMatrixMultiply", "Concatenate5", "ConvTranspose2d", "ReciprocalSquareRoot", "Log", "Gelu", "Tanh", "Exp",
    "Sin", "Copy", "Cos",
)  # fmt: skip


@dataclass(frozen=True)
class _Program:
    """The file's main table, where its segments begin, and each segment's (offset, size) from the file's start."""

    data: Any
    root: Flat
    segments: tuple[tuple[int, int], ...]
    path: Path


def read(path: Path) -> Contents:
    """The content of the file. ContentError if it is no whole ExecuTorch program; IndexError or struct.error where its
    parts do not fit together."""
    with mapped(path) as data:
        program = _program(data, path)
        named = {entry.text(0): program.segments[entry.number(1, "u32")] for entry in program.root.tables(NAMED_DATA)}
        weights: list[Weight] = []
        operators: list[str] = []
        for plan in program.root.tables(PLANS):
            for delegate in plan.tables(DELEGATES):
                graph, base = _delegated(program, delegate)
                if graph is None:
                    operators.append(f"delegate {delegate.text(0)}")
                    continue
                weights += _delegated_weights(program, graph, base, named)
                for node in graph.tables(NODES):
                    kind = node.number(0, "u8")
                    operators.append(f"XNNPACK {XNN_NODES[kind - 1] if 0 < kind <= len(XNN_NODES) else f'node {kind}'}")
            weights += _plain_weights(program, plan)
            names = [operator.text(0) for operator in plan.tables(OPERATORS)]
            for chain in plan.tables(CHAINS):
                for instruction in chain.tables(2):
                    call = instruction.table(1)
                    if instruction.number(0, "u8") == KERNEL_CALL and call is not None:
                        operators.append(names[call.number(0, "i32")])
    numbered = (replace(weight, name=f"#{index}") for index, weight in enumerate(weights))
    return Contents(path.stat().st_size, tuple(numbered), counted(operators), named=False)


def input_shape(path: Path) -> tuple[int, ...] | None:
    """The shape of the first method's first input; None where it takes no tensor."""
    with mapped(path) as data:
        plan = _program(data, path).root.tables(PLANS)[0]
        values, inputs = plan.tables(VALUES), plan.numbers(INPUTS, "i32")
        tensor = values[inputs[0]].table(1) if inputs and values[inputs[0]].number(0, "u8") == TENSOR else None
        return None if tensor is None else tensor.numbers(2, "i32")


def _program(data: Any, path: Path) -> _Program:
    if bytes(data[4:6]) != b"ET" or bytes(data[8:12]) != b"eh00" or len(data) < 40:
        raise ContentError("it does not begin as an ExecuTorch program does (ET12, eh00)")
    _, size, base = struct.unpack_from("<IQQ", data, 12)
    root = Flat.root(data)
    segments = tuple((base + each.number(0, "u64"), each.number(1, "u64")) for each in root.tables(SEGMENTS))
    end = max((size, *(start + length for start, length in segments)))
    if end > len(data):
        raise ContentError(f"it speaks of {end:,} bytes, and has {len(data):,}")
    if not root.tables(PLANS):
        raise ContentError("it has no method that could be run")
    return _Program(data, root, segments, path)


def _delegated(program: _Program, delegate: Flat) -> tuple[Flat | None, int]:
    """XNNPACK's graph, and where its own constants begin; None for another backend's, which stays closed."""
    reference = delegate.table(1)
    if delegate.text(0) != "XnnpackBackend" or reference is None or reference.number(0, "i8") != 1:
        return None, 0
    start, length = program.segments[reference.number(1, "u32")]
    blob = bytes(program.data[start : start + length])
    if blob[4:8] != b"XH00":
        return None, 0
    offset, size, constants = struct.unpack_from("<III", blob, 10)
    return Flat.root(blob[offset : offset + size]), start + constants


def _delegated_weights(
    program: _Program, graph: Flat, base: int, named: dict[str, tuple[int, int]]
) -> Iterator[Weight]:
    constants = graph.tables(CONSTANT_DATA)
    for value in graph.tables(XVALUES):
        tensor = value.table(1)
        if tensor is not None and value.number(0, "u8") == QUANTIZED:
            tensor = tensor.table(0)
        place = 0 if tensor is None else tensor.number(3, "u32")
        if tensor is None or not 0 < place < len(constants):
            continue
        data = constants[place]
        key, own, size = data.text(2), data.number(0, "u64"), data.number(1, "u64")
        if own == INVALID and key not in named:
            continue  # it lies in another file (.ptd)
        start, length = named[key] if key in named else (base + own, size)
        kind = tensor.number(0, "i16")
        yield Weight("", XNN_TYPES.get(kind, f"type {kind}"), tensor.numbers(2, "u32"), length, program.path, start)


def _plain_weights(program: _Program, plan: Flat) -> Iterator[Weight]:
    """Constants of the program itself, outside every delegate."""
    where = program.root.table(CONSTANTS)
    offsets = () if where is None else where.numbers(1, "u64")
    if where is None or len(offsets) < 2:
        return
    start, length = program.segments[where.number(0, "u32")]
    ends = sorted({*offsets, length})
    for value in plan.tables(VALUES):
        tensor = value.table(1) if value.number(0, "u8") == TENSOR else None
        place = 0 if tensor is None else tensor.number(4, "u32")
        if tensor is None or not 0 < place < len(offsets):
            continue
        kind, offset = tensor.number(0, "i8"), offsets[place]
        size = next((end for end in ends if end > offset), length) - offset
        dtype = SCALARS.get(kind, f"type {kind}")
        yield Weight("", dtype, tensor.numbers(2, "i32"), size, program.path, start + offset)
