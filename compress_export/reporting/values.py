"""Rows and figures of a report, as frozen values."""

from __future__ import annotations

from dataclasses import dataclass

from bench.measurement import Device, Measurement, NotMeasured, Simulated
from bench.run_files import GONE
from bench.statistics import Ratio, Statistics, unsteady
from compress_export.reporting.shared import SharedWeights
from exporters.artifact import Artifact


@dataclass(frozen=True)
class Pair:
    """A figure of the original beside the compressed network's."""

    original: float
    compressed: float

    @property
    def smaller(self) -> float:
        return self.original / self.compressed if self.compressed else float("inf")


@dataclass(frozen=True)
class AccuracyChange:
    """Accuracy on the validation images before and after, in percent, and the images whose verdict changed."""

    images: int
    top1: Pair
    top5: Pair | None
    """None where there are no more than five classes to choose from."""
    gained: int
    lost: int
    differing: int
    untuned_top1: float | None


@dataclass(frozen=True)
class LayerRow:
    """One layer of the plan, with its parameters, MACs and (where the plan predicts it) ms before and after."""

    name: str
    weight: str
    method: str
    rank: str
    reason: str
    error: float | None
    stability: float | None
    parameters: Pair
    macs: Pair
    ms: Pair | None = None


@dataclass(frozen=True)
class FileRow:
    """One exported file: what it is, and how it ran, if it did; times that are invalid have no `statistics`.

    `simulated` has its newest row of each core.

    `altered` says why what lies there is no longer the file that all this speaks of; empty where it is.
    """

    artifact: Artifact
    row: Measurement | NotMeasured | None
    statistics: Statistics | None
    memory_kb: int | None
    simulated: tuple[Simulated, ...] = ()
    altered: str = ""

    @property
    def answers(self) -> str:
        """passed, failed or not executed; changed or gone where nobody compared what lies there now."""
        return "gone" if self.altered == GONE else "changed" if self.altered else self.artifact.verdict

    @property
    def unsteady(self) -> tuple[str, ...]:
        """Why its times are not to be trusted; empty where they are, or where they are invalid or there are none."""
        return unsteady(self.row) if isinstance(self.row, Measurement) and not self.row.invalid else ()


@dataclass(frozen=True)
class FormatRow:
    """One format: the original's file beside the compressed network's, and their time ratio where they took turns."""

    format: str
    original: FileRow
    compressed: FileRow
    ratio: Ratio | None

    @property
    def bytes(self) -> Pair:
        return Pair(self.original.artifact.bytes, self.compressed.artifact.bytes)


@dataclass(frozen=True)
class Summary:
    """What a run achieved."""

    title: str
    origin: str
    input: str
    data: str | None
    rule: str
    goal: str
    parameters: Pair
    macs: Pair
    paper_parameters: int | None
    accuracy: AccuracyChange | None
    layers: tuple[LayerRow, ...]
    formats: tuple[FormatRow, ...]
    device: Device | None
    notes: tuple[str, ...]
    failures: tuple[str, ...]
    again: str
    """The command that measures the files again, where and as they were timed last."""
    shared: SharedWeights | None = None
    beside: tuple[Measurement, ...] = ()
    """Of a phone: its newest measurements in each process, where there are several (an app, the shell)."""
