"""Places in which files run on a phone: their protocol, a session's values, and the program of the adb shell."""

from __future__ import annotations

import shutil
import signal
import uuid
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from bench.measurement import BenchError, Device, Schedule
from bench.phone.adb import Answer, Phone, quote
from bench.phone.facts import Facts, Warmth
from bench.phone.storage import HOME, KEPT, Parcel, kept
from bench.runner import bundle as bundles
from bench.runner.bundle import LOADER, Bundle, closure, open_bundle
from bench.runner.protocol import RunnerAnswer, flags, parse
from exporters.artifact import Artifact
from exporters.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


OUTPUTS, PROFILE = "answers/answers.raw", "answers/profile"
"""Files that a run leaves on the phone, relative to HOME."""


@dataclass(frozen=True)
class Session:
    """The setting that all files of one measurement share. `start` is how warm the phone was before the first. `name`
    is that of the files that take turns: those of one format."""

    phone: Phone
    facts: Facts
    place: Place
    schedule: Schedule
    cores: tuple[int, ...] | None
    start: Warmth
    tell: Callable[[str], None]
    name: str = field(default_factory=lambda: uuid.uuid4().hex)
    measured_at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    def renamed(self) -> Session:
        """The same under a name of its own, for the files of another format."""
        return replace(self, name=uuid.uuid4().hex)

    @property
    def device(self) -> Device:
        return replace(self.facts.device, process=self.place.process)


@dataclass(frozen=True)
class PhoneFile:
    """A file on the phone and how it is run: `place` and `images` are relative to HOME, `cores` None is not pinned.
    `reference` are its outputs on this machine; None where they are not compared."""

    artifact: Artifact
    place: str
    images: tuple[str, ...]
    shape: tuple[int, ...]
    cores: tuple[int, ...] | None
    reference: NDArray[np.float32] | None = None
    profile: bool = False

    @property
    def name(self) -> str:
        return self.artifact.path.name


class Place(Protocol):
    """A process on the phone in which files run: a program of the shell, or an app. `process` is its name in a row's
    device. With `wants_reference` each file's outputs on this machine lie beside it on the phone (`.reference`)."""

    @property
    def process(self) -> str: ...

    @property
    def note(self) -> str: ...

    @property
    def wants_reference(self) -> bool: ...

    @property
    def formats(self) -> AbstractSet[str]:
        """The formats that it has an engine for."""
        ...

    def foreign(self, form: str) -> str:
        """The reason that it does not run the others."""
        ...

    def parcels(self, formats: AbstractSet[str]) -> list[Parcel]:
        """The files that have to lie on the phone and stay there."""
        ...

    def prepare(self, phone: Phone, formats: AbstractSet[str]) -> None:
        """Makes what was pushed ready to run."""
        ...

    def run(self, session: Session, file: PhoneFile, turn: int, schedule: Schedule) -> RunnerAnswer:
        """Runs the file once more in a process of its own, which leaves its outputs in OUTPUTS."""
        ...

    def clear(self, phone: Phone) -> None:
        """Removes what it left outside the store."""
        ...


@dataclass(frozen=True)
class Shell:
    """The place of a program that the adb shell starts: the runner of `bundle`."""

    bundle: Bundle
    process: str = "shell"
    note: str = "run by the adb shell, not inside an app"
    wants_reference: bool = False

    @staticmethod
    def open(root: Path | None = None) -> Shell:
        """The runner under `root`. BenchError if there is no whole one."""
        return Shell(open_bundle("aarch64", root or bundles.ROOT))

    @property
    def formats(self) -> AbstractSet[str]:
        return self.bundle.engines.keys()

    def foreign(self, form: str) -> str:
        return f"the runner has no engine for {FORMATS[form].title}; build it anew with `make runner`"

    def parcels(self, formats: AbstractSet[str]) -> list[Parcel]:
        """The bundle's files that these formats need; all of them where nothing here reads what a program is linked
        to. The lite interpreter's library has 195 MB, which nobody waits for who measures an .onnx file."""
        path, files = self.bundle.path, self.bundle.files
        if shutil.which("readelf") is None:
            return kept(path, files)
        programs = [self.bundle.engines[name].program for name in sorted(formats)]
        libraries = closure([path / program for program in programs], [path / "lib"])
        needed = {LOADER, *programs, *(f"lib/{library.name}" for library in libraries.values())}
        return kept(path, {name: file for name, file in files.items() if name in needed})

    def prepare(self, phone: Phone, formats: AbstractSet[str]) -> None:
        """Nothing: what was pushed can be run."""

    def run(self, session: Session, file: PhoneFile, turn: int, schedule: Schedule) -> RunnerAnswer:
        """Runs the file once more in a process of its own, which leaves its outputs in OUTPUTS, and the engine's
        profile in PROFILE where the file asks for one.

        PhoneLost if the phone goes away; BenchError if the process fails, is killed, or does not end in time.
        """
        del turn
        phone, name = session.phone, f"{file.name} on phone {session.phone.serial}"
        program = self.bundle.engines[file.artifact.format].program
        words = [f"./{KEPT}{LOADER}", "--library-path", f"{KEPT}lib", f"./{KEPT}{program}"]
        words += [*flags(file.place, file.shape, file.images, schedule, file.cores), "--outputs", OUTPUTS]
        words += ["--profile", PROFILE] if file.profile else []
        # The runner takes the shell's place, so that its process id is the shell's.
        line = f"cd {HOME} && echo $$ >pid && exec {quote(*words)}"
        answer = phone.start(line, schedule.process_seconds, f"run {name}")
        try:
            if not answer.out.strip():
                raise BenchError(f"{name} was not measured: {death(answer)}")
            return parse(answer.out, name)
        except BenchError:
            # adb's status is 0 when the cable is pulled, and the answer may be half a line.
            phone.check(f"the run of {file.name}")
            raise

    def clear(self, phone: Phone) -> None:
        """Nothing: everything lies in the store."""


def death(answer: Answer) -> str:
    """A sentence on how a process ended that gave no answer. A shell's status above 128 is a signal."""
    said = [line.strip() for line in f"{answer.err}\n{answer.out}".splitlines() if line.strip()]
    words = f"its last line was {said[-1]!r}" if said else "it said nothing"
    number = answer.status - 128
    if number <= 0:
        return f"its process ended with status {answer.status} and no answer; {words}"
    name = signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
    cure = "; Android does that when memory runs out: close apps, or measure a smaller file" * (name == "SIGKILL")
    return f"its process was killed by {name}{cure}; {words}"
