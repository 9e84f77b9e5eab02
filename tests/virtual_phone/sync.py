"""The sync service: stat, list, push and pull between the client and the folder that stands for the phone's files."""

from __future__ import annotations

import asyncio
import errno
import os
import stat
import struct
from collections.abc import Callable
from pathlib import Path

from virtual_phone.faults import Faults
from virtual_phone.streams import Stream

CHUNK = 64 * 1024
WORD = struct.Struct("<I")
REQUEST = struct.Struct("<4sI")
STAT = struct.Struct("<4s3I")
STAT_2 = struct.Struct("<4sI2Q4IQ3q")
ENTRY = struct.Struct("<4s4I")
ENTRY_2 = struct.Struct("<4sI2Q4IQ3qI")


class Unplugged(Exception):
    """The fault `unplug_after_bytes`: the transport has to end now."""


class Refused(Exception):
    """A refusal, which the phone answers with FAIL and this text."""


class Sync:
    """One sync connection. `place` maps a phone's path to one of this machine."""

    def __init__(self, stream: Stream, place: Callable[[str], Path], faults: Faults) -> None:
        self._stream, self._place, self._faults = stream, place, faults

    async def serve(self) -> None:
        """Answers requests until QUIT."""
        while True:
            name, length = REQUEST.unpack(await self._stream.read_exactly(REQUEST.size))
            if name == b"QUIT":
                return
            path = (await self._stream.read_exactly(length)).decode()
            try:
                await self._answer(name, path)
            except Refused as refusal:
                await self._fail(str(refusal))
            except OSError as error:
                await self._fail(error.strerror or str(error))

    async def _answer(self, name: bytes, path: str) -> None:
        if name == b"SEND":
            await self._take(path)
        elif name == b"RECV":
            await self._give(self._place(path))
        elif name in (b"LIST", b"LIS2"):
            await self._list(name, self._place(path))
        elif name in (b"STAT", b"STA2", b"LST2"):
            await self._stream.write(self._stat(name, path))
        else:
            raise Refused(f"unknown command {name.decode('ascii', 'replace')}")

    async def _fail(self, text: str) -> None:
        await self._stream.write(REQUEST.pack(b"FAIL", len(text.encode())) + text.encode())

    async def _take(self, order: str) -> None:
        """A push. What the client still sends after a refusal is read and dropped, as the real device does."""
        name, _, mode = order.rpartition(",")
        path, refusal, received = self._place(name), "", 0
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            while True:
                kind, length = REQUEST.unpack(await self._stream.read_exactly(REQUEST.size))
                if kind == b"DONE":
                    break
                if kind != b"DATA" or length > CHUNK:
                    raise Refused(f"expected DATA of at most {CHUNK} bytes")
                content = await self._stream.read_exactly(length)
                received += length
                await self._spoil_push(received, length)
                if self._faults.space_bytes is not None and received > self._faults.space_bytes:
                    refusal = "write failed: No space left on device"
                elif not refusal:
                    file.write(content)
        if refusal:
            path.unlink()
            raise Refused(refusal)
        path.chmod(stat.S_IMODE(int(mode)))
        os.utime(path, (length, length))  # DONE carries the time of change where DATA has its length
        await self._stream.write(REQUEST.pack(b"OKAY", 0))

    async def _spoil_push(self, received: int, now: int) -> None:
        if self._faults.unplug_after_bytes is not None and received >= self._faults.unplug_after_bytes:
            raise Unplugged
        await self._pace(now)

    async def _pace(self, count: int) -> None:
        if self._faults.bytes_per_second:
            await asyncio.sleep(count / self._faults.bytes_per_second)

    async def _give(self, path: Path) -> None:
        with path.open("rb") as file:
            while content := file.read(CHUNK):
                await self._pace(len(content))
                await self._stream.write(REQUEST.pack(b"DATA", len(content)) + content)
        await self._stream.write(REQUEST.pack(b"DONE", 0))

    async def _list(self, name: bytes, path: Path) -> None:
        newer = name == b"LIS2"
        for entry in sorted(path.iterdir()) if path.is_dir() else ():
            own = entry.name.encode()
            found = entry.lstat()
            if newer:
                head = ENTRY_2.pack(b"DNT2", 0, *_fields(found), len(own))
            else:
                head = ENTRY.pack(b"DENT", found.st_mode, found.st_size, int(found.st_mtime), len(own))
            await self._stream.write(head + own)
        size = (ENTRY_2 if newer else ENTRY).size
        await self._stream.write(b"DONE" + bytes(size - 4))

    def _stat(self, name: bytes, path: str) -> bytes:
        """The answer to a stat request: zeros, or the error's number, where there is no such file."""
        try:
            found = os.stat(self._place(path), follow_symlinks=name == b"STA2")
        except OSError as error:
            if name == b"STAT":
                return STAT.pack(name, 0, 0, 0)
            return STAT_2.pack(name, error.errno or errno.EIO, *[0] * 10)
        if name == b"STAT":
            return STAT.pack(name, found.st_mode, found.st_size & 0xFFFFFFFF, int(found.st_mtime))
        return STAT_2.pack(name, 0, *_fields(found))


def _fields(found: os.stat_result) -> tuple[int, ...]:
    times = int(found.st_atime), int(found.st_mtime), int(found.st_ctime)
    who = found.st_mode, found.st_nlink, found.st_uid, found.st_gid
    return found.st_dev, found.st_ino, *who, found.st_size, *times
