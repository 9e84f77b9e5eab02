"""The report model: everything that a report says about a run, as frozen values which every renderer reads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.measurement import Device, Measurement, NotMeasured, Simulated
from bench.profile.profile import Unit
from bench.run_files import GONE, FileAccuracy, NetworkMetrics
from bench.statistics import Ratio, Statistics, unsteady
from exporters.artifact import Artifact, Quantization


@dataclass(frozen=True)
class Pair:
    """A figure of the original beside the compressed network's."""

    original: float
    compressed: float

    @property
    def smaller(self) -> float:
        return self.original / self.compressed if self.compressed else float("inf")


@dataclass(frozen=True)
class NetworkAccuracy:
    """Accuracy of one network on the test set in percent, with its prediction for every image."""

    top1: float
    top5: float
    correct: tuple[bool, ...]
    predictions: tuple[int, ...]


@dataclass(frozen=True)
class AccuracyChange:
    """Accuracy on the test set before and after, in percent, and the predictions that changed.

    `gained` counts images that only the compressed network classifies correctly, `lost` those that only the original
    does, `changed` all whose predicted class is another one.
    """

    images: int
    top1: Pair
    top5: Pair | None
    """None where there are no more than five classes to choose from."""
    gained: int
    lost: int
    changed: int
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
class SharedLayer:
    """One layer considered for product quantization: bits as float32 and quantized, or why it was `kept`."""

    name: str
    weight: str
    dense_bits: int | None
    index_bits: int | None
    codebook_bits: int | None
    error: float | None
    kept: str | None


@dataclass(frozen=True)
class SharedWeights:
    """The packed file beside the original's float32 weights, in bytes; test accuracy in percent before quantization.

    `untuned_top1` is the validation accuracy straight after quantization, before the centroids were tuned.
    """

    sharing: str
    original_bytes: int
    packed_bytes: int
    layers: tuple[SharedLayer, ...]
    unshared_top1: float | None
    untuned_top1: float | None

    @property
    def shared(self) -> tuple[SharedLayer, ...]:
        return tuple(layer for layer in self.layers if layer.kept is None)


@dataclass(frozen=True)
class FileRow:
    """One exported file and its newest measurement; invalid times have no `statistics`.

    `simulated` holds its newest instruction counts, one for each core. `altered` says why the file on disk is no longer
    the recorded one; empty where it is.
    """

    artifact: Artifact
    row: Measurement | NotMeasured | None
    statistics: Statistics | None
    memory_kb: int | None
    simulated: tuple[Simulated, ...] = ()
    altered: str = ""
    accuracy: FileAccuracy | None = None
    """None where the file has not classified the test images."""

    @property
    def name(self) -> str:
        return self.artifact.path.name

    @property
    def measured(self) -> Measurement | None:
        return self.row if isinstance(self.row, Measurement) else None

    @property
    def verdict(self) -> str:
        """Numerical parity: passed, failed or not executed; changed or gone where the recorded file is not there."""
        return "gone" if self.altered == GONE else "changed" if self.altered else self.artifact.verdict

    @property
    def unsteady(self) -> tuple[str, ...]:
        """Reasons not to trust its times; empty where they are steady, invalid or missing."""
        return unsteady(self.row) if isinstance(self.row, Measurement) and not self.row.invalid else ()

    def counted_on(self, core: str) -> Simulated | None:
        return next((row for row in self.simulated if row.device.name == core), None)


@dataclass(frozen=True)
class FormatRow:
    """One format and number type: the original's file beside the compressed network's, and their time ratio where they
    took turns.

    `type` is "" for float32. Files of another type stand beside `base` too, the original's float32 file of the same
    format: `base_ratio` is the compressed file's time over that of `base`.
    """

    format: str
    original: FileRow
    compressed: FileRow
    ratio: Ratio | None
    type: str = ""
    base: FileRow | None = None
    base_ratio: Ratio | None = None

    @property
    def title(self) -> str:
        """ "pte", or "pte int8"."""
        return f"{self.format} {self.type}".strip()

    @property
    def before(self) -> FileRow:
        """The file that the network was before: the original's in float32, whatever this row's type."""
        return self.base or self.original

    @property
    def gain(self) -> Ratio | None:
        """The compressed file's time over that of `before`."""
        return self.base_ratio if self.base is not None else self.ratio

    @property
    def files(self) -> tuple[FileRow, FileRow]:
        return self.original, self.compressed

    @property
    def bytes(self) -> Pair:
        return Pair(self.original.artifact.bytes, self.compressed.artifact.bytes)

    @property
    def counted(self) -> tuple[tuple[Simulated, Simulated], ...]:
        """(original, compressed) counts for each simulated core that counted both files."""
        return self.counts_against(self.original)

    def counts_against(self, before: FileRow) -> tuple[tuple[Simulated, Simulated], ...]:
        """(before, compressed) counts for each simulated core that counted both files."""
        pairs = ((first, self.compressed.counted_on(first.device.name)) for first in before.simulated)
        return tuple((first, last) for first, last in pairs if last is not None)


@dataclass(frozen=True)
class Epoch:
    """Validation top-1 in percent after an epoch; epoch 0 follows directly on the factorization of `layers`.

    The last epoch that is `kept` is the one whose weights fine-tuning returned.
    """

    step: int
    layers: str
    epoch: int
    loss: float | None
    top1: float
    kept: bool = True


@dataclass(frozen=True)
class ParetoPoint:
    """Cost and predicted loss of one plan; `ms` is None where nothing was timed.

    `on_front` is False for a chosen plan that is not on the Pareto front, which is computed without the run's limits.
    """

    parameters: int
    macs: int
    ms: float | None
    loss: float
    chosen: bool
    on_front: bool = True


@dataclass(frozen=True)
class LayerProfile:
    """ms or instructions of each layer of the plan in the original's and the compressed file, measured by the engine's
    own profiler on one device in one format and number type ("int8"; "" for float32); `rest` belongs to no layer."""

    format: str
    type: str
    place: str
    kind: str
    unit: Unit
    runtime: str
    layers: Mapping[str, Pair]
    rest: Pair


@dataclass(frozen=True)
class StoredFile:
    """A file of the run, its path relative to it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Report:
    """A run's settings, plan, accuracy, files, measurements and notes.

    `quantization` has an entry for each network in another number type than float32, such as "compressed.int8".
    `again` is the command that measures the files again, where and as they were timed last. `processes` holds, of a
    phone, the newest measurements in each process, where there are several (an app, the shell). `settings` and
    `changed_settings` map a section to its options: all of them, and those that differ from their default.
    """

    run: str
    command: str
    title: str
    origin: str
    input: str
    data: str | None
    rule: str
    goal: str
    settings: Mapping[str, Mapping[str, object]]
    changed_settings: Mapping[str, Mapping[str, object]]
    failures: tuple[str, ...]
    unwritten: Mapping[str, str]
    """Formats that could not be written, and why."""
    notes: tuple[str, ...]
    parameters: Pair
    macs: Pair
    predicted_instructions: Pair | None
    """Of the plan, where it was made by instructions of a phone's core."""
    paper_parameters: int | None
    accuracy: AccuracyChange | None
    metric: str
    """The metric that the tool's own choices went by: "top-1" of a classifier."""
    metrics: NetworkMetrics | None
    shared: SharedWeights | None
    layers: tuple[LayerRow, ...]
    cost_source: str | None
    profile: LayerProfile | None
    quantization: Mapping[str, Quantization]
    formats: tuple[FormatRow, ...]
    device: Device | None
    again: str
    processes: tuple[Measurement, ...]
    training: tuple[Epoch, ...]
    tuning: tuple[Epoch, ...]
    pareto_front: tuple[ParetoPoint, ...]
    environment: tuple[tuple[str, str], ...]
    stored: tuple[StoredFile, ...]

    @property
    def files(self) -> tuple[FileRow, ...]:
        return tuple(file for row in self.formats for file in row.files)

    @property
    def measurements(self) -> tuple[Measurement, ...]:
        return tuple(file.measured for file in self.files if file.measured is not None)

    @property
    def cores(self) -> tuple[str, ...]:
        """The simulated devices that files of this run were counted on, in the order in which they appear."""
        return tuple(dict.fromkeys(row.device.name for file in self.files for row in file.simulated))


def comparable(first: Simulated, last: Simulated) -> bool:
    """True where both counts were made by the same emulator and runtime."""
    return (first.emulator, first.runtime_version) == (last.emulator, last.runtime_version)
