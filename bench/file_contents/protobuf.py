"""Protocol buffers read field by field, without their schemas: .onnx and .mlmodel files, whose own readers would load
all weights (onnx) or torch (coremltools). The wire format: protobuf.dev/programming-guides/encoding."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass

from bench.file_contents.contents import ContentError

FIXED = {1: 8, 5: 4}
"""Bytes of the two wire types of fixed width."""


@dataclass(frozen=True)
class Message:
    """The bytes from `start` to `stop` of a buffer, which may be a message, a text or packed numbers."""

    buffer: mmap.mmap | bytes
    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    @property
    def text(self) -> str:
        return bytes(self.buffer[self.start : self.stop]).decode("utf-8", "replace")

    def fields(self) -> Iterator[tuple[int, int | Message]]:
        """(number, value) of every field in order. ContentError where the bytes are no message or end too early."""
        at = self.start
        while at < self.stop:
            begin = at
            key, at = self._varint(at)
            number, kind = key >> 3, key & 7
            if kind == 0:
                value, at = self._varint(at)
                yield number, value
                continue
            if kind in FIXED:
                size = FIXED[kind]
            elif kind == 2:
                size, at = self._varint(at)
            else:
                raise ContentError(f"byte {begin:,} begins no field of a protocol buffer")
            if number == 0 or at + size > self.stop:
                raise ContentError(f"it ends in the middle of a field of {size:,} bytes at byte {at:,}")
            yield number, Message(self.buffer, at, at + size)
            at += size

    def all(self, *numbers: int) -> Iterator[Message]:
        """Every field with a length that is reached by these field numbers, one for each level of nesting."""
        for found, value in self.fields():
            if found == numbers[0] and isinstance(value, Message):
                if len(numbers) == 1:
                    yield value
                else:
                    yield from value.all(*numbers[1:])

    def first(self, *numbers: int) -> Message | None:
        return next(self.all(*numbers), None)

    def string(self, number: int) -> str:
        """The text of a field; "" where it is not set."""
        found = self.first(number)
        return "" if found is None else found.text

    def integer(self, number: int) -> int:
        """The value of a number field; 0 where it is not set."""
        return next((value for found, value in self.fields() if found == number and isinstance(value, int)), 0)

    def integers(self, number: int) -> tuple[int, ...]:
        """A repeated number field, packed or not."""
        found: list[int] = []
        for field, value in self.fields():
            if field == number and isinstance(value, int):
                found.append(value)
            elif field == number and isinstance(value, Message):
                at = value.start
                while at < value.stop:
                    one, at = value._varint(at)
                    found.append(one)
        return tuple(found)

    def _varint(self, at: int) -> tuple[int, int]:
        value = 0
        for shift in range(0, 64, 7):
            if at >= self.stop:
                raise ContentError(f"it ends in the middle of a number at byte {at:,}")
            byte = self.buffer[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value, at
        raise ContentError(f"byte {at - 10:,} begins no number of a protocol buffer")
