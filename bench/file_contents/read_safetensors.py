"""The weights of a .safetensors file, from its header: eight bytes of length, JSON, then the data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from bench.file_contents.contents import ContentError, Contents, Weight

TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def read(path: Path) -> Contents:
    """What the file holds. ContentError if it is no whole safetensors file."""
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8:
            raise ContentError(f"its header of {length:,} bytes does not fit into {size:,} bytes")
        try:
            header: dict[str, Any] = json.loads(file.read(length))
            header.pop("__metadata__", None)
            weights = tuple(_weight(name, row, path, 8 + length) for name, row in header.items())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ContentError(f"its header cannot be read ({type(error).__name__}: {error})") from error
    end = max((8 + length, *((weight.offset or 0) + weight.bytes for weight in weights)))
    if end != size:
        raise ContentError(f"its header speaks of {end:,} bytes, and it has {size:,}")
    return Contents(size, weights)


def _weight(name: str, row: dict[str, Any], path: Path, data: int) -> Weight:
    start, stop = row["data_offsets"]
    dtype = TYPES.get(row["dtype"], str(row["dtype"]))
    return Weight(name, dtype, tuple(map(int, row["shape"])), stop - start, path, data + start)
