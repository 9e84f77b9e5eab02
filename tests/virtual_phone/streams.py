"""Streams over one transport: OPEN, OKAY, WRTE and CLSE, with one write under way in each direction."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from virtual_phone.messages import CLSE, MAX_PAYLOAD, OKAY, OPEN, WRTE, Message

Send = Callable[[Message], Awaitable[None]]


class StreamClosed(Exception):
    """The client closed the stream, or went away."""


class Stream:
    """One service's connection: `read` and `write` bytes. Ids are named from the device's side."""

    def __init__(self, local: int, remote: int, limit: int, send: Send) -> None:
        self.local, self.remote = local, remote
        self._limit, self._send = limit, send
        self._received: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._unread = b""
        self._acknowledged = asyncio.Event()
        self._acknowledged.set()
        self.closed = asyncio.Event()

    async def write(self, content: bytes) -> None:
        """Sends everything, each part once the client has taken the one before. StreamClosed if it never will."""
        for start in range(0, len(content), self._limit):
            await self._acknowledged.wait()
            if self.closed.is_set():
                raise StreamClosed
            self._acknowledged.clear()
            await self._send(Message(WRTE, self.local, self.remote, content[start : start + self._limit]))

    async def read(self) -> bytes:
        """The next bytes of the client; empty once it has closed the stream."""
        if self._unread:
            content, self._unread = self._unread, b""
            return content
        received = await self._received.get()
        if received is None:
            self._received.put_nowait(None)
            return b""
        # Taken, so the client may send more: that is what keeps a slow phone from being flooded.
        await self._send(Message(OKAY, self.local, self.remote))
        return received

    async def read_exactly(self, count: int) -> bytes:
        """So many bytes. StreamClosed if the client closes before."""
        while len(self._unread) < count:
            before, self._unread = self._unread, b""
            received = await self.read()
            if not received:
                raise StreamClosed
            self._unread = before + received
        content, self._unread = self._unread[:count], self._unread[count:]
        return content

    def take(self, content: bytes) -> None:
        self._received.put_nowait(content)

    def acknowledge(self) -> None:
        self._acknowledged.set()

    def end(self) -> None:
        """Marks the stream closed, and wakes whoever waits for it."""
        self.closed.set()
        self._acknowledged.set()
        self._received.put_nowait(None)


Service = Callable[[str, Stream], Awaitable[None]]
"""Serves one stream, opened for a service such as "shell,v2,raw:ls". Raises LookupError if there is none."""


class Streams:
    """All streams of one transport, and the tasks that serve them."""

    def __init__(self, send: Send, serve: Service, limit: int = MAX_PAYLOAD) -> None:
        self._send, self._serve, self._limit = send, serve, limit
        self._open: dict[int, Stream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._next = 1

    async def handle(self, message: Message) -> None:
        """Takes one OPEN, OKAY, WRTE or CLSE of the client; what belongs to no stream is answered with CLSE."""
        if message.command == OPEN:
            await self._begin(message)
            return
        stream = self._open.get(message.second)
        if stream is None:
            if message.command != CLSE:
                await self._send(Message(CLSE, 0, message.first))
        elif message.command == WRTE:
            stream.take(message.payload)
        elif message.command == OKAY:
            stream.acknowledge()
        elif message.command == CLSE:
            stream.end()

    async def _begin(self, message: Message) -> None:
        stream = Stream(self._next, message.first, self._limit, self._send)
        self._next += 1
        self._open[stream.local] = stream
        await self._send(Message(OKAY, stream.local, stream.remote))
        task = asyncio.create_task(self._run(message.payload.rstrip(b"\0").decode(), stream))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, service: str, stream: Stream) -> None:
        try:
            await self._serve(service, stream)
        except (StreamClosed, LookupError, ConnectionError):
            pass  # the CLSE below is the answer to all of these
        finally:
            self._open.pop(stream.local, None)
            stream.end()
            await self._send(Message(CLSE, stream.local, stream.remote))

    async def close(self) -> None:
        """Ends every stream, as when the cable is pulled; what runs for them is cancelled."""
        for stream in list(self._open.values()):
            stream.end()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
