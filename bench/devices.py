"""DEVICES: where a file can be measured. A new device is one file with these three functions, and one row here.

`find` gives one of them by its name, `choose` the one that a run takes unless it is told, `name_of` the name again.
A device's modules are imported when one of its functions is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Protocol

from bench.measurement import PROCESSES, BenchError, Device, Row, Schedule
from exporters.artifact import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bench.profile.measure import Profiler


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
class DeviceFunctions:
    """The functions that measure files on one device (`measure`), name the device that is there right now (`describe`),
    and time each operator of a file there (`profile`).

    `describe` raises BenchError where nothing can be measured there, and says what is missing.
    """

    measure: Measure
    describe: Callable[[], Device]
    profile: Profiler


@dataclass(frozen=True)
class DeviceEngine:
    """A device by its title, and its functions, whose modules `load` imports."""

    title: str
    load: Callable[[], DeviceFunctions]

    @property
    def measure(self) -> Measure:
        return self.load().measure

    @property
    def describe(self) -> Callable[[], Device]:
        return self.load().describe

    @property
    def profile(self) -> Profiler:
        return self.load().profile


def _host() -> DeviceFunctions:
    from bench.host import facts, measure
    from bench.profile.measure import profile_here

    return DeviceFunctions(measure.measure, facts.describe, profile_here)


def _simulated(core: str) -> DeviceFunctions:
    from bench.profile.measure import profile_on
    from bench.simulator import measure as arm

    return DeviceFunctions(arm.measure_on(core), arm.describe_as(core), profile_on(core))


def _phone(serial: str | None = None, inside: str = "shell") -> DeviceFunctions:
    from bench.phone import measure as phone
    from bench.profile.measure import profile_on_phone

    opened = phone.PLACES[inside]
    return DeviceFunctions(
        measure=partial(phone.measure_in, opened, serial=serial),
        describe=partial(phone.describe_in, opened, serial),
        profile=partial(profile_on_phone, serial=serial, inside=inside),
    )


SIMULATED = {"arm": "cortex-a76", "arm-a72": "cortex-a72", "arm-a53": "cortex-a53"}
"""The simulated core of each device that is one."""

DEVICES: dict[str, DeviceEngine] = {
    "host": DeviceEngine("this machine", _host),
    **{name: DeviceEngine(f"simulated {core.title()}", partial(_simulated, core)) for name, core in SIMULATED.items()},
    "phone": DeviceEngine("a phone over adb", _phone),
}


def find(name: str, serial: str | None = None, inside: str = "shell") -> DeviceEngine:
    """The device of that name; `serial` tells which phone, `inside` is one of PROCESSES. BenchError for others."""
    if name not in DEVICES:
        raise BenchError(f"there is no device {name!r}; choose among {', '.join(DEVICES)}")
    if inside not in PROCESSES:
        raise BenchError(f"a phone runs files in {', '.join(PROCESSES)}, not in {inside!r}; choose one of these")
    if serial is None and inside == "shell":
        return DEVICES[name]
    if name != "phone":
        option = "--serial names a phone" if serial else f"--in {inside} is a place on a phone"
        raise BenchError(f"{option}, and --device {name} is none; leave one of the two out")
    return replace(DEVICES[name], load=partial(_phone, serial, inside))


def name_of(device: Device) -> str:
    """The name in DEVICES of a row's device; its kind where no simulated core of ours is meant."""
    return next((name for name, core in SIMULATED.items() if device.cpu == core), device.kind)


def choose() -> tuple[str, str]:
    """The device of a run that names none, and why: a connected phone, else the host.

    Never the simulated ARM CPU, which takes minutes for a large network; where it could count, that is said. BenchError
    if several phones are connected: which one is the user's to say.
    """
    no_phone = _phone_missing()
    if not no_phone:
        return "phone", "it is connected"
    counts = "" if _missing("arm") else "; --device arm counts instructions of a phone's core"
    return "host", no_phone + counts


def _phone_missing() -> str:
    from bench.phone import adb

    if not adb.installed():
        return "no phone can be looked for without adb (apt-get install adb)"
    phones = adb.listed()
    if not phones:
        return "no phone is connected"
    adb.single(phones)
    return _missing("phone")


def _missing(name: str) -> str:
    """The reason why the device cannot be used; empty where it can."""
    try:
        DEVICES[name].describe()
    except BenchError as error:
        return str(error)
    return ""
