"""Measurements: frozen values, and one JSON line each in `measurements.jsonl`.

The samples are stored; `bench.statistics` derives every figure from them, so a line can be reported anew without a
new run. "Not measured" is a value as well (NotMeasured): it is never an empty cell and never a passed check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal, get_args

import msgspec

from exporters.artifact import Parity, write_whole

Kind = Literal["host", "phone", "simulated"]
KINDS: tuple[str, ...] = get_args(Kind)

PROCESSES = ("shell", "app", "app_process")
"""Inside what a phone runs files; `bench.phone.measure.PLACES` has the same names, and a test compares the two."""


class BenchError(RuntimeError):
    """A file that cannot be measured, or measurements that cannot be compared; the text names the cure.

    `rows` are those measured before it, where a device keeps them.
    """

    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Device:
    """The device on which a file ran. Figures of different kinds never stand in one ranking.

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
        # rows of versions that knew no app are of the shell
        object.__setattr__(self, "process", self.process or ("shell" if self.kind == "phone" else ""))


def process_said(process: str) -> str:
    """The words after a device's kind: ", app"; nothing for the shell, where phones are measured by default."""
    return f", {process}" if process not in ("", "shell") else ""


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
    """Lines that one run moves between the levels of the core's cache model, of `line_bytes` bytes each."""

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
        """Memory that loading and running the file adds at its peak, mapped files apart."""
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


MEASURED, NOT_MEASURED, SIMULATED = "measured", "not measured", "simulated"


@dataclass(frozen=True)
class Schedule:
    """The number of a file's runs, and their time.

    Warm-up: at least `warmup_runs` runs and `warmup_seconds`. Measured: at least `runs` runs and `seconds` for each
    file, cut into two blocks for each of `rounds` rounds, because the files of one format take turns (A B B A).
    `settle_runs` runs open each block untimed: the other file has just filled the caches.
    `cap_seconds` is about the longest that the warm-up, and again the measured runs, of one file may take: a slow
    network gets fewer runs and rounds, and its note says so. `timeout_seconds` is the longest wait for any one step.
    `cores` are the cores to run on (as many as `threads`); None leaves the choice to the device. `cluster` names a
    phone's cores instead: big, middle, little, or a hexadecimal mask. `cool_seconds` is the longest wait for a phone to
    cool down before one of its processes.
    """

    threads: int = 1
    warmup_runs: int = 10
    warmup_seconds: float = 0.5
    runs: int = 50
    seconds: float = 1.0
    rounds: int = 8
    settle_runs: int = 1
    cap_seconds: float = 30.0
    timeout_seconds: float = 300.0
    cores: tuple[int, ...] | None = None
    cluster: str | None = None
    cool_seconds: float = 180.0

    @property
    def process_seconds(self) -> float:
        """The longest wait for a process that loads a file, warms it up and measures it."""
        return 2 * self.cap_seconds + self.timeout_seconds

    def __post_init__(self) -> None:
        for name, least in (("threads", 1), ("runs", 1), ("rounds", 1), ("warmup_runs", 0), ("settle_runs", 0)):
            if getattr(self, name) < least:
                raise BenchError(f"a schedule's {name} is {least} or more, not {getattr(self, name)}")
        for name in ("cap_seconds", "timeout_seconds"):
            if getattr(self, name) <= 0:
                raise BenchError(f"a schedule's {name} is more than 0, not {getattr(self, name)}")
        if self.cores is not None and len(set(self.cores)) != self.threads:
            raise BenchError(
                f"a schedule names one core for each thread: {self.threads} thread(s), but cores "
                f"{', '.join(map(str, self.cores)) or 'none'}; name {self.threads} different core(s), or none at all"
            )


@dataclass(frozen=True)
class Memory:
    """A process's memory at one moment, in kB, from /proc/self/status and smaps_rollup; None where there is no /proc.

    `peak` is VmHWM, `resident` VmRSS, `anonymous` RssAnon, `file` RssFile (mapped files, the program's code among
    them), `proportional` Pss (pages that several processes share are counted in parts).
    """

    peak: int | None = None
    resident: int | None = None
    anonymous: int | None = None
    file: int | None = None
    proportional: int | None = None


@dataclass(frozen=True)
class MemoryPhases:
    """Memory with the runtime imported and no model (`start`), after loading, after the first run, and at the end."""

    start: Memory
    loaded: Memory
    first: Memory
    end: Memory

    @property
    def model_peak(self) -> int | None:
        """The model's own peak in kB: VmHWM at the end minus VmRSS at the start.

        That is what loading and running this file adds to a process that has the runtime already: weights, packed
        weights, activations, and library code that only this file touches. It includes the peak while loading, when
        the file and the packed copy of its weights may both be held. The runtime, Python and the images are not in it.
        None where /proc does not tell, or where importing the runtime took more than the model ever did and the
        kernel would not reset the peak.
        """
        peak, start, imports = self.end.peak, self.start.resident, self.start.peak
        if peak is None or start is None or imports is None:
            return None
        return None if peak == imports > start else peak - start


@dataclass(frozen=True)
class Process:
    """One process among several that measured a file on a phone, and how warm the phone was before it.

    `turn` is its block's. `thermal_status` is Android's, 0 to 6; None where the phone does not tell.
    """

    turn: int
    load_ms: float
    first_ms: float
    mhz_before: float | None
    mhz_after: float | None
    thermal_status: int | None
    battery_celsius: float | None


@dataclass(frozen=True)
class Block:
    """Runs made without a break, in ms and in order. `turn` is the block's place among all blocks of its session."""

    turn: int
    samples_ms: tuple[float, ...]


@dataclass(frozen=True)
class Measurement:
    """One file on one device: every run's time, the memory, and all that a reader needs to judge or repeat it.

    Times are ms of wall clock around one call with one image (`input_shape`), input conversion included.
    `session` is shared by the files that took turns with one another: only these have a time ratio.
    `load_ms` is the time to load the file while it lies in the page cache; `first_ms` is the first run.
    `pinned_cores` and the frequencies are None where the system does not allow or tell. `preemptions` counts how
    often another process took the core during the measured blocks; `load_average` is the system's (1 minute) before.
    `processes` is one for each block where every block had a process of its own (phones); `invalid` says why the times
    are not to be used, `parity` how near the file's answers on the device were to its own on the host.
    """

    network: str
    format: str
    sha256: str
    bytes: int
    device: Device
    runtime: str
    runtime_version: str
    schedule: Schedule
    threads: int
    pinned_cores: tuple[int, ...] | None
    input_shape: tuple[int, ...]
    images: int
    load_ms: float
    first_ms: float
    blocks: tuple[Block, ...]
    memory: MemoryPhases
    session: str
    measured_at: str
    mhz_before: float | None = None
    mhz_after: float | None = None
    preemptions: int | None = None
    load_average: float | None = None
    note: str = ""
    processes: tuple[Process, ...] = ()
    invalid: str = ""
    parity: Parity | None = None

    @property
    def samples_ms(self) -> tuple[float, ...]:
        """Every measured run in the order in which they were made; the first run and the warm-up are not among them."""
        return tuple(sample for block in self.blocks for sample in block.samples_ms)


@dataclass(frozen=True)
class NotMeasured:
    """A file that this device cannot measure, with the reason: the third verdict beside passed and failed."""

    network: str
    format: str
    sha256: str
    device: Device
    reason: str


Row = Measurement | NotMeasured | Simulated


ROWS: dict[str, type[Row]] = {MEASURED: Measurement, NOT_MEASURED: NotMeasured, SIMULATED: Simulated}
"""The kind of row that each verdict stands for."""


class _Verdict(msgspec.Struct):
    verdict: str


def to_line(row: Row) -> str:
    """The row as one line of JSON with a line end; its key `verdict` says which of the three it is."""
    verdict = next(name for name, kind in ROWS.items() if kind is type(row))
    return json.dumps({"verdict": verdict, **msgspec.to_builtins(row)}) + "\n"


def from_line(line: str, where: str = "line") -> Row:
    """The row that `to_line` wrote, of this version or an older one. BenchError, with `where`, on anything else."""
    try:
        verdict = msgspec.json.decode(line, type=_Verdict).verdict
        if verdict not in ROWS:
            raise BenchError(f"its verdict is {verdict!r}, not {MEASURED!r}, {SIMULATED!r} or {NOT_MEASURED!r}")
        return msgspec.json.decode(line, type=ROWS[verdict])
    except (msgspec.MsgspecError, BenchError) as error:
        raise BenchError(
            f"{where} is not a measurement: {type(error).__name__}: {error}; measure again, or take the line out"
        ) from error


def append(path: Path, rows: Iterable[Row]) -> None:
    """Adds one line for each row to the file at `path`, which may be new; all of them or none."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_whole(path, before + "".join(map(to_line, rows)))


def read(path: Path) -> tuple[Row, ...]:
    """The rows of a `measurements.jsonl`, in order. BenchError names the line that cannot be read."""
    lines = path.read_text(encoding="utf-8").splitlines()
    return tuple(from_line(line, f"{path}, line {number},") for number, line in enumerate(lines, 1) if line.strip())
