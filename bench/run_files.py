"""A run directory's files, read for a verdict: each file once, none of it through torch."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from bench.measurement import BenchError, Measurement, NotMeasured, Row, Simulated, process_said, read
from exporters.artifact import Artifact, ExportError, read_artifacts, size_in_bytes

RUN_VERSION = 1
"""The greatest "version" of settings.json that is read; raised when an older tool would misread a run."""

ORIGINAL, COMPRESSED = "original", "compressed"


GONE = "the run recorded it, and it is gone; export it again"


RowT = TypeVar("RowT", Measurement, NotMeasured, Simulated)


class RunError(BenchError):
    """A run directory that cannot be read; the text says which file, and what to do."""


def check_version(settings: Mapping[str, Any], path: Path) -> None:
    """RunError if the run at `path`, whose settings.json this is, was written by a newer compress-export."""
    version = settings.get("version", RUN_VERSION)
    if not isinstance(version, int) or version > RUN_VERSION:
        raise RunError(
            f"{path} was written by a newer compress-export: its files have version {version}, this one reads up to "
            f"{RUN_VERSION}; update it, or make the run again"
        )


def altered(path: Path, recorded: Artifact, sha256: str = "") -> str:
    """The reason why `path` is not the file that its run recorded; "" if it is. Bytes are compared, and the content
    where `sha256` gives that of the file as it lies there now: hashing a great file takes seconds."""
    if not path.exists():
        return GONE
    found = size_in_bytes(path)
    if found == recorded.bytes and sha256 in ("", recorded.sha256):
        return ""
    return (
        f"it is not the file that artifacts.json records: {found:,} bytes, {recorded.bytes:,} recorded; export it again"
    )


@dataclass(frozen=True)
class RunFiles:
    """A run directory, read where it is asked."""

    path: Path

    @staticmethod
    def of(artifact: Path) -> RunFiles | None:
        """The run that wrote this file: RUN/artifacts/FILE with RUN/artifacts.json beside it; None if there is none."""
        folder = artifact.parent
        inside = folder.name == "artifacts" and (folder.parent / "artifacts.json").is_file()
        return RunFiles(folder.parent) if inside else None

    def check(self) -> None:
        """RunError if the run's files are of a newer version."""
        settings = self.json("settings.json")
        if settings is not None and not isinstance(settings, dict):
            raise RunError(f"{self.path / 'settings.json'} holds no settings; mend it, or make the run again")
        check_version(settings or {}, self.path)

    @cached_property
    def artifacts(self) -> tuple[Artifact, ...]:
        if not (self.path / "artifacts.json").is_file():
            return ()
        try:
            return read_artifacts(self.path / "artifacts.json")
        except ExportError as error:
            raise RunError(str(error)) from error

    def artifact(self, path: Path) -> Artifact | None:
        """The artifact of this file in artifacts.json."""
        return next((row for row in self.artifacts if row.path.name == path.name), None)

    def place(self, artifact: Artifact) -> Path:
        """Path of a recorded file: artifacts.json keeps paths that may begin with "..", so its name says it."""
        own = artifact.path.parent.name == "artifacts"
        return self.path / "artifacts" / artifact.path.name if own else artifact.path

    def altered(self, artifact: Artifact) -> str:
        """The reason why a recorded file is no longer as it was recorded, by its bytes; "" if it is."""
        return altered(self.place(artifact), artifact)

    def survey(self, network: str) -> Mapping[str, Any] | None:
        """Parameters, MACs and layers of a network; None where the run has none."""
        found: Mapping[str, Any] | None = self.json({ORIGINAL: "survey.json", COMPRESSED: "compressed.json"}[network])
        return found

    def accuracy(self, network: str) -> Mapping[str, Any] | None:
        """Accuracy in percent and every prediction of a network; None where the run has none."""
        rows = self.json("accuracy.json") or {}
        found: Mapping[str, Any] | None = rows.get(network)
        return found

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers that the plan speaks of."""
        return tuple(str(row["name"]) for row in (self.json("plan.json") or {"layers": ()})["layers"])

    def measured(self, network: str, sha256: str, device: str, process: str = "") -> Measurement | None:
        """The newest measurement of that file on that device (a name, or a kind), of a phone inside that process or the
        shell; None if there is none."""
        return next((row for row in self._of(Measurement, network, sha256) if _there(row, device, process)), None)

    def newest(self, network: str, sha256: str) -> Measurement | None:
        """The newest measurement of that file, wherever it was made; None if there is none."""
        return next(self._of(Measurement, network, sha256), None)

    def refusal(self, network: str, sha256: str, device: str, process: str = "") -> str | None:
        """The reason why the newest attempt to measure that file there gave no measurement; None if there was none."""
        rows = self._of(NotMeasured, network, sha256)
        return next((row.reason for row in rows if _there(row, device, process)), None)

    def simulated(self, network: str, sha256: str, core: str = "") -> Simulated | None:
        """The newest exact count of that file, on the simulated core of that name where one is given."""
        return next((row for row in self._of(Simulated, network, sha256) if core in ("", row.device.name)), None)

    def _of(self, kind: type[RowT], network: str, sha256: str) -> Iterator[RowT]:
        """The rows of one kind and file, newest first."""
        for row in reversed(self.rows):
            if isinstance(row, kind) and (row.network, row.sha256) == (network, sha256):
                yield row

    @property
    def devices(self) -> list[str]:
        """Devices on which the run was measured: names with kinds, and a phone's process where it is not the shell."""
        found = [row.device for row in self.rows]
        return sorted({f"{device.name} ({device.kind}{process_said(device.process)})" for device in found})

    @cached_property
    def rows(self) -> tuple[Row, ...]:
        """Every line of measurements.jsonl, oldest first."""
        path = self.path / "measurements.jsonl"
        try:
            return read(path) if path.is_file() else ()
        except UnicodeDecodeError as error:
            raise RunError(
                f"{path} is no text ({error.reason} at byte {error.start}); it is UTF-8: mend it, or remove it and "
                "measure again"
            ) from error
        except BenchError as error:
            raise RunError(str(error)) from error

    def json(self, name: str) -> Any:
        """The content of a JSON file; None where there is none. RunError if it is no JSON."""
        path = self.path / name
        try:
            return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None
        except ValueError as error:
            raise RunError(f"{path} is no JSON ({error}); mend it, or make the run again") from error


def _there(row: Row, device: str, process: str) -> bool:
    """True where a row's device has that name or kind, inside that process; without one, not inside an app."""
    inside = row.device.process
    return device in (row.device.kind, row.device.name) and (inside == process if process else inside in ("", "shell"))
