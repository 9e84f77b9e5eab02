"""Weights of an ONNX model stored as indices and codebook, with the operators that turn them into the weight."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporters.lookup import Lookup, pack

if TYPE_CHECKING:
    import onnx

ROUNDING = 2.0**-22
"""Greatest relative difference of a weight that a BatchNorm was folded into and its vectors times one number for each
output: two roundings to float32."""


def store_lookups(model: onnx.ModelProto, lookups: Mapping[str, Lookup]) -> tuple[str, ...]:
    """The weights of those that the model now holds as indices and codebook: the others have other values there, which
    no codebook gives, or would be larger so."""
    from onnx import numpy_helper

    graph, stored = model.graph, []
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    place = 0
    for name, lookup in lookups.items():
        tensor = tensors.get(name)
        if tensor is None:
            continue
        dense = numpy_helper.to_array(tensor)
        scale = _scale_of(dense, lookup)
        if scale is None:
            continue
        both = (_Decoder(name, lookup, dense.dtype, scale, packed) for packed in (False, True))
        decoder = min(both, key=lambda each: each.bytes)
        if decoder.bytes >= dense.nbytes:
            continue
        graph.initializer.remove(tensor)
        for own, value in decoder.tensors.items():
            if own not in tensors:  # tables serve all layers
                tensors[own] = graph.initializer.add()
                tensors[own].CopyFrom(numpy_helper.from_array(value, own))
        for node in decoder.nodes:
            graph.node.insert(place, node)
            place += 1
        stored.append(name)
    return tuple(stored)


def _scale_of(dense: NDArray[Any], lookup: Lookup) -> NDArray[np.float32] | None:
    """The number that each output of the looked up weight is multiplied by to give the stored one, () where none is;
    None where it is another weight."""
    if dense.shape != lookup.shape or dense.dtype not in (np.float32, np.float16):
        return None
    decoded = lookup.decoded()
    if np.array_equal(dense, decoded.astype(dense.dtype)):
        return np.ones((), np.float32)
    flat, stored = (value.reshape(len(value), -1).astype(np.float64) for value in (decoded, dense))
    energy = np.square(flat).sum(1)
    factor = np.divide((flat * stored).sum(1), energy, out=np.zeros_like(energy), where=energy > 0)
    scale = factor.astype(np.float32).reshape(-1, *[1] * (dense.ndim - 1))
    near = np.abs(stored - flat * factor[:, None]) <= ROUNDING * np.abs(stored)
    return scale if dense.dtype == np.float32 and bool(near.all()) else None


class _Decoder:
    """The tensors and the nodes that give the weight `name`.

    Each index takes one byte or two. Where they are `packed`, its bits lie in up to four tensors of 8, 4, 2 and 1 bits
    each, as its width is their sum: a table gives the eight, four or two numbers that a byte holds, so that unpacking
    is another look-up, and the parts are added.
    """

    def __init__(
        self, name: str, lookup: Lookup, dtype: np.dtype[Any], scale: NDArray[np.float32], packed: bool
    ) -> None:
        self.name, self.lookup = name, lookup
        self.tensors: dict[str, NDArray[Any]] = {}
        self.nodes: list[onnx.NodeProto] = []
        members, cut = lookup.matrix_sides
        length = lookup.codebook.shape[2]
        codes = self._unpacked() if packed else self._cast(lookup.indices, "indices", 1 + (lookup.index_bits > 8))
        if len(lookup.starts) > 1:
            codes = self._node("Add", codes, self._tensor("starts", lookup.starts))
        book = self._tensor("codebook", lookup.codebook.reshape(-1, length).astype(dtype))
        value = self._node("Gather", book, codes, axis=0)
        filled = lookup.indices.shape[1] * length > cut
        if filled or lookup.rows:
            value = self._shaped(value, members, -1)
        if filled:
            value = self._sliced(value, cut, axis=1)
        if lookup.rows:
            value = self._node("Transpose", value, perm=[1, 0])
        if not lookup.rows or len(lookup.shape) > 2:
            value = self._shaped(value, *lookup.shape)
        if scale.ndim:
            value = self._node("Mul", value, self._tensor("scale", scale))
        self.nodes[-1].output[0] = name

    @property
    def bytes(self) -> int:
        """Bytes that they take in the file."""
        return sum(value.nbytes for value in self.tensors.values()) + sum(int(node.ByteSize()) for node in self.nodes)

    def _cast(self, codes: NDArray[np.int32], word: str, size: int) -> str:
        """Numbers that are stored in `size` bytes each, as int32."""
        from onnx import TensorProto

        return self._node("Cast", self._tensor(word, codes.astype(f"uint{8 * size}")), to=TensorProto.INT32)

    def _unpacked(self) -> str:
        """The indices as int32 (members, blocks), from their packed bits."""
        from onnx import TensorProto

        indices, sums, begin = self.lookup.indices, [], 0
        for width in (8, 4, 2, 1):
            if not self.lookup.index_bits & width:
                continue
            part = (indices.reshape(-1) >> begin) & (2**width - 1)
            if width == 8:
                sums.append(self._cast(part, "indices", 1))
            else:
                packed = self._cast(pack(part, width).astype(np.int32), f"indices{begin}", 1)
                places = np.arange(0, 8, width)
                table = f"lookup.table{width}"
                self.tensors[table] = ((np.arange(256)[:, None] >> places) & (2**width - 1)).astype(np.uint8)
                table = self._node("Cast", table, to=TensorProto.INT32)
                table = self._node("Mul", table, self._tensor(f"weight{width}", np.array(2**begin, np.int32)))
                numbers = self._shaped(self._node("Gather", table, packed, axis=0), -1)
                whole = indices.size % len(places) == 0
                sums.append(numbers if whole else self._sliced(numbers, indices.size, axis=0))
            begin += width
        value = sums[0]
        for other in sums[1:]:
            value = self._node("Add", value, other)
        return self._shaped(value, *indices.shape)

    def _shaped(self, value: str, *shape: int) -> str:
        return self._node("Reshape", value, self._tensor(f"shape{len(self.nodes)}", np.array(shape, np.int64)))

    def _sliced(self, value: str, end: int, axis: int) -> str:
        bounds = (("start", 0), ("end", end), ("axis", axis))
        names = [self._tensor(f"{word}{len(self.nodes)}", np.array([number], np.int64)) for word, number in bounds]
        return self._node("Slice", value, *names)

    def _tensor(self, word: str, value: NDArray[Any]) -> str:
        """The full name of a tensor of the layer's."""
        self.tensors[f"{self.name}.{word}"] = np.ascontiguousarray(value)
        return f"{self.name}.{word}"

    def _node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """The name of what a node gives."""
        from onnx import helper

        output = f"{self.name}.{operator}{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], name=output, **attributes))
        return output
