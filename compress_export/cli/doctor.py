"""`compress-export doctor`: what this machine can do, and the command that adds what is missing."""

from __future__ import annotations

import functools
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bench.devices import DEVICES
from bench.measurement import BenchError, Device
from bench.phone import adb
from bench.phone.facts import read_facts, read_warmth
from bench.phone.storage import HOME, remove
from bench.runner.bundle import MANIFEST, ROOT
from bench.simulator.emulator import find
from compress_export.console import console, print_result
from exporters.formats import FORMATS

COLUMNS = ("--device", "which", "what", "state")


def show_devices() -> None:
    """Prints a line for each phone, usable or not, and for each other device."""
    rows = list(_phones())
    for name, engine in DEVICES.items():
        if name == "phone":
            continue
        try:
            device = engine.describe()
            rows.append((name, device.name, _described(device), "ready"))
        except BenchError as error:
            rows.append((name, engine.title, "", str(error)))
    show = functools.partial(_print_table, "Where files can be measured", COLUMNS, rows)
    print_result([dict(zip(COLUMNS, row, strict=True)) for row in rows], show)


def _print_table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    table = Table(*head, title=title, title_justify="left")
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    console().print(table)


def clean_phones() -> None:
    """Removes everything of ours from each usable phone, and says so."""
    for each in adb.listed():
        if each.ready:
            remove(adb.Phone(each.serial))
            console().print(Text(f"{each.serial}: {HOME} is removed"))
        else:
            console().print(Text(f"{each.serial}: not cleaned, it is {each.state}: {each.trouble}"))


def _phones() -> Iterator[tuple[str, str, str, str]]:
    if not adb.installed():
        yield "phone", "", "", "no adb to look for phones with: apt-get install adb"
        return
    listed = adb.listed()
    for each in listed:
        try:
            yield ("phone", each.serial, *_phone(each))
        except BenchError as error:
            yield "phone", each.serial, each.model, str(error)
    if not listed:
        yield "phone", "", "", "none is connected"


def _phone(listed: adb.Listed) -> tuple[str, str]:
    """The phone, and its state."""
    if not listed.ready:
        return listed.model, f"{listed.state}: {listed.trouble}"
    phone = adb.Phone(listed.serial)
    facts, warmth = read_facts(phone), read_warmth(phone)
    state = [
        f"{each.name}: {len(each.cores)} at {each.mhz:.0f} MHz (cores {', '.join(map(str, each.cores))})"
        for each in reversed(facts.clusters)
    ]
    if warmth.battery_celsius is not None:
        state.append(f"battery {warmth.battery_percent} %, {warmth.battery_celsius:.1f} C")
    state.append("thermal status unknown" if warmth.status is None else f"thermal status {warmth.status}")
    return _described(facts.device), "; ".join(state)


def _described(device: Device) -> str:
    pages = "" if device.page_bytes is None else f", pages of {device.page_bytes} bytes"
    name = f"{device.name}, " if device.kind == "phone" else ""
    cores = f"{device.cores} core{'s' if device.cores > 1 else ''}"
    return f"{name}{device.cpu}, {cores}, {device.os}{pages}"


FREE_GB = MEMORY_GB = 4


@dataclass(frozen=True)
class Finding:
    """One ability: whether this machine has it, what was found, and the command that adds it if it is missing.

    `needed` is False for what only some commands use: its absence is no fault.
    """

    ability: str
    ready: bool
    found: str
    cure: str
    needed: bool = True


def examine() -> bool:
    """Prints every finding; True if nothing that is needed is missing."""
    findings = list(findings_here())
    rows = [
        (
            "yes" if finding.ready else ("NO" if finding.needed else "no"),
            finding.ability,
            finding.found,
            "" if finding.ready else finding.cure,
        )
        for finding in findings
    ]
    show = functools.partial(_print_table, "What this machine can do", ("", "ability", "found", "to add it"), rows)
    print_result([asdict(finding) for finding in findings], show)
    return all(finding.ready or not finding.needed for finding in findings)


def findings_here() -> Iterable[Finding]:
    """Every finding on this machine; each package is looked up, none is imported."""
    yield _package("train and compress", ("torch", "torchvision"))
    for name, form in FORMATS.items():
        yield _package(f"write .{name} ({form.title})", form.writer.REQUIRES)
        if not form.runs_here:
            yield Finding(f"run .{name}", False, form.interpreted, "run `compress-export bench` on a Mac", needed=False)
    yield _package("networks timm:NAME", ("timm",), needed=False)
    ability = "count on a simulated ARM CPU"
    try:
        yield Finding(ability, True, find().identity, "", needed=False)
    except BenchError as error:
        # The sentence ends with a cure of its own; `make runner` is the one for all that may be missing.
        yield Finding(ability, False, str(error).partition(";")[0], "make runner", needed=False)
    ability, found = "measure on a phone", shutil.which("adb")
    if found is None:
        yield Finding(ability, False, "nothing", "apt-get install adb", needed=False)
    elif not (ROOT / "aarch64" / MANIFEST).exists():
        yield Finding(ability, False, f"{found}, but no runner to push", "make runner", needed=False)
    else:
        yield Finding(ability, True, f"{found}, and the runner", "", needed=False)
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    cure = "free some, or pass --runs on another disk"
    yield Finding("keep runs here", free >= FREE_GB, f"{free:.0f} GB free, {FREE_GB} GB wanted", cure)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cure = "take a machine with more; an AlexNet needs 3 GB at its peak"
    yield Finding("hold AlexNet", total >= MEMORY_GB, f"{total:.0f} GB of memory", cure)
    ability, affinity = "pin a measurement to a core", getattr(os, "sched_getaffinity", None)
    if affinity is None:
        yield Finding(ability, False, "this system cannot pin", "measure on Linux", needed=False)
    else:
        yield Finding(ability, True, f"{len(affinity(0))} cores", "")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "of no known version"


def _package(ability: str, names: Iterable[str], needed: bool = True) -> Finding:
    # a package's module is called like it, but for what an identifier cannot have
    missing = [name for name in names if find_spec(name.replace("-", "_")) is None]
    found = ", ".join(f"{name} {_version(name)}" for name in names if name not in missing)
    return Finding(ability, not missing, found or "nothing", f"pip install {' '.join(missing)}", needed)
