"""Record: a summary with all that surrounds it, for the pages: what was asked, the course of training and tuning, the
front of plans, the devices and versions, the files with their hashes, and how to make it all again."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from bench.measurement import Measurement, Simulated
from compress_export.reporting.command import command
from compress_export.reporting.profiled import Profiled, newest
from compress_export.reporting.summary import read_measurements, summarize_run
from compress_export.reporting.values import Summary
from compress_export.run_directory import RunDirectory
from compress_export.settings import PlanSettings, ShareSettings, SourceSettings, TuneSettings, plain
from exporters.artifact import size_and_sha256

KEPT = ("plan.json", "original.safetensors", "compressed.safetensors", "tuned.safetensors", "shared.safetensors")
"""Files of a run whose hashes a reader may want beside those of the artifacts."""


DEFAULTS: dict[str, dict[str, Any]] = {
    "source": plain(SourceSettings(network="")),
    "plan": plain(PlanSettings()),
    "tune": plain(TuneSettings()),
    "share": plain(ShareSettings()),
}


@dataclass(frozen=True)
class Epoch:
    """Held-out top-1 in percent after an epoch; epoch 0 is straight after the cut of `cut`. `place` counts all rows."""

    place: int
    step: int
    cut: str
    epoch: int
    loss: float | None
    top1: float


@dataclass(frozen=True)
class FrontPoint:
    """One plan of those that were weighed: what it costs, and what it is predicted to lose; None where not known.

    `on_front` is False for a chosen plan that is none of the front's: those were weighed without the run's limits.
    """

    parameters: float | None
    macs: float | None
    ms: float | None
    loss: float | None
    chosen: bool
    on_front: bool = True


@dataclass(frozen=True)
class StoredFile:
    """A file of the run, its path relative to it."""

    name: str
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Record:
    """All that a report's pages say."""

    summary: Summary
    run: str
    command: str
    asked: Mapping[str, Mapping[str, Any]]
    training: tuple[Epoch, ...]
    tuning: tuple[Epoch, ...]
    front: tuple[FrontPoint, ...]
    cost_source: str | None
    environment: tuple[tuple[str, str], ...]
    files: tuple[StoredFile, ...]
    profiled: Profiled | None = None

    @property
    def changed(self) -> dict[str, dict[str, Any]]:
        """What was asked for beyond the defaults."""
        return {
            section: {key: value for key, value in values.items() if value != DEFAULTS[section].get(key)}
            for section, values in self.asked.items()
        }


def gather(run: RunDirectory) -> Record:
    """The record of what the run's files hold. InputError as `summarize_run` gives it."""
    summary = summarize_run(run)
    settings, plan = run.settings(), run.read_json("plan.json")
    rows = read_measurements(run)
    return Record(
        summary=summary,
        run=run.path.name,
        command=command(settings, [row.format for row in summary.formats], rows, run.path.name),
        asked=_asked(settings),
        training=_epochs(run.read_lines("training.jsonl")),
        tuning=_epochs(run.read_lines("tuning.jsonl")),
        front=_front(plan),
        cost_source=plan.get("cost_source"),
        environment=tuple(_environment(summary)),
        files=_files(run, summary),
        profiled=newest(run, summary),
    )


def _asked(settings: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """What was asked for by section, without the hashes of files, which only tell whether a file has changed."""
    return {
        name: {key: value for key, value in settings[name].items() if not key.endswith("sha256")}
        for name in DEFAULTS
        if name in settings
    }


def _epochs(rows: Iterable[Mapping[str, Any]]) -> tuple[Epoch, ...]:
    return tuple(
        Epoch(place, row["step"], row["cut"], row["epoch"], row["loss"], row["top1"]) for place, row in enumerate(rows)
    )


def _front(plan: Mapping[str, Any]) -> tuple[FrontPoint, ...]:
    """The plan's front, where it has one, and the plan chosen in its place among them by loss.

    `chosen` is a place in the front or, as planners write it, a point like those in it. Such a point is seldom one of
    them, because they were weighed without the run's limits.
    """
    front, chosen = list(plan.get("pareto_front") or ()), plan.get("chosen")
    if not front or not isinstance(chosen, Mapping):
        known = isinstance(chosen, int) and not isinstance(chosen, bool)
        return tuple(_front_point(point, known and place == chosen) for place, point in enumerate(front))
    same = next((place for place, point in enumerate(front) if _same(point, chosen)), None)
    points = [_front_point(point, place == same) for place, point in enumerate(front)]
    if same is None:
        points.insert(_place(front, chosen.get("loss")), _front_point(chosen, True, on_front=False))
    return tuple(points)


def _front_point(point: Mapping[str, Any], chosen: bool, on_front: bool = True) -> FrontPoint:
    parameters, macs, ms, loss = (point.get(name) for name in ("parameters", "macs", "ms", "loss"))
    return FrontPoint(parameters, macs, ms, loss, chosen, on_front)


def _same(point: Mapping[str, Any], chosen: Mapping[str, Any]) -> bool:
    """Whether a point has the figures of the chosen one, as far as both tell; sums may differ in their last digit."""
    return all(_close(point[name], value) for name, value in chosen.items() if name in point)


def _close(one: float | None, other: float | None) -> bool:
    return one == other if one is None or other is None else math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-12)


def _place(front: Sequence[Mapping[str, Any]], loss: float | None) -> int:
    """Before the first point that loses more; at the end where the loss is not known."""
    if loss is None:
        return len(front)
    losses = (math.inf if point.get("loss") is None else point["loss"] for point in front)
    return next((place for place, own in enumerate(losses) if own > loss), len(front))


def _environment(summary: Summary) -> Iterable[tuple[str, str]]:
    """Devices and versions, as the run's rows tell them."""
    rows = [file.row for row in summary.formats for file in (row.original, row.compressed)]
    measured = [row for row in rows if isinstance(row, Measurement)]
    for device in dict.fromkeys(row.device for row in measured):
        memory = "" if device.memory_kb is None else f", {device.memory_kb / 1e6:.1f} GB of memory"
        yield device.kind, f"{device.name}: {device.cpu}, {device.cores} cores{memory}, {device.os}"
    yield from _range("threads", [row.threads for row in measured])
    yield from _range("pinned to core", [row.pinned_cores for row in measured if row.pinned_cores], _listed)
    yield from _range("MHz before", [row.mhz_before for row in measured if row.mhz_before], "{:.0f}".format)
    yield from _range("load average before", [row.load_average for row in measured if row.load_average is not None])
    yield from _range("measured", [row.measured_at for row in measured])
    for runtime in dict.fromkeys((row.runtime, row.runtime_version) for row in measured):
        yield runtime[0], runtime[1]
    yield from _simulators(
        [row for form in summary.formats for row in (*form.original.simulated, *form.compressed.simulated)]
    )
    toolkits = {
        name: version
        for row in summary.formats
        for file in (row.original, row.compressed)
        for name, version in file.artifact.toolkits.items()
    }
    yield from sorted(toolkits.items())
    yield "compress-export (this report)", _own_version()


def _range(name: str, values: Sequence[Any], say: Callable[[Any], str] = str) -> Iterable[tuple[str, str]]:
    """The least and the largest of the values, or the only one; nothing where there is none."""
    if values:
        least, largest = say(min(values)), say(max(values))
        yield name, least if least == largest else f"{least} to {largest}"


def _listed(cores: Sequence[int]) -> str:
    return ", ".join(map(str, cores))


def _simulators(rows: Sequence[Simulated]) -> Iterable[tuple[str, str]]:
    """Each simulated core with what counted on it, and the runtimes there, which are builds of their own."""
    for device, emulator in dict.fromkeys((row.device, row.emulator) for row in rows):
        yield device.kind, f"{device.name}: {device.os}; counted by {emulator}"
    for runtime, number in dict.fromkeys((row.runtime, row.runtime_version) for row in rows):
        yield f"{runtime}, simulated", number


def _own_version() -> str:
    try:
        return version("compress-export")
    except PackageNotFoundError:
        return "of no known version"


def _files(run: RunDirectory, summary: Summary) -> tuple[StoredFile, ...]:
    artifacts = [file.artifact for row in summary.formats for file in (row.original, row.compressed)]
    stored = [StoredFile(f"artifacts/{each.path.name}", each.bytes, each.sha256) for each in artifacts]
    return (*stored, *(StoredFile(name, *size_and_sha256(run / name)) for name in KEPT if run.has(name)))
