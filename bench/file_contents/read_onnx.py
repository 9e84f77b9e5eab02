"""Weights of a .onnx: its initializers and constants, and its operators. Field numbers are those of onnx.proto."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bench.file_contents.contents import ContentError, Contents, Weight, counted, mapped
from bench.file_contents.protobuf import Message

GRAPH = 7
NODE, INITIALIZER, INPUT = 1, 5, 11
INPUTS, OUTPUT, NODE_NAME, OPERATOR, ATTRIBUTE, TENSOR = 1, 2, 3, 4, 5, 5
DIMS, DATA_TYPE, NAME, EXTERNAL, LOCATION = 1, 2, 8, 13, 14
VALUE_NAME, SIDE = 1, 1
SIDES = 2, 1, 2, 1
"""ValueInfoProto.type.tensor_type.shape.dim."""
VALUES = (4, 5, 6, 7, 9, 10, 11)
"""Fields in which a tensor may keep its numbers: by type, or as raw bytes (9)."""
TYPES = {
    1: "float32", 2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64", 8: "string", 9: "bool",
    10: "float16", 11: "float64", 12: "uint32", 13: "uint64", 16: "bfloat16", 17: "float8", 21: "uint4", 22: "int4",
}  # fmt: skip


@dataclass(frozen=True)
class Node:
    """One node of the graph, its operator, and the names of what it takes and gives."""

    name: str
    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


def nodes(path: Path) -> tuple[Node, ...]:
    """The file's nodes in their order."""
    with mapped(path) as buffer:
        return tuple(
            Node(
                node.string(NODE_NAME),
                node.string(OPERATOR),
                tuple(name.text for name in node.all(INPUTS)),
                tuple(name.text for name in node.all(OUTPUT)),
            )
            for node in Message(buffer, 0, len(buffer)).all(GRAPH, NODE)
        )


def read(path: Path) -> Contents:
    """The content of the file. ContentError if it is no whole ONNX model."""
    with mapped(path) as buffer:
        graph = Message(buffer, 0, len(buffer)).first(GRAPH)
        # the fields after the graph are read too, so that a file that was cut there is found out
        if graph is None or not sum(1 for _ in Message(buffer, 0, len(buffer)).fields()):
            raise ContentError("it has no graph")
        nodes = list(graph.all(NODE))
        constants = [node for node in nodes if node.string(OPERATOR) == "Constant"]
        weights = [_weight(tensor, tensor.string(NAME), path) for tensor in graph.all(INITIALIZER)]
        weights += [
            _weight(tensor, node.string(OUTPUT), path) for node in constants for tensor in node.all(ATTRIBUTE, TENSOR)
        ]
        operators = counted(node.string(OPERATOR) for node in nodes)
    return Contents(path.stat().st_size, tuple(weights), operators)


def input_shape(path: Path) -> tuple[int, ...] | None:
    """The shape of the first input that is no weight; None where a side of it is left open."""
    with mapped(path) as buffer:
        graph = Message(buffer, 0, len(buffer)).first(GRAPH)
        if graph is None:
            raise ContentError("it has no graph")
        known = {tensor.string(NAME) for tensor in graph.all(INITIALIZER)}
        image = next((value for value in graph.all(INPUT) if value.string(VALUE_NAME) not in known), None)
        sides = () if image is None else tuple(side.integer(SIDE) for side in image.all(*SIDES))
        return sides if sides and all(sides) else None


def _weight(tensor: Message, name: str, path: Path) -> Weight:
    kind = tensor.integer(DATA_TYPE)
    values = [value for number, value in tensor.fields() if number in VALUES and isinstance(value, Message)]
    # weights beside the file are not in it: no bytes, and no offset
    offset = values[0].start if len(values) == 1 and not tensor.integer(LOCATION) else None
    size = sum(value.size for value in values)
    return Weight(name, TYPES.get(kind, f"type {kind}"), tensor.integers(DIMS), size, path, offset)
