"""One worker process from its parent's side: start it, ask it, and say in one sentence how it died."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench.measurement import BenchError

HOME = Path(__file__).resolve().parents[2]
DEATH_SECONDS = 10.0


class Child:
    """A running worker for the file called `name`. Made by `start`, which also ends it."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], log: Path, timeout_seconds: float) -> None:
        self.name = name
        self.process = process
        self._log = log
        self._timeout = timeout_seconds
        self._unread = b""

    def ask(self, step: str, **order: Any) -> dict[str, Any]:
        """The worker's answer to one order. BenchError if it fails, dies, or says nothing within the timeout."""
        assert self.process.stdin is not None  # start() opens it
        try:
            self.process.stdin.write(json.dumps({"step": step, **order}).encode() + b"\n")
            self.process.stdin.flush()
        except OSError:
            raise BenchError(self._death(step)) from None
        answer: dict[str, Any] = json.loads(self._line(step))
        if "error" in answer:
            raise BenchError(f"{self.name} was not measured: step '{step}' failed: {answer['error']}")
        return answer

    def _line(self, step: str) -> bytes:
        assert self.process.stdout is not None  # start() opens it
        deadline = time.monotonic() + self._timeout
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while b"\n" not in self._unread:
                if not selector.select(max(0.0, deadline - time.monotonic())):
                    raise BenchError(
                        f"{self.name} was not measured: a step may take {self._timeout:g} s, and '{step}' took longer; "
                        "raise the schedule's timeout_seconds, or look whether its layers are delegated"
                    )
                # Unbuffered: a buffered read would hide lines from the selector.
                received = os.read(self.process.stdout.fileno(), 1 << 16)
                if not received:
                    raise BenchError(self._death(step))
                self._unread += received
        line, _, self._unread = self._unread.partition(b"\n")
        return line

    def _death(self, step: str) -> str:
        status = self.process.wait(timeout=DEATH_SECONDS)
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        cure = "; the kernel does that when memory runs out: see dmesg" if status == -signal.SIGKILL else ""
        said = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
        words = f"its last line was {said[-1].strip()!r}" if said else "it said nothing"
        return f"{self.name} was not measured: its process {how} during step '{step}'{cure}; {words}"


@contextmanager
def start(name: str, threads: int, timeout_seconds: float, worker: str = "bench.host.worker") -> Iterator[Child]:
    """A worker that lives as long as the `with` block and not longer, whatever leaves the block.

    `worker` is a module that answers orders line by line, run with -m.
    """
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        log = Path(folder) / "stderr"
        with log.open("wb") as errors:
            # -P: a file called torch.py where the user happens to be must not be imported.
            # A session of its own: Ctrl-C reaches the parent alone, which ends its children; none prints a traceback.
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", worker],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(threads),
                start_new_session=True,
            )
        try:
            yield Child(name, process, log, timeout_seconds)
        finally:
            process.kill()
            process.communicate()


def _environment(threads: int) -> dict[str, str]:
    """This process's environment, with thread pools of the right size whose idle threads sleep."""
    pools = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), str(threads))
    path = os.pathsep.join(filter(None, (str(HOME), os.environ.get("PYTHONPATH"))))
    return {**os.environ, **pools, "OMP_WAIT_POLICY": "passive", "PYTHONPATH": path}
