"""Storage on a phone: one folder of ours, a manifest of hashes in it, and only what changed is pushed.

The runner stays for the next time; files to measure, images and outputs are removed at the end of each measurement.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.phone.adb import Phone, quote
from bench.runner.bundle import BundledFile

HOME = "/data/local/tmp/compress-export"
KEPT = "runner/"
MANIFEST = "manifest"


@dataclass(frozen=True)
class Parcel:
    """A file of this machine and the place that it has to have on the phone, relative to HOME."""

    local: Path
    place: str
    bytes: int
    sha256: str


def kept(folder: Path, files: Mapping[str, BundledFile]) -> list[Parcel]:
    """Files of a bundle in `folder`, by the names that they have in it and, among what stays, on the phone."""
    return [Parcel(folder / name, f"{KEPT}{name}", file.bytes, file.sha256) for name, file in files.items()]


class Store:
    """The folder HOME on one phone. Made by `open_store`."""

    def __init__(self, phone: Phone, held: dict[str, tuple[str, int]], named: set[str]) -> None:
        self._phone, self._held, self._named = phone, held, named

    def missing(self, parcels: Iterable[Parcel]) -> list[Parcel]:
        """Those that the phone does not hold yet, or holds with another content."""
        return [parcel for parcel in parcels if self._held.get(parcel.place) != (parcel.sha256, parcel.bytes)]

    def put(self, parcels: Iterable[Parcel]) -> int:
        """Pushes what is missing, and gives the bytes pushed."""
        missing = self.missing(parcels)
        if not missing:
            return 0
        # A push that breaks off must not leave a line that vouches for half a file.
        if self._named & {parcel.place for parcel in missing}:
            self._keep(lambda place: place not in {parcel.place for parcel in missing})
        for parcel in missing:
            self._phone.push(parcel.local, f"{HOME}/{parcel.place}")
            line = f"{parcel.sha256} {parcel.bytes} {parcel.place}"
            self._phone.read(f"echo {quote(line)} >>{HOME}/{MANIFEST}")
            self._held[parcel.place] = parcel.sha256, parcel.bytes
            self._named.add(parcel.place)
        return sum(parcel.bytes for parcel in missing)

    def clear(self) -> None:
        """Ends what still runs, and removes everything but the runner."""
        end_runner(self._phone)
        self._keep(lambda place: place.startswith(KEPT))
        self._phone.read(f"cd {HOME} && rm -rf files images answers pid plan.json")

    def _keep(self, wanted: Callable[[str], bool]) -> None:
        """Writes the manifest anew with the lines that are wanted."""
        self._held = {place: fact for place, fact in self._held.items() if wanted(place)}
        self._named = set(self._held)
        lines = [f"{sha256} {size} {place}" for place, (sha256, size) in self._held.items()]
        self._phone.read(f"mkdir -p {HOME} && cd {HOME} && printf '%s\\n' {quote('', *lines)} >{MANIFEST}")


def open_store(phone: Phone) -> Store:
    """The phone's store, made if it is not there. It holds what its manifest names and is of the size noted there."""
    end_runner(phone)
    listing = phone.read(
        f"mkdir -p {HOME}/answers && cd {HOME} && {{ cat {MANIFEST} 2>/dev/null; echo ==; "
        "find . -type f -exec stat -c '%s %n' {} +; }"
    )
    lines, _, files = listing.replace("\r", "").partition("==\n")
    sizes = {place: int(size) for size, place in re.findall(r"^(\d+) \./(.+)$", files, re.MULTILINE)}
    named = re.findall(r"^([0-9a-f]{64}) (\d+) (.+)$", lines, re.MULTILINE)
    noted = {place: (sha256, int(size)) for sha256, size, place in named}
    held = {place: fact for place, fact in noted.items() if sizes.get(place) == fact[1]}
    return Store(phone, held, set(noted))


def end_runner(phone: Phone) -> None:
    """Ends what a measurement that was cut short left at work: the runner, if it is still the process that was noted,
    and the apps."""
    phone.read(
        f"pid=$(cat {HOME}/pid 2>/dev/null) && grep -q -e run_ -e compressexport /proc/$pid/cmdline 2>/dev/null && "
        "kill -9 $pid; "
        f"rm -f {HOME}/pid; {_for_apps('am force-stop')}"
    )


def remove(phone: Phone) -> None:
    """Removes everything of ours from the phone, the runner and the apps as well."""
    end_runner(phone)
    phone.read(_for_apps("pm uninstall"))
    phone.read(f"rm -rf {HOME}")


def _for_apps(command: str) -> str:
    """A line that runs the command on each app that was installed by us, and still is."""
    # A mark for each: its name without .apk.installed.
    return (
        f'for mark in {HOME}/{KEPT}*.installed; do app="compressexport.$(basename "$mark" .apk.installed)"; '
        f'if [ -e "$mark" ] && pm path "$app" >/dev/null; then {command} "$app"; fi; done'
    )
