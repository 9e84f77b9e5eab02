"""Contents: the weights and operators of a file, frozen values; and which weights are stored twice."""

from __future__ import annotations

import hashlib
import math
import mmap
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.measurement import BenchError
from exporters.artifact import LIMITS


class ContentError(BenchError):
    """A file that is cut short, or is not what its name says."""


@dataclass(frozen=True)
class Weight:
    """A stored tensor: `bytes` at `offset` of the file `place`. `name` is the file's own where it has one, else "#3",
    the third in the order in which the file keeps them. `offset` is None where the data lie inside a larger record."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    bytes: int
    place: Path
    offset: int | None

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)

    @property
    def title(self) -> str:
        """ "features.3.0.weight 24x64x1x1 float32"."""
        return f"{self.name} {'x'.join(map(str, self.shape)) or 'scalar'} {self.dtype}"


@dataclass(frozen=True)
class Contents:
    """The content of a file: `bytes` in all, its weights, how often each operator occurs. `named`: the names are the
    network's own, not counted."""

    bytes: int
    weights: tuple[Weight, ...]
    operators: Mapping[str, int] = field(default_factory=dict)
    named: bool = True

    @property
    def parameters(self) -> int:
        return sum(weight.numbers for weight in self.weights)

    @property
    def other_bytes(self) -> int:
        """The bytes that are no weights: the graph, names, and padding."""
        return self.bytes - sum(weight.bytes for weight in self.weights)

    @property
    def number_type(self) -> str:
        """The type of most bytes of its kernels and matrices: one of NUMBER_TYPES, however the file calls it ("qint8 by
        channel"); else the file's own word, and "" without weights. Biases and scales stay in wider types."""
        total: Counter[str] = Counter()
        for weight in self.weights:
            if "int64" not in weight.dtype:  # shapes and places
                total[weight.dtype] += weight.bytes * (len(weight.shape) > 1)
        own = total.most_common(1)[0][0] if total else ""
        return next((name for name in NUMBER_TYPES if own.partition(" ")[0] in (name, f"q{name}")), own)

    @property
    def dtypes(self) -> dict[str, int]:
        """Bytes of weights by their type, most first."""
        total: Counter[str] = Counter()
        for weight in self.weights:
            total[weight.dtype] += weight.bytes
        return dict(total.most_common())


NUMBER_TYPES = tuple(LIMITS)
"""The types in which exported files store and compute."""

DUPLICATES_FROM = 64
"""Bytes below which equal weights are chance (a bias of zeros) and cost nothing."""


def duplicates(contents: Contents) -> tuple[tuple[Weight, ...], ...]:
    """Groups of weights whose bytes are stored more than once in the file, the largest first."""
    sizes = Counter(weight.bytes for weight in contents.weights)
    groups: dict[tuple[int, str], list[Weight]] = defaultdict(list)
    for weight in contents.weights:
        if sizes[weight.bytes] > 1 and weight.bytes >= DUPLICATES_FROM and weight.offset is not None:
            with weight.place.open("rb") as file:
                file.seek(weight.offset)
                digest = hashlib.sha256(file.read(weight.bytes)).hexdigest()
            groups[weight.bytes, digest].append(weight)
    # two names for one place are one copy
    found = [group for group in groups.values() if len({(weight.place, weight.offset) for weight in group}) > 1]
    return tuple(map(tuple, sorted(found, key=lambda group: -group[0].bytes * (len(group) - 1))))


def counted(names: Iterable[str]) -> dict[str, int]:
    """Number of times that each name occurs, most frequent first."""
    return dict(Counter(names).most_common())


@contextmanager
def mapped(path: Path) -> Iterator[mmap.mmap | bytes]:
    """The file's bytes, read when they are looked at."""
    with path.open("rb") as file:
        if not path.stat().st_size:
            yield b""
            return
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as buffer:
            yield buffer
