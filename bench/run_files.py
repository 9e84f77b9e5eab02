"""A run directory's files, read for a verdict: each file once, none of it through torch."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.measurement import BenchError, Measurement, NotMeasured, Row, Simulated, process_said, read
from exporters.artifact import Artifact, ExportError, read_artifacts, size_in_bytes

RUN_VERSION = 1
"""The greatest "version" of settings.json that is read; raised when an older tool would misread a run."""

ORIGINAL, COMPRESSED = "original", "compressed"


def network_of(name: str) -> str:
    """ORIGINAL or COMPRESSED: the network that a file's network ("compressed.int8") is a number type of."""
    return name.partition(".")[0]


def type_of(name: str) -> str:
    """The number type at the end of a file's network ("int8" of "compressed.int8"); "" for float32."""
    return name.partition(".")[2]


GONE = "the run recorded it, and it is gone; export it again"

T = TypeVar("T")
RowT = TypeVar("RowT", Measurement, NotMeasured, Simulated)


class RunFile(StrEnum):
    """The names in a run directory, each of which is written here only."""

    SETTINGS = "settings.json"
    NETWORK = "network.json"
    ORIGINAL_WEIGHTS = "original.safetensors"
    TRAINING = "training.jsonl"
    TRAINING_CHECKPOINT = "training.pt"
    SURVEY = "survey.json"
    LOSSES = "losses.jsonl"
    PLAN = "plan.json"
    PROBES = "probes.jsonl"
    COMPRESSED_SURVEY = "compressed.json"
    COMPRESSED_WEIGHTS = "compressed.safetensors"
    TUNED_WEIGHTS = "tuned.safetensors"
    TUNING = "tuning.jsonl"
    TUNING_CHECKPOINT = "tuning.pt"
    ACCURACY = "accuracy.json"
    METRICS = "metrics.json"
    SHARED_WEIGHTS = "shared.safetensors"
    SHARED_LAYERS = "shared.json"
    SHARING = "sharing.jsonl"
    SHARING_CHECKPOINT = "sharing.pt"
    QUANTIZATION = "quantization.json"
    QUANTIZED_WEIGHTS = "quantized.safetensors"
    QUANTIZED_TUNING = "quantized_tuning.jsonl"
    QUANTIZED_CHECKPOINT = "quantized_tuning.pt"
    ARTIFACTS = "artifacts.json"
    UNWRITTEN = "unwritten.json"
    ARTIFACTS_FOLDER = "artifacts"
    MEASUREMENTS = "measurements.jsonl"
    PROFILES = "profiles.jsonl"
    SHIPPED_BYTES = "shipped.json"
    REPORT_MARKDOWN = "report.md"
    REPORT_HTML = "report.html"
    REPORT_JSON = "report.json"


@dataclass(frozen=True)
class LayerCost:
    """Parameters of a layer, and MACs of one image through it."""

    parameters: int
    macs: int


@dataclass(frozen=True)
class SurveyedLayer:
    """A layer, its weight's shape and its cost."""

    name: str
    weight: tuple[int, ...]
    cost: LayerCost


@dataclass(frozen=True)
class NetworkSurvey:
    """The content of survey.json and of compressed.json that a verdict needs."""

    parameters: int
    macs: int
    layers: tuple[SurveyedLayer, ...]


@dataclass(frozen=True)
class RecordedAccuracy:
    """Top-1 accuracy of a network or a file on test images, in percent: all that a verdict needs of accuracy.json. Of a
    file (FileAccuracy) also its flipped predictions, the number of images and its sha256."""

    top1: float
    flipped: int | None = None
    images: int | None = None
    sha256: str = ""


@dataclass(frozen=True)
class NetworkMetrics:
    """The metric of a run's networks on so many test images, as metrics.json keeps it: of networks that are no
    classifiers, or the user's own. `networks` has all figures of each by name, of which `metric` counts."""

    metric: str
    unit: str
    higher_is_better: bool
    images: int
    networks: dict[str, dict[str, float]]

    def of(self, network: str) -> float | None:
        """The figure that counts of a network, None where it has none."""
        return self.networks.get(network, {}).get(self.metric)

    def written(self, network: str) -> str:
        """That figure as a person reads it."""
        value = self.of(network)
        return "" if value is None else f"{value:.2f} %" if self.unit == "%" else f"{value:.4g}"


@dataclass(frozen=True)
class FileAccuracy:
    """Accuracy of an exported file in its own runtime on test images, in percent, as accuracy.json keeps it by the
    file's name. `flipped` counts images that get another class than from the original network in PyTorch; `sha256` is
    that of the file."""

    top1: float
    top5: float
    flipped: int
    images: int
    sha256: str
    predictions: tuple[int, ...]
    correct: tuple[bool, ...]


@dataclass(frozen=True)
class _Settings:
    version: object = RUN_VERSION


@dataclass(frozen=True)
class _PlannedLayer:
    name: str


@dataclass(frozen=True)
class _Plan:
    layers: tuple[_PlannedLayer, ...]


class RunError(BenchError):
    """A run directory that cannot be read; the text says which file, and what to do."""


def check_version(version: object, path: Path) -> None:
    """RunError if the run at `path`, whose settings.json has this version, was written by a newer compress-export."""
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
    size = f"{found:,} bytes, {recorded.bytes:,} recorded"
    return f"it is not the file that {RunFile.ARTIFACTS} records: {size}; export it again"


@dataclass(frozen=True)
class RunFiles:
    """A run directory, read where it is asked."""

    path: Path

    @staticmethod
    def of(artifact: Path) -> RunFiles | None:
        """The run that wrote this file: RUN/artifacts/FILE with RUN/artifacts.json beside it; None if there is none."""
        folder = artifact.parent
        inside = folder.name == RunFile.ARTIFACTS_FOLDER and (folder.parent / RunFile.ARTIFACTS).is_file()
        return RunFiles(folder.parent) if inside else None

    def check(self) -> None:
        """RunError if the run's files are of a newer version."""
        check_version((self.read_json(RunFile.SETTINGS, _Settings) or _Settings()).version, self.path)

    @cached_property
    def artifacts(self) -> tuple[Artifact, ...]:
        path = self.path / RunFile.ARTIFACTS
        try:
            return read_artifacts(path) if path.is_file() else ()
        except ExportError as error:
            raise RunError(str(error)) from error

    def artifact(self, path: Path) -> Artifact | None:
        """The artifact of this file in artifacts.json."""
        return next((row for row in self.artifacts if row.path.name == path.name), None)

    def place(self, artifact: Artifact) -> Path:
        """Path of a recorded file: artifacts.json keeps paths that may begin with "..", so its name says it."""
        own = artifact.path.parent.name == RunFile.ARTIFACTS_FOLDER
        return self.path / RunFile.ARTIFACTS_FOLDER / artifact.path.name if own else artifact.path

    def altered(self, artifact: Artifact) -> str:
        """The reason why a recorded file is no longer as it was recorded, by its bytes; "" if it is."""
        return altered(self.place(artifact), artifact)

    def survey(self, network: str) -> NetworkSurvey | None:
        """Parameters, MACs and layers of a network; None where the run has none."""
        name = RunFile.SURVEY if network_of(network) == ORIGINAL else RunFile.COMPRESSED_SURVEY
        return self.read_json(name, NetworkSurvey)

    def accuracy(self, name: str) -> RecordedAccuracy | None:
        """Accuracy of a network in PyTorch, or of a file by its name; None where the run has none."""
        return self._accuracies.get(name)

    def accuracy_of(self, artifact: Artifact) -> RecordedAccuracy | None:
        """Accuracy of a recorded file in its own runtime; None where none is known of this very content."""
        row = self.accuracy(artifact.path.name)
        return row if row is not None and row.sha256 == artifact.sha256 else None

    @cached_property
    def metrics(self) -> NetworkMetrics | None:
        """The metric of the run's networks; None where they are classifiers that nothing else evaluated."""
        return self.read_json(RunFile.METRICS, NetworkMetrics)

    @cached_property
    def _accuracies(self) -> dict[str, RecordedAccuracy]:
        return self.read_json(RunFile.ACCURACY, dict[str, RecordedAccuracy]) or {}

    @cached_property
    def layers(self) -> tuple[str, ...]:
        """The names of the layers that the plan speaks of."""
        plan = self.read_json(RunFile.PLAN, _Plan)
        return () if plan is None else tuple(layer.name for layer in plan.layers)

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
        path = self.path / RunFile.MEASUREMENTS
        try:
            return read(path) if path.is_file() else ()
        except UnicodeDecodeError as error:
            raise RunError(
                f"{path} is no text ({error.reason} at byte {error.start}); it is UTF-8: mend it, or remove it and "
                "measure again"
            ) from error
        except BenchError as error:
            raise RunError(str(error)) from error

    def read_json(self, name: RunFile, kind: type[T]) -> T | None:
        """The content of a JSON file; None where there is none. RunError if it is no JSON, or is no `kind`."""
        path = self.path / name
        try:
            return msgspec.convert(json.loads(path.read_text(encoding="utf-8")), kind) if path.is_file() else None
        except msgspec.ValidationError as error:
            raise RunError(f"{path} has lost its content ({error}); make the run again") from error
        except ValueError as error:
            raise RunError(f"{path} is no JSON ({error}); mend it, or make the run again") from error


def _there(row: Row, device: str, process: str) -> bool:
    """True where a row's device has that name or kind, inside that process; without one, not inside an app."""
    inside = row.device.process
    return device in (row.device.kind, row.device.name) and (inside == process if process else inside in ("", "shell"))
