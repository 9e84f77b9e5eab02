"""FlatBuffers read table by table, by the field numbers of their schemas."""

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
        place = self._field(field)
        if not place:
            return ""
        start, length = self._vector(place)
        return bytes(self.data[start : start + length]).decode("utf-8", "replace")

    def table(self, field: int) -> Flat | None:
        place = self._field(field)
        return Flat(self.data, place + _number(self.data, place, "u32")) if place else None

    def tables(self, field: int) -> list[Flat]:
        place = self._field(field)
        if not place:
            return []
        start, length = self._vector(place)
        places = (start + 4 * index for index in range(length))
        return [Flat(self.data, where + _number(self.data, where, "u32")) for where in places]

    def numbers(self, field: int, kind: str) -> tuple[int, ...]:
        place = self._field(field)
        if not place:
            return ()
        start, length = self._vector(place)
        width = struct.calcsize(NUMBERS[kind])
        return tuple(_number(self.data, start + width * index, kind) for index in range(length))

    def _field(self, field: int) -> int:
        """Where the field lies; 0 where it is not set (a table's own vtable tells)."""
        vtable = self.at - _number(self.data, self.at, "i32")
        slot = 4 + 2 * field
        offset = _number(self.data, vtable + slot, "u16") if slot < _number(self.data, vtable, "u16") else 0
        return self.at + offset if offset else 0

    def _vector(self, place: int) -> tuple[int, int]:
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
