"""The folder that `make app` leaves in build/app/bundle: installable apps, the same code for `app_process`, and for a
JVM."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from bench.measurement import BenchError
from bench.runner.bundle import MANIFEST, BundledFile, read_manifest, write_manifest
from exporters.artifact import size_and_sha256

ROOT = Path(__file__).resolve().parents[3] / "build" / "app" / "bundle"
BUILD = "build it with `make app`"


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


def open_app_bundle(path: Path = ROOT) -> AppBundle:
    """The bundle, every file of it checked. BenchError if there is none, or if a file is not the one that was built."""
    if not (path / MANIFEST).exists():
        raise BenchError(f"there is no app in {path}; {BUILD}")
    bundle = read_manifest(path, AppBundle, BUILD)
    for name, file in bundle.files.items():
        if not (path / name).exists() or size_and_sha256(path / name) != (file.bytes, file.sha256):
            raise BenchError(f"the app's bundle is not the one that was built: {path / name} has changed; {BUILD}")
    return bundle


def write_app_bundle(path: Path, apks: Mapping[str, Build], lane: Build) -> AppBundle:
    """Writes the manifest of the files in `path`, last of all: a bundle with a manifest is whole."""
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    files = {name: BundledFile(*size_and_sha256(path / name), mode="644") for name in names if name != MANIFEST}
    bundle = AppBundle(path, apks, lane, files)
    write_manifest(bundle)
    return bundle
