"""The frames of the adb transport: 24 bytes of header, then the payload. Written after AOSP's protocol.txt."""

from __future__ import annotations

import asyncio
import struct
from dataclasses import dataclass

HEADER = struct.Struct("<6I")
VERSION_WITH_CHECKSUMS = 0x01000000
VERSION_WITHOUT = 0x01000001
MAX_PAYLOAD = 256 * 1024


def word(name: str) -> int:
    """A command's four letters as the little-endian number that goes over the wire."""
    return int.from_bytes(name.encode("ascii"), "little")


CNXN, AUTH, OPEN, OKAY, WRTE, CLSE = (word(name) for name in ("CNXN", "AUTH", "OPEN", "OKAY", "WRTE", "CLSE"))
AUTH_TOKEN, AUTH_SIGNATURE, AUTH_PUBLIC_KEY = 1, 2, 3


class ProtocolError(Exception):
    """The other side sent what the protocol does not allow."""


@dataclass(frozen=True)
class Message:
    """One frame. What `first` and `second` mean depends on the command: versions, lengths, or ids of streams."""

    command: int
    first: int
    second: int
    payload: bytes = b""

    def encode(self) -> bytes:
        """The frame, its checksum included: every version may send one, the older ones read it."""
        head = (self.command, self.first, self.second, len(self.payload), checksum(self.payload))
        return HEADER.pack(*head, self.command ^ 0xFFFFFFFF) + self.payload


def checksum(payload: bytes) -> int:
    """The sum of all bytes; the protocol calls it a CRC32, which it is not."""
    return sum(payload) & 0xFFFFFFFF


async def receive(reader: asyncio.StreamReader, version: int) -> Message:
    """The next frame. ProtocolError if its magic, its length or (before version 0x01000001) its checksum is wrong."""
    command, first, second, length, given, magic = HEADER.unpack(await reader.readexactly(HEADER.size))
    if magic != command ^ 0xFFFFFFFF or length > MAX_PAYLOAD:
        raise ProtocolError(f"no adb frame: command {command:#x}, magic {magic:#x}, {length} bytes")
    payload = await reader.readexactly(length)
    # A client may leave the checksum out once both sides have said a version that allows it.
    if version < VERSION_WITHOUT and given != checksum(payload):
        raise ProtocolError(f"checksum {given:#x} of a frame whose bytes add up to {checksum(payload):#x}")
    return Message(command, first, second, payload)
