"""A run's directory: its files by section, written whole, and when earlier results may be used."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import msgspec

from bench.run_files import RUN_VERSION, RunFile, check_version
from compress_export.errors import InputError
from compress_export.settings import (
    RENAMED,
    ExportSettings,
    PlanSettings,
    Section,
    ShareSettings,
    SourceSettings,
    TuneSettings,
    differences,
    plain,
)
from exporters.artifact import write_whole

OUTPUTS: dict[str, tuple[RunFile, ...]] = {
    "source": (
        RunFile.NETWORK,
        RunFile.ORIGINAL_WEIGHTS,
        RunFile.TRAINING,
        RunFile.TRAINING_CHECKPOINT,
        RunFile.SURVEY,
        RunFile.LOSSES,
    ),
    "plan": (RunFile.PLAN, RunFile.PROBES),
    "compress": (RunFile.COMPRESSED_SURVEY, RunFile.COMPRESSED_WEIGHTS),
    "tune": (
        RunFile.TUNED_WEIGHTS,
        RunFile.TUNING,
        RunFile.TUNING_CHECKPOINT,
        RunFile.ACCURACY,
        RunFile.METRICS,
    ),
    "share": (RunFile.SHARED_WEIGHTS, RunFile.SHARED_LAYERS, RunFile.SHARING, RunFile.SHARING_CHECKPOINT),
    "export": (
        RunFile.QUANTIZATION,
        RunFile.QUANTIZED_WEIGHTS,
        RunFile.QUANTIZED_TUNING,
        RunFile.QUANTIZED_CHECKPOINT,
        RunFile.ARTIFACTS,
        RunFile.UNWRITTEN,
        RunFile.ARTIFACTS_FOLDER,
        RunFile.MEASUREMENTS,
        RunFile.PROFILES,
        RunFile.SHIPPED_BYTES,
        RunFile.REPORT_MARKDOWN,
        RunFile.REPORT_HTML,
        RunFile.REPORT_JSON,
    ),
}
"""Files of each section, in the order in which one depends on the other: changing a section ends all that follow."""

EARLIER_KEYS: dict[str, Mapping[str, str]] = {
    RunFile.ACCURACY: {"cut": "untuned"},
    RunFile.TRAINING: {"cut": "layers"},
    RunFile.TUNING: {"cut": "layers"},
    RunFile.SHARING: {"cut": "layers"},
}
"""Keys of the files of earlier runs by their names of today, as which they are read; RENAMED has those of settings."""

UNFINISHED = (
    ".*.partial",
    "*.partial",
    ".*.safetensors.*",
    ".artifacts.json.*",
    "artifacts/.exporting-*",
    "artifacts/.work",
)
"""Files that a killed process may leave behind; removed by the next one that has the run."""


@dataclass(frozen=True)
class RunSettings:
    """The content of settings.json: the settings of each section that the run has begun."""

    version: int = RUN_VERSION
    source: SourceSettings | None = None
    plan: PlanSettings | None = None
    tune: TuneSettings | None = None
    share: ShareSettings | None = None
    export: ExportSettings | None = None

    @property
    def sections(self) -> dict[str, Section]:
        """The sections that the run has begun, by their keys in settings.json."""
        found = {
            "source": self.source,
            "plan": self.plan,
            "tune": self.tune,
            "share": self.share,
            "export": self.export,
        }
        return {name: section for name, section in found.items() if section is not None}

    def having(self, sections: Mapping[str, Section | None]) -> RunSettings:
        """These settings with others for the given sections, or none."""
        return replace(self, **sections)  # type: ignore[arg-type]  # each section is of the type that its key has


@dataclass(frozen=True)
class RunDirectory:
    """A run's files. Writing goes through a temporary name, so that a file that exists is whole."""

    path: Path

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        return (self.path / name).exists()

    def read_json(self, name: str) -> Any:
        """The content of a JSON file. InputError if it is none: only an edit or a fault of the disk can make it so."""
        try:
            return _renamed(json.loads((self.path / name).read_text(encoding="utf-8")), EARLIER_KEYS.get(name, {}))
        except ValueError as error:
            raise InputError(f"{self.path / name} is no JSON any more ({error}); mend it, or remove the run") from error

    def write_text(self, name: str, text: str) -> None:
        write_whole(self.path / name, text)

    def write_json(self, name: str, value: Any) -> None:
        self.write_text(name, json.dumps(value, indent=2) + "\n")

    def append_line(self, name: str, value: Any) -> None:
        """Adds one JSON line; a last line that a kill cut short goes first."""
        whole = self.path / name
        with whole.open("ab") as lines:
            if lines.tell():
                content = whole.read_bytes()
                lines.truncate(content.rfind(b"\n") + 1)
            lines.write(json.dumps(value).encode() + b"\n")

    def read_lines(self, name: str) -> list[Any]:
        """The JSON lines of a file; a last line that a kill cut short is left out. Empty where there is no file."""
        if not self.has(name):
            return []
        text = (self.path / name).read_text(encoding="utf-8")
        names = EARLIER_KEYS.get(name, {})
        return [_renamed(json.loads(line), names) for line in text.splitlines(keepends=True) if line.endswith("\n")]

    def stored(self) -> RunSettings:
        """The settings of the run. RunError if a newer version of the tool wrote them, InputError if they are none."""
        content = self.read_json(RunFile.SETTINGS) if self.has(RunFile.SETTINGS) else {}
        if isinstance(content, dict):
            check_version(content.get("version", RUN_VERSION), self.path)
            content = {name: _renamed(section, RENAMED) for name, section in content.items()}
        try:
            return msgspec.convert(content, RunSettings)
        except msgspec.ValidationError as error:
            raise InputError(
                f"{self.path / RunFile.SETTINGS} holds no settings ({error}); mend it, or remove the run"
            ) from error

    def store(self, settings: RunSettings) -> None:
        """Writes settings.json."""
        sections = {name: plain(section) for name, section in settings.sections.items()}
        self.write_json(RunFile.SETTINGS, {"version": settings.version, **sections})

    def stale(self, section: str, settings: Section, force: bool) -> bool:
        """True if the section's earlier results were made with other settings and are to be replaced.

        False if there are none, or the settings are the same. InputError if they differ and it is not forced.
        Nothing is removed: `begin` does that, once the new settings have proven to lead somewhere.
        """
        stored = self.stored().sections.get(section)
        if stored is None or not any(self.has(name) for name in OUTPUTS[section]):
            return False
        changed = differences(settings, stored)
        if changed and not force:
            raise InputError(
                f"{self.path} was made with other settings: {', '.join(changed)}; "
                "pass --force to replace its results, or --name for a run of its own"
            )
        return bool(changed)

    def begin(self, section: str, settings: Section, stale: bool = False) -> None:
        """Writes the section's settings, after removing its results and all that follow from them if they are stale."""
        if stale:
            self.clear_from(section)
        self.store(self.stored().having({section: settings}))

    def clear_from(self, section: str) -> None:
        """Removes the results of `section` and of every section after it."""
        ended, stored = list(OUTPUTS)[list(OUTPUTS).index(section) :], self.stored()
        for name in (name for later in ended for name in OUTPUTS[later]):
            target = self.path / name
            shutil.rmtree(target) if target.is_dir() else target.unlink(missing_ok=True)
        self.store(stored.having(dict.fromkeys(stored.sections.keys() & ended)))

    def need(self, name: str, verb: str) -> Path:
        """The path of a file that an earlier verb must have written; InputError names the verb."""
        if not self.has(name):
            raise InputError(f"{self.path} has no {name}; write it with `compress-export {verb}`")
        return self.path / name


def _renamed(found: Any, names: Mapping[str, str]) -> Any:
    """The JSON object with keys of an earlier version by their names of today; anything else as it is."""
    return {names.get(key, key): value for key, value in found.items()} if isinstance(found, dict) else found


def existing_run(path: Path) -> RunDirectory:
    """The run directory at `path`, for reading alone. InputError if it is none."""
    if not (path / RunFile.SETTINGS).is_file():
        raise InputError(f"{path} is no run directory; make one with `compress-export plan NETWORK`")
    return RunDirectory(path)


@contextmanager
def open_run(path: Path, create: bool = True) -> Iterator[RunDirectory]:
    """The run directory at `path`, locked against a second process for as long as it is open.

    InputError if it cannot be written, if another process has it, or if it does not exist and is not to be created.
    """
    if not create:
        existing_run(path)
    existed = path.exists()
    try:
        path.mkdir(parents=True, exist_ok=True)
        lock = os.open(path / ".lock", os.O_CREAT | os.O_RDWR)
    except OSError as error:
        cure = "pass another place with --runs DIR" if create else "make it writable, or work on a copy of it"
        raise InputError(f"{path} cannot be written ({error.strerror}); {cure}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        cure = "wait for it, or pass --name for a run of its own" if create else "wait for it"
        raise InputError(f"another process works in {path}; {cure}") from error
    try:
        for left in (left for pattern in UNFINISHED for left in path.glob(pattern)):
            shutil.rmtree(left) if left.is_dir() else left.unlink(missing_ok=True)
        yield RunDirectory(path)
    finally:
        if not existed and not (path / RunFile.SETTINGS).exists():
            shutil.rmtree(path, ignore_errors=True)  # nothing came of it, so it must not stand in the way of the next
        os.close(lock)
