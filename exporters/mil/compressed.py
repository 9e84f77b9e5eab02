"""DECODERS: the constexpr_* operations that hold compressed weights, decoded exactly as on loading."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.mil.program import Program, Reference, unpack

Array = NDArray[Any]


def affine_dequantize(quantized_data: Array, zero_point: Array, scale: Array, axis: Array) -> Array:
    """scale * (data - zero point), one of each for the tensor or for each index of `axis`."""
    shape = [1] * quantized_data.ndim
    if scale.size > 1 or zero_point.size > 1:
        shape[int(axis)] = -1
    offset = zero_point.astype(np.float32).reshape(shape if zero_point.size > 1 else [1] * quantized_data.ndim)
    factor = scale.astype(np.float32).reshape(shape if scale.size > 1 else [1] * quantized_data.ndim)
    return np.asarray((factor * (quantized_data.astype(np.float32) - offset)).astype(scale.dtype))


def blockwise_shift_scale(data: Array, scale: Array, offset: Array | None = None) -> Array:
    """scale * (data - offset) in the scales' type, one of each for a block; an axis has as many blocks as scales."""
    moved = data.astype(scale.dtype)
    if offset is not None:
        moved = moved - _repeat(offset.astype(scale.dtype), data.shape)
    return np.asarray(_repeat(scale, data.shape) * moved)


def lut_to_dense(indices: Array, lut: Array, shape: Array | None = None, vector_axis: Array | None = None) -> Array:
    """The entries of a look-up table by their indices.

    With `shape` (iOS 16) `indices` are packed bits and entries are numbers. Without it (iOS 18) `lut` has the axes of
    the indices and two more: tables by blocks of indices, then entries, then an entry's numbers along `vector_axis`.
    """
    if shape is not None:
        sizes = tuple(int(size) for size in shape)
        return np.asarray(lut[unpack(indices, (lut.size - 1).bit_length(), sizes)])
    entries, length = lut.shape[-2:]
    tables = _repeat(lut, (*indices.shape, entries, length))
    found = np.take_along_axis(tables, indices.astype(np.intp)[..., None, None], axis=-2)[..., 0, :]
    if length == 1:
        return np.asarray(found[..., 0])
    assert vector_axis is not None
    axis = int(vector_axis) % indices.ndim
    sizes = tuple(size * length if index == axis else size for index, size in enumerate(indices.shape))
    return np.asarray(np.moveaxis(found, -1, axis + 1).reshape(sizes))


def sparse_to_dense(nonzero_data: Array, mask: Array, shape: Array | None = None) -> Array:
    """The numbers where `mask` is set, zeros elsewhere; with `shape` (iOS 16) the mask is packed bits."""
    places = mask if shape is None else unpack(mask, 1, tuple(int(size) for size in shape))
    dense = np.zeros(places.shape, nonzero_data.dtype)
    dense[places != 0] = nonzero_data
    return dense


def _repeat(blocks: Array, shape: tuple[int, ...]) -> Array:
    for axis, size in enumerate(shape):
        if blocks.shape[axis] not in (1, size):
            blocks = np.repeat(blocks, size // blocks.shape[axis], axis)
    return np.broadcast_to(blocks, shape)


DECODERS: dict[str, Callable[..., Array | str]] = {
    "const": lambda val: val,
    "constexpr_affine_dequantize": affine_dequantize,
    "constexpr_blockwise_shift_scale": blockwise_shift_scale,
    "constexpr_cast": lambda source_val, output_dtype: source_val.astype({"fp32": "float32"}[output_dtype]),
    "constexpr_lut_to_dense": lut_to_dense,
    "constexpr_sparse_to_dense": sparse_to_dense,
}
"""Arguments are those of the operation, numpy arrays; so is the result (text where a const is text)."""


def decoded(program: Program) -> dict[str, Array | str]:
    """The constants of a program by name, decompressed."""
    found: dict[str, Array | str] = {}
    for operation in program.operations:
        if operation.is_constant:
            (name,) = operation.outputs
            arguments = {
                parameter: found[value.name] if isinstance(value, Reference) else value
                for parameter, (value,) in operation.arguments.items()
            }
            found[name] = DECODERS[operation.operator](**arguments)
    return found
