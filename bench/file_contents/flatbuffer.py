"""Flat: one table of a FlatBuffer, its fields read by number from bytes that may be cut short."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Any

from bench.file_contents.contents import ContentError

NUMBERS = {"u8": "<B", "i8": "<b", "i16": "<h", "u16": "<H", "u32": "<I", "i32": "<i", "u64": "<Q"}


@dataclass(frozen=True)
class Flat:
    """One table of a FlatBuffer: its place in the bytes. A field that is not set is 0, "" or empty."""

    data: Any
    at: int

    @staticmethod
    def root(data: Any) -> Flat:
        return Flat(data, _number(data, 0, "u32"))

    def number(self, field: int, kind: str) -> int:
        place = self._field(field)
        return _number(self.data, place, kind) if place else 0

    def text(self, field: int) -> str:
        start, length = self.vector(field)
        return bytes(self.data[start : start + length]).decode("utf-8", "replace")

    def table(self, field: int) -> Flat | None:
        place = self._field(field)
        return Flat(self.data, place + _number(self.data, place, "u32")) if place else None

    def tables(self, field: int) -> list[Flat]:
        start, length = self.vector(field)
        places = (start + 4 * index for index in range(length))
        return [Flat(self.data, where + _number(self.data, where, "u32")) for where in places]

    def numbers(self, field: int, kind: str) -> tuple[int, ...]:
        start, length = self.vector(field)
        width = struct.calcsize(NUMBERS[kind])
        return tuple(_number(self.data, start + width * index, kind) for index in range(length))

    def _field(self, field: int) -> int:
        """Offset of the field; 0 where it is not set (a table's own vtable tells)."""
        vtable = self.at - _number(self.data, self.at, "i32")
        slot = 4 + 2 * field
        offset = _number(self.data, vtable + slot, "u16") if slot < _number(self.data, vtable, "u16") else 0
        return self.at + offset if offset else 0

    def vector(self, field: int) -> tuple[int, int]:
        """Offset of the field's entries, and their number; (0, 0) where it is not set."""
        place = self._field(field)
        if not place:
            return 0, 0
        start = place + _number(self.data, place, "u32")
        length = _number(self.data, start, "u32")
        if length > len(self.data):
            raise ContentError(f"a list of {length:,} entries at byte {start:,} does not fit into it")
        return start + 4, length


def _number(data: Any, place: int, kind: str) -> int:
    try:
        value: int = struct.unpack_from(NUMBERS[kind], data, place)[0]
    except struct.error as error:
        raise ContentError(f"it ends before byte {place:,}, which it points to") from error
    return value
