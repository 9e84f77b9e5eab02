"""`compress-export devices`: where files can be measured from here, and what to do about an unusable phone."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table
from rich.text import Text

from bench import adb
from bench.devices import DEVICES
from bench.measurement import BenchError, Device
from bench.phone_facts import read_facts, read_warmth
from bench.phone_store import HOME, remove
from compress_export.voice import console, tell

COLUMNS = ("--device", "which", "what", "state")


def show_devices() -> None:
    """Prints a line for each phone, usable or not, and for each other device."""
    rows = [*_phones(), *_others()]
    tell([dict(zip(COLUMNS, row, strict=True)) for row in rows], lambda: _draw(rows))


def _draw(rows: list[tuple[str, str, str, str]]) -> None:
    table = Table(title="Where files can be measured", title_justify="left")
    for name in COLUMNS:
        table.add_column(name)
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
    """What a phone is, and how it does."""
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


def _others() -> Iterator[tuple[str, str, str, str]]:
    for name, engine in DEVICES.items():
        if name == "phone":
            continue
        try:
            device = engine.describe()
            yield name, device.name, _described(device), "ready"
        except BenchError as error:
            yield name, engine.title, "", str(error)


def _described(device: Device) -> str:
    pages = "" if device.page_bytes is None else f", pages of {device.page_bytes} bytes"
    name = f"{device.name}, " if device.kind == "phone" else ""
    cores = f"{device.cores} core{'s' if device.cores > 1 else ''}"
    return f"{name}{device.cpu}, {cores}, {device.os}{pages}"
