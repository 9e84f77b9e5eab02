"""VirtualPhone: the device as a whole, on a port of its own and in a thread of its own."""

from __future__ import annotations

import asyncio
import secrets
import threading
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from virtual_phone import answers
from virtual_phone.answers import Identity
from virtual_phone.faults import Faults
from virtual_phone.messages import (
    AUTH,
    AUTH_PUBLIC_KEY,
    AUTH_TOKEN,
    CNXN,
    MAX_PAYLOAD,
    VERSION_WITH_CHECKSUMS,
    VERSION_WITHOUT,
    Message,
    ProtocolError,
    receive,
)
from virtual_phone.shell import Emulation, serve_shell
from virtual_phone.streams import Send, Stream, Streams
from virtual_phone.sync import Sync, Unplugged

STEP_SECONDS = 60.0


class VirtualPhone:
    """A phone that the adb client reaches at `address` while the `with` block lasts.

    `root` is the folder that stands for its files. `identity` decides what it says of itself, `faults` what goes wrong.
    With `asks` it demands a key and takes the first one it is offered, as when the owner presses Allow. `modern` False
    is an adbd without shell v2, whose frames must carry checksums.
    """

    def __init__(
        self, root: Path, qemu: str, identity: Identity | None = None, asks: bool = False, modern: bool = True
    ) -> None:
        self.root = root.resolve()
        self.identity = identity or Identity()
        self.faults = Faults()
        self.emulation = Emulation(self.root, qemu, self.faults)
        self.emulation.unplug = self._pull_cable
        self.connections = 0
        self._pulling: asyncio.Task[None] | None = None
        self._asks, self._modern = asks, modern
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._server: asyncio.Server | None = None
        self.port = 0
        answers.write(self.root, self.identity)

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    @property
    def commands(self) -> list[str]:
        """Every command that the phone was given, in order."""
        return self.emulation.commands

    @property
    def files(self) -> list[str]:
        """Paths of all files under /data/local/tmp, relative to it."""
        top = self.root / "data" / "local" / "tmp"
        return sorted(path.relative_to(top).as_posix() for path in top.rglob("*") if path.is_file())

    def __enter__(self) -> VirtualPhone:
        self._thread.start()
        self.plug_in()
        return self

    def __exit__(self, *_: object) -> None:
        self.unplug()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(STEP_SECONDS)
        self._loop.close()

    def plug_in(self) -> None:
        """Listens, on the same port as before."""
        self._do(self._listen())

    def unplug(self) -> None:
        """Drops every connection and listens no more, as when the cable is pulled."""
        self._do(self._drop())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(STEP_SECONDS)

    def _pull_cable(self) -> None:
        self._pulling = self._loop.create_task(self._drop())

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._connected, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _drop(self) -> None:
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.transport.abort()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        if others:
            await asyncio.wait(others, timeout=STEP_SECONDS / 2)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        self.connections += 1

        async def send(message: Message) -> None:
            if not writer.is_closing():
                writer.write(message.encode())
                with suppress(ConnectionError):
                    await writer.drain()

        streams = None
        try:
            hello = await receive(reader, VERSION_WITH_CHECKSUMS)
            if self.faults.offline or hello.command != CNXN:
                return
            version = min(hello.first, VERSION_WITHOUT if self._modern else VERSION_WITH_CHECKSUMS)
            if (self._asks or self.faults.unauthorized) and not await self._authorized(reader, send):
                return
            await send(Message(CNXN, version, MAX_PAYLOAD, self._banner()))
            streams = Streams(send, self._service, min(hello.second, MAX_PAYLOAD))
            while True:
                await streams.handle(await receive(reader, version))
        except (asyncio.IncompleteReadError, ConnectionError, ProtocolError):
            pass  # the client is gone, or is no adb client
        finally:
            writer.transport.abort()
            if streams is not None:
                await streams.close()
            self._writers.discard(writer)

    async def _authorized(self, reader: asyncio.StreamReader, send: Send) -> bool:
        """Asks for signatures until the client has no more keys and sends its public one; then the owner decides."""
        while True:
            await send(Message(AUTH, AUTH_TOKEN, 0, secrets.token_bytes(20)))
            answer = await receive(reader, VERSION_WITH_CHECKSUMS)
            if answer.command != AUTH:
                return False
            if answer.first == AUTH_PUBLIC_KEY:
                if self.faults.unauthorized:
                    await reader.read()  # nobody presses Allow: the phone says nothing more
                    return False
                return True

    def _banner(self) -> bytes:
        who = self.identity
        features = ";features=shell_v2,cmd,stat_v2,ls_v2,fixed_push_mkdir" if self._modern else ""
        name = f"ro.product.name=virtual;ro.product.model={who.model};ro.product.device=virtual{features}"
        return f"device::{name}".encode()

    async def _service(self, name: str, stream: Stream) -> None:
        kind, _, rest = name.partition(":")
        if kind == "sync":
            try:
                await Sync(stream, self.emulation.place, self.faults).serve()
            except Unplugged:
                self.faults.unplug_after_bytes = None
                self._pull_cable()
        elif kind.split(",")[0] in ("shell", "exec"):
            await serve_shell(stream, self.emulation, rest, packets="v2" in kind.split(","))
        else:
            raise LookupError(name)
