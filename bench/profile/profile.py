"""Profile: the cost of each operator of a file, by its engine's own profiler, and the file that keeps such values."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import msgspec

from bench.measurement import BenchError, Device
from exporters.artifact import write_whole

Unit = Literal["ms", "instructions"]


@dataclass(frozen=True)
class Operator:
    """One operator of a file, in the order in which it runs: the engine's name for it, the layer that it belongs to (""
    where it is none's, as a pooling is, or where the engine does not tell), and what one run of it takes."""

    name: str
    layer: str
    amount: float


@dataclass(frozen=True)
class LayerTotal:
    """Total of all operators of one layer. An operator of no layer stands for itself."""

    layer: str
    operators: tuple[str, ...]
    amount: float


@dataclass(frozen=True)
class Profile:
    """Cost of a file's operators on one device: ms (the median over `runs` runs), or instructions of one run on the
    simulated processor. A profiled run is slower than an ordinary one: fractions mean more than sums.

    `joined` says whether the operators were brought together with the file's layers.
    """

    network: str
    format: str
    sha256: str
    device: Device
    runtime: str
    runtime_version: str
    unit: Unit
    runs: int
    operators: tuple[Operator, ...]
    joined: bool
    measured_at: str

    @property
    def total(self) -> float:
        return sum(operator.amount for operator in self.operators)

    def layers(self) -> tuple[LayerTotal, ...]:
        """Cost by layer, worst first."""
        found: dict[str, list[Operator]] = {}
        for operator in self.operators:
            found.setdefault(operator.layer or f"({operator.name})", []).append(operator)
        totals = [
            LayerTotal(name, tuple(operator.name for operator in own), sum(operator.amount for operator in own))
            for name, own in found.items()
        ]
        return tuple(sorted(totals, key=lambda total: -total.amount))


def append(path: Path, profiles: Iterable[Profile]) -> None:
    """Adds a line of JSON for each profile to the file at `path`, which may be new."""
    before = path.read_text(encoding="utf-8") if path.exists() else ""
    write_whole(path, before + "".join(json.dumps(asdict(each)) + "\n" for each in profiles))


def read(path: Path) -> tuple[Profile, ...]:
    """The profiles of a `profiles.jsonl`, oldest first. BenchError names the line that cannot be read."""
    found = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        try:
            found.append(msgspec.json.decode(line, type=Profile))
        except (ValueError, BenchError) as error:
            raise BenchError(
                f"{path}, line {number}, is not a profile: {type(error).__name__}: {error}; profile again, or take the "
                "line out"
            ) from error
    return tuple(found)
