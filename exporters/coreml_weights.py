"""The weights that lie in a .mlpackage, read from its blob file and compared with the network's."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float32]

ROUNDING = 2.0**-11
"""Greatest relative error of rounding to float16 (11 significant bits); its smallest step is 2^-24."""


def compare_weights(weights: Mapping[str, Tensor], program: Any, package: Path) -> tuple[list[str], list[str]]:
    """Names of the weights that the converter has merged with others, and of those that are stored nowhere.

    `program` is the package's mlProgram. The converter may rename, scale or share constants, so content decides:
    every stored constant with as many numbers is tried. A bias or scale (one dimension) that equals none was merged.
    """
    stored = _constants(program, package)
    merged: list[str] = []
    lost: list[str] = []
    for name, weight in weights.items():
        wanted = weight.detach().float().numpy()
        candidates = stored[wanted.size]
        if any(_agree(wanted, read()) for read in candidates):
            continue
        scaled = wanted.ndim < 2 or any(_agree_by_channel(wanted, read()) for read in candidates)
        (merged if scaled else lost).append(name)
    return merged, lost


def _agree(wanted: Array, stored: Array) -> bool:
    """Equal within rounding, in the stored order or as the matrix's transpose (a linear layer read as a product)."""
    orders = (wanted, wanted.T) if wanted.ndim == 2 else (wanted,)
    return any(
        np.allclose(stored, order.reshape(-1), rtol=ROUNDING * 1.001, atol=2.0**-24, equal_nan=True) for order in orders
    )


def _agree_by_channel(wanted: Array, stored: Array) -> bool:
    """Equal up to one factor for each channel, along the first or (transposed convolutions) the second axis."""
    for axis in (0, 1):
        ours = np.moveaxis(wanted, axis, 0).reshape(wanted.shape[axis], -1).astype(np.float64)
        theirs = np.moveaxis(stored.reshape(wanted.shape), axis, 0).reshape(ours.shape).astype(np.float64)
        energy = (ours**2).sum(axis=1, keepdims=True)
        factor = (ours * theirs).sum(axis=1, keepdims=True) / np.where(energy == 0, 1.0, energy)
        # the factor is estimated from rounded numbers, which spends a part of the allowance
        if np.allclose(theirs, factor * ours, rtol=2 * ROUNDING, atol=2.0**-23):
            return True
    return False


def _constants(program: Any, package: Path) -> dict[int, list[Callable[[], Array]]]:
    """Readers of the stored floating-point constants by their count of numbers; each reads when it is called."""
    from coremltools.libmilstoragepython import _BlobStorageReader

    # a package whose constants are all small has no blob file
    blobs = list(package.rglob("weight.bin"))
    reader = _BlobStorageReader(str(blobs[0])) if blobs else None
    found: dict[int, list[Callable[[], Array]]] = defaultdict(list)
    for function in program.functions.values():
        for operation in function.block_specializations[function.opset].operations:
            values = [operation.attributes["val"]] if operation.type == "const" else []
            # constants may also stand in place as an argument
            values += [binding.value for given in operation.inputs.values() for binding in given.arguments]
            for value in values:
                size, read = _reader(value, reader)
                if read is not None:
                    found[size].append(read)
    return found


def _reader(value: Any, blob: Any) -> tuple[int, Callable[[], Array] | None]:
    from coremltools.proto.MIL_pb2 import DataType

    kind = value.type.tensorType
    size = int(np.prod([dimension.constant.size for dimension in kind.dimensions], dtype=np.int64))
    half = kind.dataType == DataType.FLOAT16
    if not half and kind.dataType != DataType.FLOAT32:
        return size, None
    if value.WhichOneof("value") == "blobFileValue":
        offset = value.blobFileValue.offset
        return size, (lambda: _half(blob.read_fp16_data(offset))) if half else (lambda: blob.read_float_data(offset))
    tensor = value.immediateValue.tensor
    if half:
        return size, lambda: np.frombuffer(tensor.bytes.values, np.float16).astype(np.float32)
    return size, lambda: np.array(tensor.floats.values, dtype=np.float32)


def _half(bits: NDArray[np.uint16]) -> Array:
    return np.frombuffer(bits.tobytes(), np.float16).astype(np.float32)
