"""The shell services: shell v2 with its packets, and the legacy shell, over a real `sh` in the phone's folder."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import struct
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from virtual_phone.faults import Faults
from virtual_phone.streams import Stream

STDIN, STDOUT, STDERR, EXIT, CLOSE_STDIN = range(5)
PACKET = struct.Struct("<BI")
ELSEWHERE = re.compile(r"(?<![\w./~*\]-])/(?!dev/null\b|proc/\$pid/)[\w.]")
"""An absolute path in a command that leads out of the phone; processes are those of this machine."""

# `exec` is how the tool starts a program that it pushed. Where the kernel does not start aarch64 programs itself
# (binfmt_misc), QEMU is put in front; -L shows the program this phone's /proc/cpuinfo and /sys.
PREAMBLE = """
guest() {
  case "$(od -An -tx1 -j18 -N1 "$1" 2>/dev/null)" in
    *b7*) echo $$ >"$PHONE/running"; \\exec "$QEMU" -cpu cortex-a76 -L "$PHONE" "$@" ;;
    *) \\exec "$@" ;;
  esac
}
alias exec=guest
cd "$PHONE"
"""


class Emulation:
    """The phone's command line: absolute paths lie in `root`, and its own programs in root/system/bin.

    `commands` keeps every command that came; `unplug` is what the fault `unplug_after_seconds` calls.
    """

    def __init__(self, root: Path, qemu: str, faults: Faults) -> None:
        self.root, self._qemu, self.faults = root, qemu, faults
        self.commands: list[str] = []
        self.unplug: Callable[[], object] = lambda: None

    def place(self, path: str) -> Path:
        """The path on this machine of a path of the phone. PermissionError if it leads out of the phone."""
        found = (self.root / path.lstrip("/")).resolve()
        if not found.is_relative_to(self.root):
            raise PermissionError(1, "Permission denied", path)
        return found

    def translated(self, command: str) -> str:
        """The command with the phone's paths as this machine's. PermissionError for any other absolute path."""
        mapped = re.sub(r"(?<![\w./~-])/(data/|proc/(?:cpu|mem)info|sys/|system/bin)", rf"{self.root}/\1", command)
        if "/.." in command or ELSEWHERE.search(mapped.replace(f"{self.root}/", "")):
            raise PermissionError(1, f"this phone has no such path: {command}")
        return mapped

    async def start(self, command: str) -> asyncio.subprocess.Process:
        """A shell that runs the command, in a process group of its own."""
        self.commands.append(command)
        await asyncio.sleep(self.faults.answer_seconds)
        path = f"{self.root}/system/bin:{os.environ['PATH']}"
        return await asyncio.create_subprocess_exec(
            "/usr/bin/env",
            "--default-signal=HUP",  # tests that were started by nohup would hand on that it is ignored
            "/bin/sh",
            "-c",
            PREAMBLE + self.translated(command),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={"PATH": path, "PHONE": str(self.root), "QEMU": self._qemu, "LC_ALL": "C"},
            start_new_session=True,
        )

    async def trouble(self, process: asyncio.subprocess.Process) -> None:
        """Does to a pushed program what the faults say, once it has begun, until it ends."""
        running = self.root / "running"
        while not running.exists() or running.read_text().strip() != str(process.pid):
            await asyncio.sleep(0.02)
        begun = time.monotonic()
        while process.returncode is None:
            age = time.monotonic() - begun
            if self.faults.kill_after_seconds is not None and age >= self.faults.kill_after_seconds:
                _signal(process, signal.SIGKILL)
            if self.faults.unplug_after_seconds is not None and age >= self.faults.unplug_after_seconds:
                self.faults.unplug_after_seconds = None
                self.unplug()
            if self.faults.throttle_after_seconds is not None and age >= self.faults.throttle_after_seconds:
                _signal(process, signal.SIGSTOP)
                await asyncio.sleep(0.01 * (1 - self.faults.throttle_share))
                if self.faults.throttle_share:
                    _signal(process, signal.SIGCONT)
                await asyncio.sleep(0.01 * self.faults.throttle_share)
            else:
                await asyncio.sleep(0.01)


def _signal(process: asyncio.subprocess.Process, number: int) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


async def serve_shell(stream: Stream, emulation: Emulation, command: str, packets: bool) -> None:
    """Runs one command; `packets` is shell v2, else everything comes as one stream and without an exit status."""
    try:
        process = await emulation.start(command)
    except PermissionError as refusal:
        text = f"{refusal.strerror}\n".encode()
        await stream.write(_packet(STDERR, text) + _packet(EXIT, b"\x01") if packets else text)
        return
    assert process.stdout is not None
    assert process.stderr is not None
    helpers = [
        asyncio.create_task(_feed(stream, process, packets)),
        asyncio.create_task(emulation.trouble(process)),
        asyncio.create_task(_hang_up(stream, process)),
    ]
    try:
        kinds = ((process.stdout, STDOUT), (process.stderr, STDERR))
        await asyncio.gather(*(_copy(source, stream, kind if packets else None) for source, kind in kinds))
        status = await process.wait()
        if packets:
            await stream.write(_packet(EXIT, bytes([status if status >= 0 else 128 - status])))
    finally:
        for helper in helpers:
            helper.cancel()
        if process.returncode is None:
            _signal(process, signal.SIGHUP)
            _signal(process, signal.SIGCONT)
            await process.wait()


def _packet(kind: int, content: bytes) -> bytes:
    return PACKET.pack(kind, len(content)) + content


async def _copy(source: asyncio.StreamReader, stream: Stream, kind: int | None) -> None:
    while content := await source.read(16 * 1024):
        await stream.write(content if kind is None else _packet(kind, content))


async def _feed(stream: Stream, process: asyncio.subprocess.Process, packets: bool) -> None:
    """Hands the client's input to the program."""
    assert process.stdin is not None
    with suppress(ConnectionError):
        while not packets and (content := await stream.read()):
            process.stdin.write(content)
        while packets:
            kind, length = PACKET.unpack(await stream.read_exactly(PACKET.size))
            content = await stream.read_exactly(length)
            if kind == STDIN:
                process.stdin.write(content)
            elif kind == CLOSE_STDIN:
                process.stdin.close()


async def _hang_up(stream: Stream, process: asyncio.subprocess.Process) -> None:
    """adbd sends SIGHUP to the shell, or to what has taken its place by exec, when the client goes away."""
    await stream.closed.wait()
    if process.returncode is None:
        _signal(process, signal.SIGHUP)
        _signal(process, signal.SIGCONT)
