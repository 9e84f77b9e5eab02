"""A worker: a Python process of its own that is sent requests and answers them, one line of JSON each.

A worker is a function `serve(requests, answer)` at the top level of a module. The parent's side is `start`, which runs
`python -P -m exporters.worker_process` and gives a `Worker` to ask; the worker's own side is `main`. Answers take a
pipe of their own, so whatever toolkits print, some from C++, goes to the log. Values are dataclasses on both sides.
"""

from __future__ import annotations

import importlib
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import TypeVar

import msgspec

from exporters.artifact import ExportError, decode_path, encode_path

T = TypeVar("T")

HOME = Path(__file__).resolve().parents[1]
DEATH_SECONDS = 10.0


class WorkerError(RuntimeError):
    """A worker that failed, died or was silent for too long, as a clause without a subject."""


class StepError(WorkerError):
    """A step that the worker says has failed; `reason` is its own text."""

    def __init__(self, step: str, reason: str) -> None:
        super().__init__(f"step '{step}' failed: {reason}")
        self.reason = reason


class WorkerKilledError(WorkerError):
    """A worker that was killed, most often because memory ran out."""


class WorkerTimeoutError(WorkerError):
    """A worker that took longer over a step than it may."""


class Requests:
    """The requests that a worker gets, in order. Reading beyond the last one ends the worker."""

    def __init__(self, lines: Iterable[bytes]) -> None:
        self._lines = iter(lines)

    def next(self, kind: type[T]) -> T:
        for line in self._lines:
            return msgspec.json.decode(line, type=kind, dec_hook=decode_path)
        raise _ParentGoneError

    def until_none(self, kind: type[T]) -> Iterator[T]:
        """Requests of one kind, up to a request of None."""
        while True:
            line = self.next(msgspec.Raw)
            if bytes(line) == b"null":
                return
            yield msgspec.json.decode(line, type=kind, dec_hook=decode_path)


Answer = Callable[[object], None]
Serve = Callable[[Requests, Answer], None]


class _Line(msgspec.Struct):
    """One line from a worker: a value, or the error that ended it."""

    value: msgspec.Raw = msgspec.Raw(b"null")
    error: str = ""


class _ParentGoneError(Exception):
    """The parent has closed the pipe of requests."""


class Worker:
    """A running worker from its parent's side. Made by `start`, which also ends it.

    What goes wrong is raised as `failure` makes it of a WorkerError.
    """

    def __init__(
        self,
        process: subprocess.Popen[bytes],
        answers: int,
        log: Path,
        failure: Callable[[WorkerError], Exception],
        timeout_seconds: float | None = None,
    ) -> None:
        self.process = process
        self._answers = answers
        self._log = log
        self._failure = failure
        self._timeout = timeout_seconds
        self._unread = b""

    def ask(self, step: str, request: object, kind: type[T]) -> T:
        """The answer to one request. `step` names it in errors."""
        self.send(step, request)
        return self.receive(step, kind)

    def send(self, step: str, request: object) -> None:
        assert self.process.stdin is not None  # start() opens it
        try:
            self.process.stdin.write(msgspec.json.encode(request, enc_hook=encode_path) + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise self._failure(self._death(step)) from None

    def receive(self, step: str, kind: type[T]) -> T:
        """The next answer, waited for as long as a step may take."""
        deadline = None if self._timeout is None else time.monotonic() + self._timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self._answers, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(None if deadline is None else max(0.0, deadline - time.monotonic())):
                    text = f"a step may take {self._timeout:g} s, and '{step}' took longer"
                    raise self._failure(WorkerTimeoutError(text))
                received = os.read(self._answers, 1 << 16)
                if not received:
                    raise self._failure(self._death(step))
                self._unread += received
        content, _, self._unread = self._unread.partition(b"\n")
        line = msgspec.json.decode(content, type=_Line)
        if line.error:
            raise self._failure(StepError(step, line.error))
        return msgspec.json.decode(line.value, type=kind, dec_hook=decode_path)

    def _death(self, step: str) -> WorkerError:
        status = self.process.wait(timeout=DEATH_SECONDS)
        killed = status == -signal.SIGKILL
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        cure = "; the kernel does that when memory runs out: see dmesg" if killed else ""
        said = [line.strip() for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        words = f"its last line was {said[-1][:300]!r}" if said else "it said nothing"
        kind = WorkerKilledError if killed else WorkerError
        return kind(f"its process {how} during step '{step}'{cure}; {words}")


def wait_for_any(workers: Sequence[Worker]) -> Worker:
    """A worker that has answered or ended, as soon as one has."""
    for worker in workers:
        if b"\n" in worker._unread:
            return worker
    with selectors.DefaultSelector() as selector:
        for worker in workers:
            selector.register(worker._answers, selectors.EVENT_READ, worker)
        found: Worker = selector.select()[0][0].data
        return found


@contextmanager
def start(
    serve: Serve,
    failure: Callable[[WorkerError], Exception],
    *,
    threads: int = 1,
    cores: Iterable[int] | None = None,
    timeout_seconds: float | None = None,
    environment: Mapping[str, str] | None = None,
) -> Iterator[Worker]:
    """A worker that runs `serve` and lives as long as the `with` block and not longer, whatever leaves the block.

    It is pinned to `cores` before anything of `serve` is imported: a runtime that is imported earlier sizes its thread
    pool by all cores of the machine. `threads` is the size of its pools, whose idle threads sleep.
    """
    pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    path = os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH"))))
    variables = {**os.environ, **pools, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": path, **(environment or {})}
    target, pinned = (serve.__module__, serve.__name__), ",".join(map(str, cores or ()))
    with tempfile.TemporaryDirectory(prefix="worker-") as folder:
        log = Path(folder) / "log"
        answers, theirs = os.pipe()
        try:
            with log.open("wb") as output:
                # -P: a file called torch.py where the user happens to be must not be imported.
                # A session of its own: Ctrl-C reaches the parent alone, which ends its workers without a traceback.
                process = subprocess.Popen(
                    [sys.executable, "-P", "-m", "exporters.worker_process", *target, str(theirs), pinned],
                    stdin=subprocess.PIPE,
                    stdout=output,
                    stderr=output,
                    pass_fds=(theirs,),
                    env=variables,
                    start_new_session=True,
                )
            os.close(theirs)
            try:
                yield Worker(process, answers, log, failure, timeout_seconds)
            finally:
                process.kill()
                process.communicate()
        finally:
            os.close(answers)


def end_with_parent() -> None:
    """Lets a worker that reads no more requests end at once when its parent does, even in the middle of its work."""

    def watch() -> None:
        os.read(0, 1)  # returns when the parent's end of the pipe closes
        os._exit(1)

    Thread(target=watch, daemon=True).start()


def main(module: str, name: str, descriptor: str, cores: str) -> int:
    """The worker's side: its answers go to the pipe `descriptor`; the exit status of the process."""
    if cores:
        os.sched_setaffinity(0, map(int, cores.split(",")))
    os.set_inheritable(int(descriptor), False)
    with os.fdopen(int(descriptor), "wb") as channel:

        def send(**fields: object) -> None:
            channel.write(msgspec.json.encode(fields, enc_hook=encode_path) + b"\n")
            channel.flush()

        try:
            serve: Serve = getattr(importlib.import_module(module), name)
            serve(Requests(sys.stdin.buffer), lambda value: send(value=value))
        except (_ParentGoneError, BrokenPipeError):
            return 1  # whoever asked is gone; nobody is left to be told
        except Exception as error:  # a toolkit raises what it likes; all of it is the parent's to report
            traceback.print_exc()
            text = " ".join(str(error).split())
            send(error=text if isinstance(error, ExportError) else f"{type(error).__name__}: {text}")
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
