"""Brings a profiler's operators together with the file's layers, by what each kind of file and profiler keeps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from bench.budgets.growth import layers_of, plain_sides
from bench.budgets.subjects import Subject
from bench.file_contents.read_onnx import Node, nodes
from bench.profile.readers import Call

Layers = list[str]


def layers_of_calls(form: str, calls: Sequence[Call], subject: Subject) -> Layers | None:
    """The layer of each operator, "" for those that have no weight; None where they cannot be brought together."""
    return JOINS[form](calls, subject)


def _by_name(calls: Sequence[Call], subject: Subject) -> Layers | None:
    """ONNX Runtime names a kernel after a node, or after what a chain of fused nodes gives: the weight is
    found by going back from there."""
    contents = subject.contents
    assert contents is not None  # a .onnx has a reader
    owners = {weight.name: layer for weight, layer in zip(contents.weights, layers_of(subject), strict=True)}
    graph = nodes(subject.path)
    found = {node.name: node for node in graph if node.name} | {name: node for node in graph for name in node.outputs}
    layers = [_layer(call.name.partition(" ")[2], found, owners) if call.weighted else "" for call in calls]
    own = [_layer(node.outputs[0], found, owners) for node in graph if any(name in owners for name in node.inputs[1:])]
    # Nodes need not have names; then only their order is left.
    return layers if any(layers) else _in_order(calls, own)


def _in_order(calls: Sequence[Call], layers: Sequence[str]) -> Layers | None:
    """The layers given to the operators that have a weight, one after another; None where there are more of either."""
    if len(layers) != sum(call.weighted for call in calls):
        return None
    left = iter(layers)
    return [next(left) if call.weighted else "" for call in calls]


def _layer(name: str, found: Mapping[str, Node], owners: Mapping[str, str]) -> str:
    node = found.get(name)
    while node is not None:
        owner = next((owners[each] for each in node.inputs[1:] if each in owners), "")
        if owner:
            return owner
        node = found.get(node.inputs[0]) if node.inputs else None
    return ""


def _by_place(calls: Sequence[Call], subject: Subject) -> Layers | None:
    """XNNPACK runs convolutions and fully connected layers in the order in which the file keeps their weights."""
    contents = subject.contents
    assert contents is not None  # a .pte has a reader
    owners = zip(contents.weights, layers_of(subject), strict=True)
    return _in_order(calls, [layer for weight, layer in owners if len(weight.shape) in (2, 4)])


def _by_shape(calls: Sequence[Call], subject: Subject) -> Layers | None:
    """The lite interpreter's calls tell the shapes of their weights, which the file keeps in the order of the calls."""
    contents = subject.contents
    assert contents is not None  # a .ptl has a reader
    owners = zip(contents.weights, layers_of(subject), strict=True)
    left = [(plain_sides(weight.shape), layer) for weight, layer in owners if len(weight.shape) > 1]
    layers = []
    for call in calls:
        if call.weighted and left and left[0][0] == plain_sides(call.shape):
            layers.append(left.pop(0)[1])
        else:
            layers.append("")
    return None if left else layers


JOINS: dict[str, Callable[[Sequence[Call], Subject], Layers | None]] = {
    "pte": _by_place,
    "onnx": _by_name,
    "ptl": _by_shape,
}
