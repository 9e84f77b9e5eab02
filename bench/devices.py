"""DEVICES: where a file can be measured. A new device is one file with these two functions, and one line here.

`find` gives one of them by its name, `choose` the one that a run takes unless it is told, `name_of` the name again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from bench.host import facts as host_facts
from bench.host import measure as host
from bench.measurement import BenchError, Device, Row, Schedule
from bench.phone import adb
from bench.phone import measure as phone
from bench.profile import measure as profilers
from bench.simulator import measure as arm
from exporters.artifact import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Measure(Protocol):
    """One row for each artifact, in the order given; `bench.host.measure.measure` says what the arguments are."""

    def __call__(
        self,
        artifacts: Sequence[Artifact],
        images: NDArray[np.float32],
        schedule: Schedule | None = None,
        progress: Callable[[int, int, str], None] = ...,
    ) -> tuple[Row, ...]: ...


@dataclass(frozen=True)
class DeviceEngine:
    """How files are measured on one device (`measure`), which device that is right now (`describe`), and what each
    of their operators takes there (`profile`).

    `describe` raises BenchError where nothing can be measured there, and says what is missing.
    """

    title: str
    measure: Measure
    describe: Callable[[], Device]
    profile: profilers.Profiler


SIMULATED = {"arm": "cortex-a76", "arm-a72": "cortex-a72", "arm-a53": "cortex-a53"}
"""The simulated core of each device that is one."""


def _simulated(core: str) -> DeviceEngine:
    title = f"simulated {core.title()}"
    return DeviceEngine(title, arm.measure_on(core), arm.describe_as(core), profilers.profile_on(core))


DEVICES: dict[str, DeviceEngine] = {
    "host": DeviceEngine("this machine", host.measure, host_facts.describe, profilers.profile_here),
    **{name: _simulated(core) for name, core in SIMULATED.items()},
    "phone": DeviceEngine("a phone over adb", phone.measure, phone.describe, profilers.profile_on_phone),
}


def find(name: str, serial: str | None = None, inside: str = "shell") -> DeviceEngine:
    """The device of that name; `serial` tells which phone, `inside` is one of phone.PLACES. BenchError for others."""
    if name not in DEVICES:
        raise BenchError(f"there is no device {name!r}; choose among {', '.join(DEVICES)}")
    if inside not in phone.PLACES:
        raise BenchError(f"a phone runs files in {', '.join(phone.PLACES)}, not in {inside!r}; choose one of these")
    if serial is None and inside == "shell":
        return DEVICES[name]
    if name != "phone":
        option = "--serial names a phone" if serial else f"--in {inside} is a place on a phone"
        raise BenchError(f"{option}, and --device {name} is none; leave one of the two out")
    opened = phone.PLACES[inside]
    return replace(
        DEVICES[name],
        measure=partial(phone.measure_in, opened, serial=serial),
        describe=partial(phone.describe_in, opened, serial),
        profile=partial(profilers.profile_on_phone, serial=serial, inside=inside),
    )


def name_of(device: Device) -> str:
    """The name in DEVICES of what a row was measured on; its kind where no simulated core of ours is meant."""
    return next((name for name, core in SIMULATED.items() if device.cpu == core), device.kind)


def choose(threads: int = 1) -> tuple[str, str]:
    """Where a run measures unless it is told, and why: a connected phone, else the simulated ARM CPU, else the host.

    The simulated CPU counts one thread. BenchError if several phones are connected: which one is the user's to say.
    """
    no_phone = _phone_missing()
    if not no_phone:
        return "phone", "it is connected"
    no_arm = _missing("arm") if threads == 1 else "the simulated ARM CPU counts one thread"
    if not no_arm:
        return "arm", no_phone
    return "host", f"{no_phone}; {no_arm}"


def _phone_missing() -> str:
    if not adb.installed():
        return "no phone can be looked for without adb (apt-get install adb)"
    phones = adb.listed()
    if not phones:
        return "no phone is connected"
    adb.single(phones)
    return _missing("phone")


def _missing(name: str) -> str:
    """What keeps the device from being used; empty where nothing does."""
    try:
        DEVICES[name].describe()
    except BenchError as error:
        return str(error)
    return ""
