"""The runtimes' Android libraries (.aar files): which releases, from where, and what is in them."""

from __future__ import annotations

import shutil
import tarfile
import tomllib
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from bench.measurement import BenchError
from bench.runner.bundle import weigh
from bench.runner.versions import HERE

ABI = "arm64-v8a"
Do = Callable[[list[str], str], None]
"""Runs a command and says what for; raises BenchError where it fails."""


@dataclass(frozen=True)
class Library:
    """One runtime for Android. `version` is what an app takes, `built` what this build takes, "" where it has none.

    `files` are what it comes in, by name, with the sha256 of each: paths in the npm package that `npm` names, or what
    android_app/tools/pom.xml brings from Maven Central.
    """

    format: str
    package: str
    version: str
    built: str = ""
    npm: str = ""
    files: Mapping[str, str] = field(default_factory=dict)


def libraries() -> tuple[Library, ...]:
    """The app lane of versions.toml."""
    row = tomllib.loads((HERE / "versions.toml").read_text(encoding="utf-8"))["app"]
    return tuple(Library(form, **fields) for form, fields in row.items())


def unpack(library: Library, fetched: Path, aars: Path, do: Do) -> None:
    """Brings the library's classes and its libraries for ARM to aars/FORMAT: what an .aar calls classes.jar takes the
    .aar's own name there. BenchError if a file is not the pinned one."""
    folder = aars / library.format
    stamp, pins = folder / "sha256", "".join(f"{sha256}  {name}\n" for name, sha256 in library.files.items())
    if stamp.exists() and stamp.read_text() == pins:
        return
    _from_npm(library, fetched, do)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for name, wanted in library.files.items():
        _, found = weigh(fetched / Path(name).name)
        if found != wanted:
            raise BenchError(
                f"{library.package} {library.built} is not the library that versions.toml pins: the sha256 of {name} "
                f"is {found}, and {wanted} was wanted; look at what changed before you change the pin"
            )
        _place(fetched / Path(name).name, folder)
    stamp.write_text(pins)


def _place(file: Path, folder: Path) -> None:
    if file.suffix != ".aar":
        shutil.copy(file, folder / file.name)
        return
    with zipfile.ZipFile(file) as archive:
        for name in archive.namelist():
            if name == "classes.jar" or (name.startswith(f"jni/{ABI}/") and name.endswith(".so")):
                own = f"{file.stem}.jar" if name == "classes.jar" else Path(name).name
                (folder / own).write_bytes(archive.read(name))


def _from_npm(library: Library, fetched: Path, do: Do) -> None:
    """The files of the npm package in `fetched`, where one of them is missing or another one."""
    members = {name: fetched / Path(name).name for name in library.files if name.startswith("package/")}
    if all(file.exists() and weigh(file)[1] == library.files[name] for name, file in members.items()):
        return
    work = fetched / "npm"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    do(["npm", "pack", "--silent", "--pack-destination", str(work), library.npm], f"fetching {library.npm}")
    (packed,) = work.glob("*.tgz")
    with tarfile.open(packed) as archive:
        for name, file in members.items():
            content = archive.extractfile(name) if name in archive.getnames() else None
            if content is None:
                raise BenchError(f"{library.npm} has no {name}; look where it went")
            with file.open("wb") as target:
                shutil.copyfileobj(content, target)
    shutil.rmtree(work)
