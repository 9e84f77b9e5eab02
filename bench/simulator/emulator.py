"""Runs one program of the runner's bundle under QEMU, counted, in a place where nothing differs from run to run."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Literal

from bench.host.facts import pick_cores
from bench.measurement import Allocations, BenchError, Counts, Traffic
from bench.runner.bundle import BUILD, LOADER, Bundle
from bench.runner.protocol import RunnerAnswer, parse
from bench.simulator.build import CLOCK, FOLDER, MANIFEST, PLUGIN, TICKS, is_built
from bench.simulator.cores import Core
from exporters.artifact import Artifact, size_and_sha256

QEMU = "qemu-aarch64"
PACKAGE = "apt-get install qemu-user"
OLDEST = (7, 2)
START, LOADED, FIRST, RUN_BEGIN, RUN_END = 1, 2, 3, 4, 5
Way = Literal["counted", "plain", "profile"]
# The cache model looks at the last two runs: one fills the caches, one is measured.
LOOKED_AT = 2
MOST_INSTRUCTIONS = 2_000_000_000


@dataclass(frozen=True)
class Emulator:
    """The installed QEMU and the built plugin, both checked."""

    program: str
    version: str
    folder: Path

    @property
    def plugin(self) -> Path:
        return self.folder / PLUGIN

    @property
    def identity(self) -> str:
        """All that decides the counts beside the bundle: QEMU's version, and a hash of the counter and its clock."""
        return f"QEMU {self.version}, counter {size_and_sha256(self.folder / MANIFEST)[1][:12]}"


@dataclass(frozen=True)
class Machine:
    """All that decides the counts of a file: the emulator, the programs that it runs, the core that it shows them."""

    emulator: Emulator
    bundle: Bundle
    core: Core


@dataclass(frozen=True)
class Trace:
    """The answer of one process and its counts."""

    answer: RunnerAnswer
    load: Counts
    first: Counts
    run: Counts
    traffic: Traffic | None
    memory: Allocations


def find(folder: Path = FOLDER) -> Emulator:
    """The emulator of this machine. BenchError names the package or the command that mends what is missing."""
    program = shutil.which(QEMU)
    if program is None:
        raise BenchError(f"the simulated ARM CPU runs in QEMU, and {QEMU} is missing: {PACKAGE}")
    output = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
    found = re.search(r"version (\d+)\.(\d+)(\.\d+)?", output)
    if found is None or (int(found[1]), int(found[2])) < OLDEST:
        version = found[0] if found else "one of no known version"
        raise BenchError(f"the simulated ARM CPU needs QEMU 7.2 or later, and {program} is {version}: {PACKAGE}")
    if not (folder / MANIFEST).exists():
        raise BenchError(f"the simulated ARM CPU's counter is not built; {BUILD}")
    if not is_built(folder):
        raise BenchError(f"the simulated ARM CPU's counter in {folder} is not built from these sources; {BUILD}")
    return Emulator(program, found[0].removeprefix("version "), folder)


def trace(machine: Machine, form: str, model: Path, images: Sequence[Path], shape: str, timeout: float) -> Trace:
    """Loads the model, a file of the format `form`, and runs it on each image, counted.

    BenchError if the program fails, dies, or takes longer than `timeout` seconds.
    """
    with _place(machine, model, images) as folder:
        answer = _answer(command(machine, form, len(images), shape), folder, model.name, timeout)
        return _trace(answer, (folder / "counts").read_text(), machine.core)


def profile_file(
    machine: Machine, artifact: Artifact, images: Sequence[Path], shape: str, timeout: float, into: Path
) -> RunnerAnswer:
    """Runs the file with its engine's own profiler, whose clock tells instructions, and leaves the profile at `into`.

    BenchError as `trace` gives it.
    """
    with _place(machine, artifact.path, images) as folder:
        words = command(machine, artifact.format, len(images), shape, "profile")
        answer = _answer(words, folder, artifact.path.name, timeout)
        shutil.move(folder / "profile", into)
        return answer


@contextmanager
def _place(machine: Machine, model: Path, images: Sequence[Path]) -> Iterator[Path]:
    """A folder in which everything has the same name wherever it really lies: paths are part of a program's memory."""
    with tempfile.TemporaryDirectory(prefix="arm-") as place:
        folder = Path(place)
        targets = {
            "bundle": machine.bundle.path,
            "root": machine.emulator.folder / machine.core.name,
            **{library: machine.emulator.folder / library for library in (PLUGIN, CLOCK, TICKS)},
            "model": model,
            **{f"image{index}": image for index, image in enumerate(images)},
        }
        for name, target in targets.items():
            (folder / name).symlink_to(target.resolve())
        yield folder


def _answer(words: Sequence[str], folder: Path, name: str, timeout: float) -> RunnerAnswer:
    """The answer of the program that the words start. BenchError if it dies, or takes longer than `timeout` seconds."""
    try:
        # No environment: QEMU takes settings from it, and hands it on to the guest's libraries.
        done = subprocess.run(words, cwd=folder, env={}, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired:
        raise BenchError(
            f"{name} was not simulated: it may take {timeout:g} s, and took longer; take a smaller network, or raise "
            "the schedule's timeout_seconds"
        ) from None
    if done.stdout.strip():
        return parse(done.stdout, name)
    status = done.returncode
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
    said = [line for line in done.stderr.splitlines() if line.strip()]
    last = f"its last line was {said[-1].strip()!r}" if said else "it said nothing"
    raise BenchError(
        f"{name} was not simulated: its process {how}; {last}; look whether `make runner` builds what is installed"
    )


def command(machine: Machine, form: str, images: int, shape: str, way: Way = "counted") -> list[str]:
    """The words that run the model in a folder as `trace` prepares it: counted, plain (QEMU alone) or profiled.

    Addresses are not randomized; there is one core, one seed, and a clock that does not depend on the machine's.

    Every image is answered once; where that is not enough runs for the cache model, more follow.
    """
    core, program = machine.core, machine.bundle.engines[form].program
    more = max(0, LOOKED_AT + 1 - images)
    (pinned,) = pick_cores(1) or (0,)
    host = ["setarch", "-R", "taskset", "-c", str(pinned), machine.emulator.program]
    guest = ["-cpu", core.name, "-seed", "0", "-L", "root"]
    if way == "counted":
        # The cache model looks from this marked run on.
        caches = f"l1={core.l1.bytes}:{core.l1.ways},l2={core.l2.bytes}:{core.l2.ways},line={core.line}"
        counter = f"{caches},from={images + more - LOOKED_AT},most={MOST_INSTRUCTIONS}"
        guest += ["-plugin", f"./{PLUGIN},out=counts,{counter}"]
    elif way == "profile":
        guest += ["-plugin", f"./{PLUGIN},out=counts,ticks=ticks"]
    clock = TICKS if way == "profile" else CLOCK
    loader = [f"bundle/{LOADER}", "--library-path", "bundle/lib", "--preload", f"./{clock}", f"bundle/{program}"]
    inputs = [word for index in range(images) for word in ("--input", f"image{index}")]
    schedule = ["--warmup-runs", "0", "--warmup-seconds", "0", "--min-runs", str(more), "--min-seconds", "0"]
    profile = ["--profile", "profile"] if way == "profile" else []
    return [*host, *guest, *loader, "--model", "model", *inputs, "--shape", shape, *schedule, *profile]


def _trace(answer: RunnerAnswer, text: str, core: Core) -> Trace:
    """The counts between marks: the first of each phase, and the last run from its beginning to its end."""
    marks = [json.loads(line) for line in text.splitlines()]
    at = {mark["phase"]: mark for mark in reversed(marks)}
    begin = [mark for mark in marks if mark["phase"] == RUN_BEGIN][-1]
    end = [mark for mark in marks if mark["phase"] == RUN_END][-1]
    if marks[-1]["threads"] != 1:
        raise BenchError(
            f"the runner started {marks[-1]['threads']} threads, and counts are exact for one only; look at what the "
            "engine does with --threads 1"
        )
    levels = ("l1_misses", "l2_misses", "l2_written_back")
    traffic = {level: end[level] - begin[level] for level in levels if level in begin}
    return Trace(
        answer=answer,
        load=_counts(at[LOADED]) - _counts(at[START]),
        first=_counts(at[FIRST]) - _counts(at[LOADED]),
        run=_counts(end) - _counts(begin),
        traffic=Traffic(core.line, **traffic) if traffic else None,
        memory=Allocations(
            start=at[START]["anonymous"] // 1024,
            peak=marks[-1]["anonymous_peak"] // 1024,
            mapped_peak=marks[-1]["file_peak"] // 1024,
        ),
    )


def _counts(mark: Mapping[str, int]) -> Counts:
    return Counts(**{field.name: mark[field.name] for field in fields(Counts)})
