"""A session with one phone: which files are measured in it, and one process of the runner."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Protocol

from bench.measurement import Device, Schedule
from bench.phone.adb import Phone
from bench.phone.facts import Facts, Warmth
from bench.phone.storage import Parcel
from bench.runner.answer import RunnerAnswer
from exporters.artifact import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Job:
    """A file on the phone and how it is run: `place` and `images` are relative to HOME, `cores` None is not pinned."""

    name: str
    format: str
    place: str
    images: tuple[str, ...]
    shape: tuple[int, ...]
    cores: tuple[int, ...] | None
    profile: bool = False


class Place(Protocol):
    """Inside what the files run: a program of the shell, or an app. `process` is its name in a row's device.

    With `wants_golden` each file's answers on this machine lie beside it on the phone (`.golden`).
    """

    @property
    def process(self) -> str: ...

    @property
    def note(self) -> str: ...

    @property
    def wants_golden(self) -> bool: ...

    @property
    def formats(self) -> AbstractSet[str]:
        """The formats that it has an engine for."""
        ...

    def foreign(self, form: str) -> str:
        """Why it does not run the others."""
        ...

    def parcels(self, formats: AbstractSet[str]) -> list[Parcel]:
        """What has to lie on the phone and stays there."""
        ...

    def prepare(self, phone: Phone, formats: AbstractSet[str]) -> None:
        """Makes what was pushed ready to run."""
        ...

    def run(self, session: Session, file: PhoneFile, turn: int, schedule: Schedule) -> RunnerAnswer:
        """Runs the file once more in a process of its own, which leaves its answers in ANSWERS."""
        ...

    def clear(self, phone: Phone) -> None:
        """Removes what it left outside the store."""
        ...


@dataclass(frozen=True)
class Session:
    """What all files of one measurement have in common. `start` is how warm the phone was before the first. `name` is
    that of the files that take turns: those of one format."""

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
    """A file that lies on the phone, and what it answers on this machine."""

    artifact: Artifact
    job: Job
    golden: NDArray[np.float32]
