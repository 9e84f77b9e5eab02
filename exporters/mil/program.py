"""read(): an .mlpackage -> its ML program, the operations and constants of MIL.proto as typed values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.artifact import ExportError, NotInterpretedError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.generic]

SUB_BYTE = {"uint1": "uint8", "uint2": "uint8", "uint3": "uint8", "uint4": "uint8", "uint6": "uint8", "int4": "int8"}
"""Number types of less than a byte, which are packed in the file, and the type of their unpacked numbers."""


@dataclass(frozen=True)
class TensorType:
    """Number type as numpy spells it ("float16", "bool"), or one of SUB_BYTE; a size that is not fixed is 0."""

    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Reference:
    """The name of a value that another operation gives, or of the program's input."""

    name: str


@dataclass(frozen=True)
class Operation:
    """One operation: its arguments by parameter (one, or several where the operator takes a list), and its outputs."""

    operator: str
    arguments: Mapping[str, tuple[Reference | Array | str, ...]]
    outputs: Mapping[str, TensorType]

    @property
    def is_constant(self) -> bool:
        return self.operator == "const" or self.operator.startswith("constexpr_")


@dataclass(frozen=True)
class Program:
    """The function "main" of an ML program, its operations in the order of execution."""

    inputs: Mapping[str, TensorType]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


def read(package: Path) -> Program:
    """The ML program of a package, with all its constants: those of less than a byte unpacked, none decompressed.

    Raises ExportError when the package holds another kind of model, NotInterpretedError when a constant is no tensor.
    """
    import coremltools
    from coremltools.libmilstoragepython import _BlobStorageReader

    spec = coremltools.utils.load_spec(str(package))
    if spec.WhichOneof("Type") != "mlProgram":
        raise ExportError(
            f"{package.name} is a model of type {spec.WhichOneof('Type')}, not an ML program; "
            "convert it anew with convert_to='mlprogram'"
        )
    blobs: dict[str, Any] = {}

    def stored(name: str) -> Any:
        if name not in blobs:
            (path,) = package.rglob(Path(name).name)
            blobs[name] = _BlobStorageReader(str(path))
        return blobs[name]

    main = spec.mlProgram.functions["main"]
    block = main.block_specializations[main.opset]
    return Program(
        {each.name: _tensor_type(each.type) for each in main.inputs},
        tuple(_operation(each, stored) for each in block.operations),
        tuple(block.outputs),
    )


def _operation(operation: Any, stored: Callable[[str], Any]) -> Operation:
    # constants of iOS 15 and 16 are attributes, later ones are arguments
    arguments: dict[str, tuple[Reference | Array | str, ...]] = {
        name: (_constant(value, stored),) for name, value in operation.attributes.items() if name != "name"
    }
    for name, argument in operation.inputs.items():
        arguments[name] = tuple(
            Reference(binding.name) if binding.WhichOneof("binding") == "name" else _constant(binding.value, stored)
            for binding in argument.arguments
        )
    return Operation(operation.type, arguments, {each.name: _tensor_type(each.type) for each in operation.outputs})


def _tensor_type(kind: Any) -> TensorType:
    from coremltools.proto.MIL_pb2 import DataType

    tensor = kind.tensorType
    return TensorType(
        DataType.Name(tensor.dataType).lower(), tuple(dimension.constant.size for dimension in tensor.dimensions)
    )


def _constant(value: Any, stored: Callable[[str], Any]) -> Array | str:
    import numpy as np

    if value.type.WhichOneof("type") != "tensorType":
        raise NotInterpretedError(
            "the interpreter knows constants that are tensors, and this program has a "
            f"{value.type.WhichOneof('type')}; run the package on a Mac"
        )
    kind = _tensor_type(value.type)
    dtype = SUB_BYTE.get(kind.dtype, kind.dtype)
    if value.WhichOneof("value") == "blobFileValue":
        suffix = {"float16": "fp16", "float32": "float"}.get(kind.dtype, kind.dtype)
        numbers = np.asarray(
            getattr(stored(value.blobFileValue.fileName), f"read_{suffix}_data")(value.blobFileValue.offset)
        )
        return (numbers.view(np.float16) if suffix == "fp16" else numbers.astype(dtype)).reshape(kind.shape)
    tensor = value.immediateValue.tensor
    field = tensor.WhichOneof("value")
    numbers = getattr(tensor, field).values
    if field == "strings":
        return str(numbers[0])
    if field != "bytes":
        return np.array(numbers, dtype).reshape(kind.shape)
    if kind.dtype not in SUB_BYTE:
        return np.frombuffer(numbers, dtype).reshape(kind.shape)
    bits = int(kind.dtype[-1])
    codes = unpack(np.frombuffer(numbers, np.uint8), bits, kind.shape).astype(dtype)
    return codes if dtype == "uint8" else codes - ((codes >> (bits - 1)) << bits)  # the first bit is the sign


def unpack(packed: Array, bits: int, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Numbers of `bits` bits that follow each other from the least significant bit of the first byte on."""
    import numpy as np

    count = int(np.prod(shape))
    digits = np.unpackbits(packed.astype(np.uint8), bitorder="little")[: count * bits].reshape(count, bits)
    numbers: NDArray[np.uint8] = (digits << np.arange(bits, dtype=np.uint8)).sum(axis=1, dtype=np.uint8).reshape(shape)
    return numbers
