"""The runner's bundle directory, made by `bench.runner.build` and checked before anything in it is run or pushed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.measurement import BenchError
from exporters.artifact import size_and_sha256, write_whole

NEEDED = re.compile(r"\(NEEDED\)\s+Shared library: \[([^]]+)\]")


def closure(programs: Iterable[Path], folders: Sequence[Path]) -> dict[str, Path]:
    """Every library that the programs need, by the name they call it, as far as it lies in the folders."""
    found: dict[str, Path] = {}
    waiting = list(programs)
    while waiting:
        for name in _needed(waiting.pop()):
            place = _find(name, folders)
            if place is not None and name not in found:
                found[name] = place
                waiting.append(place)
    return found


def _needed(path: Path) -> list[str]:
    told = subprocess.run(["readelf", "-d", str(path)], capture_output=True, text=True, check=True)
    return NEEDED.findall(told.stdout)


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    """The library called `name`, or its file with the whole version behind it (wheels hold no links)."""
    for folder in folders:
        for path in (folder / name, *sorted(folder.glob(f"{name}.*"))):
            if path.is_file():
                return path.resolve()
    return None


SCHEMA = 1
MANIFEST = "manifest.json"
LOADER = "lib/ld-linux-aarch64.so.1"
ROOT = Path(__file__).resolve().parents[2] / "build" / "runner"
BUILD = "build it with `make runner`"


@dataclass(frozen=True)
class Program:
    """One program of a bundle and the engine inside it."""

    program: str
    engine: str
    version: str


@dataclass(frozen=True)
class BundledFile:
    """A file of a bundle; `mode` is octal, as chmod takes it."""

    bytes: int
    sha256: str
    mode: str = "755"


@dataclass(frozen=True)
class Bundle:
    """A bundle directory. `engines` goes by format, `files` by path within the directory.

    `abi` is Android's name of the instruction set; `glibc` is the version that the bundle carries, "" where it carries
    none.
    """

    path: Path
    arch: str
    abi: str
    glibc: str
    engines: Mapping[str, Program]
    files: Mapping[str, BundledFile]

    def command(self, form: str) -> list[str]:
        """The words that start the program for files of the format `form`, on the bundle's own architecture."""
        program = str(self.path / self.engines[form].program)
        if LOADER not in self.files:
            return [program]
        return [str(self.path / LOADER), "--library-path", str(self.path / "lib"), program]


def open_bundle(arch: str, root: Path = ROOT) -> Bundle:
    """The bundle for `arch` ("aarch64" or "host"), every file of it checked.

    BenchError if there is none, or if a file is not the one that was built.
    """
    path = root / arch
    if not (path / MANIFEST).exists():
        raise BenchError(f"there is no runner for {arch} in {path}; {BUILD}")
    bundle = read_manifest(path)
    for name, file in bundle.files.items():
        if not (path / name).exists():
            raise BenchError(f"the runner's bundle is not whole: {path / name} is missing; {BUILD}")
        if size_and_sha256(path / name) != (file.bytes, file.sha256):
            raise BenchError(
                f"the runner's bundle is not the one that was built: the sha256 of {path / name} is not "
                f"{file.sha256[:12]}...; {BUILD}"
            )
    return bundle


def read_manifest(path: Path) -> Bundle:
    """The bundle in the directory `path` as its manifest tells it, unchecked. BenchError if it cannot be read."""
    try:
        fields: dict[str, Any] = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if fields["schema"] != SCHEMA:
            raise BenchError(f"its schema is {fields['schema']}, not {SCHEMA}")
        return Bundle(
            path=path,
            arch=fields["arch"],
            abi=fields["abi"],
            glibc=fields["glibc"],
            engines={name: Program(**each) for name, each in fields["engines"].items()},
            files={name: BundledFile(**each) for name, each in fields["files"].items()},
        )
    except (KeyError, TypeError, ValueError, AttributeError, BenchError) as error:
        raise BenchError(f"{path / MANIFEST} is no manifest: {error}; {BUILD}") from error


def write_manifest(bundle: Bundle) -> None:
    """Writes the bundle's manifest into its directory, last of all its files: a bundle with a manifest is whole."""
    fields = {"schema": SCHEMA, "arch": bundle.arch, "abi": bundle.abi, "glibc": bundle.glibc}
    engines = {name: asdict(each) for name, each in sorted(bundle.engines.items())}
    files = {name: asdict(each) for name, each in sorted(bundle.files.items())}
    content = json.dumps({**fields, "engines": engines, "files": files}, indent=2) + "\n"
    write_whole(bundle.path / MANIFEST, content)
