"""Bundle directories: the runner's programs, made by `bench.runner.build`, and the app's builds, made by
`bench.phone.app_build`. Every file is checked before anything is run or pushed."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bench.measurement import BenchError
from exporters.artifact import size_and_sha256, write_whole

SCHEMA = 1
MANIFEST = "manifest.json"
LOADER = "lib/ld-linux-aarch64.so.1"
ROOT = Path(__file__).resolve().parents[2] / "build" / "runner"
BUILD = "build it with `make runner`"
APP_ROOT = ROOT.parent / "app" / "bundle"
BUILD_APP = "build it with `make app`"
T = TypeVar("T")


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
    bundle = read_manifest(path, Bundle, BUILD)
    for name, file in bundle.files.items():
        if not (path / name).exists():
            raise BenchError(f"the runner's bundle is not whole: {path / name} is missing; {BUILD}")
        if size_and_sha256(path / name) != (file.bytes, file.sha256):
            raise BenchError(
                f"the runner's bundle is not the one that was built: the sha256 of {path / name} is not "
                f"{file.sha256[:12]}...; {BUILD}"
            )
    return bundle


def read_manifest(path: Path, kind: type[T], build: str) -> T:
    """The bundle in the directory `path` as its manifest tells it, unchecked: a dataclass that has a `path`.

    BenchError if the manifest cannot be read, which ends with `build`, the cure.
    """
    try:
        fields = msgspec.json.decode((path / MANIFEST).read_bytes(), type=dict[str, object])
        if fields.get("schema") != SCHEMA:
            raise BenchError(f"its schema is {fields.get('schema')}, not {SCHEMA}")
        return msgspec.convert(fields | {"path": path}, kind)
    except (ValueError, BenchError) as error:
        raise BenchError(f"{path / MANIFEST} is no manifest: {error}; {build}") from error


def write_manifest(bundle: Any) -> None:
    """Writes a bundle's manifest into its directory, last of all its files: a bundle with a manifest is whole."""
    fields = asdict(bundle)
    path: Path = fields.pop("path")
    write_whole(path / MANIFEST, json.dumps({"schema": SCHEMA, **fields}, indent=2) + "\n")


def closure(programs: Iterable[Path], folders: Sequence[Path]) -> dict[str, Path]:
    """Every shared library that the programs need, by the name they call it, as far as it lies in the folders: what
    the loader would find, before there is a loader."""
    found: dict[str, Path] = {}
    waiting = list(programs)
    while waiting:
        words = ["readelf", "-d", str(waiting.pop())]
        output = subprocess.run(words, capture_output=True, text=True, check=True).stdout
        for name in re.findall(r"\(NEEDED\)\s+Shared library: \[([^]]+)\]", output):
            # Wheels hold no links: a library may lie there under its name with the whole version behind it.
            candidates = (path for folder in folders for path in (folder / name, *sorted(folder.glob(f"{name}.*"))))
            library = next((path.resolve() for path in candidates if path.is_file()), None)
            if library is not None and name not in found:
                found[name] = library
                waiting.append(library)
    return found


@dataclass(frozen=True)
class Build:
    """One build: an APK (`package` is its name on the phone), or the folder of a lane. `engines`: format -> version."""

    file: str
    package: str
    engines: Mapping[str, str]


@dataclass(frozen=True)
class AppBundle:
    """The folder of all builds. `apks` goes by name, `lane` is for `app_process`; `files` by path in the folder."""

    path: Path
    apks: Mapping[str, Build]
    lane: Build
    files: Mapping[str, BundledFile]

    def apk(self, form: str) -> Build | None:
        """The app that has an engine for files of that format."""
        return next((build for build in self.apks.values() if form in build.engines), None)


def open_app_bundle(path: Path = APP_ROOT) -> AppBundle:
    """The bundle, every file of it checked. BenchError if there is none, or if a file is not the one that was built."""
    if not (path / MANIFEST).exists():
        raise BenchError(f"there is no app in {path}; {BUILD_APP}")
    bundle = read_manifest(path, AppBundle, BUILD_APP)
    for name, file in bundle.files.items():
        if not (path / name).exists() or size_and_sha256(path / name) != (file.bytes, file.sha256):
            raise BenchError(f"the app's bundle is not the one that was built: {path / name} has changed; {BUILD_APP}")
    return bundle


def write_app_bundle(path: Path, apks: Mapping[str, Build], lane: Build) -> AppBundle:
    """Writes the manifest of the files in `path`, last of all: a bundle with a manifest is whole."""
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    files = {name: BundledFile(*size_and_sha256(path / name), mode="644") for name in names if name != MANIFEST}
    bundle = AppBundle(path, apks, lane, files)
    write_manifest(bundle)
    return bundle
