"""Protocol buffers read field by field, without their schemas: .onnx and .mlmodel files, whose own readers would load
all weights (onnx) or torch (coremltools). The wire format: protobuf.dev/programming-guides/encoding."""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

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
            key, at = self._varint(at)
            number, kind = key >> 3, key & 7
            if kind == 0:
                value, at = self._varint(at)
                yield number, value
                continue
            size, at = (FIXED[kind], at) if kind in FIXED else self._length(kind, at)
            if number == 0 or at + size > self.stop:
                raise ContentError(f"it ends in the middle of a field of {size:,} bytes at byte {at:,}")
            yield number, Message(self.buffer, at, at + size)
            at += size

    def each(self, number: int) -> Iterator[Message]:
        """Every field of that number which has a length."""
        return (value for found, value in self.fields() if found == number and isinstance(value, Message))

    def first(self, number: int) -> Message | None:
        return next(self.each(number), None)

    def string(self, number: int) -> str:
        """The text of a field; "" where it is not set."""
        found = self.first(number)
        return "" if found is None else found.text

    def integer(self, number: int) -> int:
        """The value of a number field; 0 where it is not set."""
        return next((value for found, value in self.fields() if found == number and isinstance(value, int)), 0)

    def integers(self, number: int) -> tuple[int, ...]:
        """A repeated number field, whether packed or not."""
        found: list[int] = []
        for field, value in self.fields():
            if field == number:
                found += [value] if isinstance(value, int) else value._packed()
        return tuple(found)

    def _packed(self) -> list[int]:
        at, found = self.start, []
        while at < self.stop:
            value, at = self._varint(at)
            found.append(value)
        return found

    def _length(self, kind: int, at: int) -> tuple[int, int]:
        if kind != 2:
            raise ContentError(f"byte {at - 1:,} begins no field of a protocol buffer")
        return self._varint(at)

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


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    """The file's bytes, read when they are looked at."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            yield buffer
