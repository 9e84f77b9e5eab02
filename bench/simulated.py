"""What one file costs on the simulated ARM CPU: counts, which repeat, and never a time."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from bench.device import Device
from exporters.artifact import Parity


@dataclass(frozen=True)
class Counts:
    """Instructions by class, and the bytes that the loads and stores among them moved.

    `vector` is Advanced SIMD arithmetic; an atomic counts as a load; `other` is integer and scalar work.
    """

    vector: int
    load: int
    store: int
    branch: int
    other: int
    load_bytes: int
    store_bytes: int

    @property
    def instructions(self) -> int:
        return self.vector + self.load + self.store + self.branch + self.other

    def __sub__(self, earlier: Counts) -> Counts:
        return Counts(**{each.name: getattr(self, each.name) - getattr(earlier, each.name) for each in fields(self)})


@dataclass(frozen=True)
class Traffic:
    """What one run moves between the levels of the core's cache model, in lines of `line_bytes` bytes."""

    line_bytes: int
    l1_misses: int
    l2_misses: int
    l2_written_back: int

    @property
    def memory_bytes(self) -> int:
        """Bytes between the second level and whatever lies behind it."""
        return self.line_bytes * (self.l2_misses + self.l2_written_back)


@dataclass(frozen=True)
class Allocations:
    """The program's own memory in kB, from its brk, mmap and munmap; what it asked for, touched or not.

    `start` is its heap and writable anonymous mappings with the runtime loaded and no model, `peak` the most that these
    ever were; `mapped_peak` the most that it had mapped of files: libraries, and the model where the engine maps it.
    """

    start: int
    peak: int
    mapped_peak: int

    @property
    def model_peak(self) -> int:
        """What loading and running the file adds at its peak, mapped files apart."""
        return self.peak - self.start


@dataclass(frozen=True)
class Simulated:
    """One file on the simulated ARM CPU, one thread, one image at a time.

    `load` is loading the file, `first` the first run, `run` a later one; `traffic` belongs to that run, None where the
    run was too long to look at every access. `parity` compares the answers with the same file's on this machine.
    `emulator` names QEMU's version and the counter's hash: counts of different ones are not to be compared.
    """

    network: str
    format: str
    sha256: str
    bytes: int
    device: Device
    runtime: str
    runtime_version: str
    emulator: str
    input_shape: tuple[int, ...]
    images: int
    load: Counts
    first: Counts
    run: Counts
    traffic: Traffic | None
    memory: Allocations
    parity: Parity
    measured_at: str
    note: str = ""

    @staticmethod
    def from_fields(values: Mapping[str, Any]) -> Simulated:
        """The row whose fields these are, as JSON gives them back. KeyError or TypeError where it is none."""
        nested = {
            "device": Device(**values["device"]),
            "input_shape": tuple(map(int, values["input_shape"])),
            "load": Counts(**values["load"]),
            "first": Counts(**values["first"]),
            "run": Counts(**values["run"]),
            "traffic": None if values["traffic"] is None else Traffic(**values["traffic"]),
            "memory": Allocations(**values["memory"]),
            "parity": Parity(**values["parity"]),
        }
        return Simulated(**{**values, **nested})
