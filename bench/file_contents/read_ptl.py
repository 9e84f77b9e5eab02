"""Weights and operators of a TorchScript Lite .ptl: a zip archive of storages and pickles. Nothing is imported or
called that a pickle names: every name becomes a record of what it would have been called with."""

from __future__ import annotations

import io
import pickle
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.file_contents.contents import ContentError, Contents, Weight, counted

LOCAL_HEADER = 30
"""Bytes of a zip entry's local header before its name."""
TYPES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool", "QInt8": "qint8",
    "QUInt8": "quint8", "QInt32": "qint32",
}  # fmt: skip


@dataclass(frozen=True)
class Storage:
    """A tensor's data, as its pickle names them: the entry in the archive, and the type."""

    entry: str
    dtype: str


class Named:
    """Record in place of a pickle's global: its name, its arguments, and what was set on it. Never the object."""

    name = ""

    def __new__(cls, *args: Any) -> Named:
        made = super().__new__(cls)
        made.args = args
        return made

    def __init__(self, *args: Any) -> None:
        self.args = args
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        """An ordered dictionary of a module's parts is filled like this."""
        self.state = {**(getattr(self, "state", None) or {}), key: value}


class Reader(pickle.Unpickler):
    """Unpickles names and numbers only."""

    def find_class(self, module: str, name: str) -> Any:
        return type("Named", (Named,), {"name": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        _, kind, entry, *_ = pid
        return Storage(str(entry), kind.name.rpartition(".")[2].removesuffix("Storage"))


def read(path: Path) -> Contents:
    """The content of the file. ContentError if it is no whole archive of the lite interpreter."""
    try:
        with zipfile.ZipFile(path) as archive:
            root = archive.namelist()[0].partition("/")[0]
            entries = {info.filename.removeprefix(f"{root}/"): info for info in archive.infolist()}
            names = (name for name in entries if name.endswith(".pkl"))
            pickles = {name: Reader(io.BytesIO(archive.read(entries[name]))).load() for name in names}
            operators = counted(_operators(pickles["bytecode.pkl"]))
    except (zipfile.BadZipFile, pickle.UnpicklingError, EOFError, KeyError, IndexError, TypeError, ValueError) as error:
        raise ContentError(f"it is no archive of the lite interpreter ({type(error).__name__}: {error})") from error
    weights = [
        _weight(name, shape, storage, entries[f"{folder}/{storage.entry}"], path)
        for folder in ("data", "constants")
        for name, shape, storage in _tensors(pickles.get(f"{folder}.pkl"), "")
        if f"{folder}/{storage.entry}" in entries
    ]
    named = any(weight.name[:1] != "#" for weight in weights)
    return Contents(path.stat().st_size, tuple(weights), operators, named)


def _tensors(value: Any, name: str) -> Iterator[tuple[str, tuple[int, ...], Storage]]:
    """(name, shape, storage) of every tensor below `value`; constants of a frozen module have a number for a name."""
    if isinstance(value, Named) and value.name.startswith("torch._utils._rebuild_"):
        storage, _, shape, *_ = value.args
        yield name, tuple(shape), storage
    elif isinstance(value, Named):
        yield from _tensors(value.state, name)
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _tensors(part, f"{name}.{key}".strip("."))
    elif isinstance(value, list | tuple):
        for index, part in enumerate(value):
            yield from _tensors(part, f"{name}#{index}")


def _operators(value: Any) -> Iterator[str]:
    """The name of every operator that the bytecode calls, one for each call."""
    for function in value[1:]:
        code = dict(function[1])
        names = [entry[0] for entry in code["operators"]]
        yield from (names[index] for kind, index, _ in code["instructions"] if kind == "OP")


def _weight(name: str, shape: tuple[int, ...], storage: Storage, entry: zipfile.ZipInfo, path: Path) -> Weight:
    offset = None
    if entry.compress_type == zipfile.ZIP_STORED:
        with path.open("rb") as file:
            file.seek(entry.header_offset)
            header = file.read(LOCAL_HEADER)
        lengths = int.from_bytes(header[26:28], "little"), int.from_bytes(header[28:30], "little")
        offset = entry.header_offset + LOCAL_HEADER + sum(lengths)
    return Weight(name, TYPES.get(storage.dtype, storage.dtype), shape, entry.compress_size, path, offset)
