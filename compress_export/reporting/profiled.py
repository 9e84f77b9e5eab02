"""What a run's layers cost by their engine's own profiler, for the report's layer table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bench.profile.profile import FILE, Profile, read
from compress_export.reporting import figures
from compress_export.reporting.summary import COMPRESSED, ORIGINAL
from compress_export.reporting.values import Pair, Summary
from compress_export.run_directory import RunDirectory


@dataclass(frozen=True)
class Profiled:
    """ms or instructions of each layer of the plan, in the original's file and in the compressed one's, and of all that
    is no layer's (`rest`), on one device and in one format."""

    format: str
    place: str
    kind: str
    unit: str
    runtime: str
    layers: Mapping[str, Pair]
    rest: Pair

    @property
    def says(self) -> str:
        """Where the column's figures come from, in a sentence."""
        what = "Instructions of one run" if self.unit == "instructions" else "Milliseconds (median)"
        first, last = said(self.unit, self.rest.original), said(self.unit, self.rest.compressed)
        return (
            f"Profiled: {what.lower()} of the .{self.format} files on {self.place}, by the profiler of "
            f"{self.runtime}; what is no layer's took {first} and {last}."
        )


def said(unit: str, value: float) -> str:
    """An amount of a profile in a cell."""
    return figures.count(value) if unit == "instructions" else f"{value:.3g}"


def newest(run: RunDirectory, summary: Summary) -> Profiled | None:
    """The newest profile of a compressed file that has one of the original's beside it; None where there is none."""
    profiles = read(run / FILE) if run.has(FILE) else ()
    for last in reversed(profiles):
        first = next((each for each in reversed(profiles) if _pair(each, last)), None)
        if (
            last.network == COMPRESSED
            and first is not None
            and last.joined
            and first.joined
            and _current(last, summary)
        ):
            return _profiled(first, last, summary)
    return None


def _pair(first: Profile, last: Profile) -> bool:
    return first.network == ORIGINAL and (first.format, first.device) == (last.format, last.device)


def _current(profile: Profile, summary: Summary) -> bool:
    files = [row.compressed.artifact for row in summary.formats if row.format == profile.format]
    return any(artifact.sha256 == profile.sha256 for artifact in files)


def _profiled(first: Profile, last: Profile, summary: Summary) -> Profiled:
    names = [layer.name for layer in summary.layers]
    before, after = _by_layer(first), _by_layer(last)
    layers = {name: Pair(before.get(name, 0.0), after.get(name, 0.0)) for name in names}
    known = Pair(sum(pair.original for pair in layers.values()), sum(pair.compressed for pair in layers.values()))
    rest = Pair(first.total - known.original, last.total - known.compressed)
    place = figures.place(last.device)
    return Profiled(last.format, place, last.device.kind, last.unit, last.runtime, layers, rest)


def _by_layer(profile: Profile) -> dict[str, float]:
    return {share.layer: share.amount for share in profile.layers()}


def plain(profiled: Profiled | None) -> dict[str, Any] | None:
    """As report.json holds it."""
    return None if profiled is None else asdict(profiled)
