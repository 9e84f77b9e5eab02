"""What a device is, and the error of this package. `bench.measurement` hands both on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

Kind = Literal["host", "phone", "simulated"]
KINDS: tuple[str, ...] = get_args(Kind)
PROCESSES = ("shell", "app", "app_process")
"""Inside what a phone runs files; `bench.phone.PLACES` has the same names, and a test compares the two."""


class BenchError(RuntimeError):
    """A file that cannot be measured, or measurements that cannot be compared; the text names the cure.

    `rows` are those measured before it, where a device keeps them.
    """

    rows: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Device:
    """Where a file ran. Figures of different kinds never stand in one ranking.

    `process` says inside what a phone ran the file: "shell" (a program of the adb shell), "app" or "app_process" (the
    app's code and runtimes, started from the shell); a phone schedules them differently. "" on anything but a phone.
    `cores` counts all cores of the device, `memory_kb` its memory, `page_bytes` a page; None where the device does not
    tell. `serial` tells two phones of one model apart.
    """

    kind: Kind
    name: str
    cpu: str
    cores: int
    os: str
    memory_kb: int | None = None
    serial: str = ""
    page_bytes: int | None = None
    process: str = ""

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise BenchError(f"a device is one of {', '.join(KINDS)}, not {self.kind!r}")
        object.__setattr__(self, "process", process_of(self.kind, self.process))


def process_of(kind: str, process: str) -> str:
    """Inside what a row's device ran the file: rows of versions that knew no app are of the shell."""
    return process or ("shell" if kind == "phone" else "")


def process_said(process: str) -> str:
    """What follows a device's kind in words: ", app"; nothing for the shell, where phones are measured by default."""
    return f", {process}" if process not in ("", "shell") else ""
