"""Layers of a file or a network that account for a figure, and the growth of each over the base."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher

from bench.budgets.model_files import ModelFile
from bench.file_contents.contents import ContentError

OTHER = "graph and names"

MEASURES = {
    "size": "parts",
    "shipped": "undeflated parts",
    "parameters": "parameters",
    "macs": "MACs",
    "instructions": "MACs",
    "latency": "MACs",
    "memory": "weights",
}
"""Name of the layers' amounts that account for a quantity: bytes of a file's parts or weights, or counts. Nobody knows
the time or the memory of a single layer here, but its MACs and its weights."""


@dataclass(frozen=True)
class Part:
    """One layer's part of a figure: its amount now and in the base (None where there is no base), and its shapes."""

    name: str
    now: float
    before: float | None
    shapes: str = ""
    shapes_before: str = ""

    @property
    def growth(self) -> float:
        return self.now - (self.before or 0)


def accounts(quantity: str, subject: ModelFile, base: ModelFile | None) -> tuple[Part, ...]:
    """The layers that make up the figure: those that grew over the base, most first; without a base, the largest."""
    try:
        now = _parts(quantity, subject)
        before = None if base is None else _parts(quantity, base)
    except ContentError:
        return ()
    if before is None:
        return tuple(sorted((Part(name, *each[:1], None, each[1]) for name, each in now.items()), key=lambda p: -p.now))
    parts = []
    for name, other in _aligned(now, before):
        (amount, shapes), (was, shapes_before) = now.get(name, NOTHING), before.get(other, NOTHING)
        parts.append(Part(name, amount, was, shapes, shapes_before))
    return tuple(sorted((part for part in parts if part.growth > 0), key=lambda part: -part.growth))


Amounts = Mapping[str, tuple[float, str]]
"""For each layer, its amount and its weights' shapes."""
NOTHING = (0.0, "")


def _parts(quantity: str, subject: ModelFile) -> Amounts:
    survey = None if subject.run is None else subject.run.survey(subject.network)
    rows: dict[str, list[tuple[float, str]]] = defaultdict(list)
    if quantity in ("parameters", "macs", "latency", "instructions") and survey is not None:
        planned = () if subject.run is None else subject.run.layers
        for row in survey.layers:
            amount = row.cost.parameters if quantity == "parameters" else row.cost.macs
            rows[_owner(row.name, planned)].append((amount, "x".join(map(str, row.weight))))
    elif quantity in ("size", "shipped", "memory", "parameters") and subject.contents is not None:
        for weight, layer in zip(subject.contents.weights, layers_of(subject), strict=True):
            shape = "x".join(map(str, weight.shape)) if len(weight.shape) > 1 else ""
            rows[layer].append((float(weight.numbers if quantity == "parameters" else weight.bytes), shape))
        if quantity in ("size", "shipped"):
            rows[OTHER] = [(float(subject.contents.other_bytes), "")]
    return {
        name: (sum(amount for amount, _ in own), ", ".join(shape for _, shape in own if shape))
        for name, own in rows.items()
    }


def layers_of(subject: ModelFile) -> list[str]:
    """The layer that each weight of the file belongs to, in the file's order: by its name; a kernel or matrix whose
    name the run does not know (quantized ones lose theirs) by its shape and its place among the run's layers that no
    name claims; else the weight stands for itself."""
    contents = subject.contents
    if contents is None:
        return []
    survey = None if subject.run is None else subject.run.survey(subject.network)
    planned = () if subject.run is None else subject.run.layers
    if survey is None:
        return [each.name.rpartition(".")[0] or each.name for each in contents.weights]
    known = [row.name for row in survey.layers]
    named = [_owner(weight.name, known) for weight in contents.weights]
    nameless = not any(name in known for name in named)
    claimed = {name for name, weight in zip(named, contents.weights, strict=True) if len(weight.shape) > 1}
    # A file keeps its kernels in the order in which layers run; without any names, a bias follows its layer's.
    left = [(row.name, plain_sides(row.weight)) for row in survey.layers if row.name not in claimed]
    found, last = [], ""
    for weight, own in zip(contents.weights, named, strict=True):
        sides = plain_sides(weight.shape)
        unknown = own not in known and len(weight.shape) > 1
        name = next((name for name, other in left if unknown and other == sides), None)
        if name is not None:
            left.remove((name, sides))
            last = name
        found.append(_owner(name or (last if nameless else "") or weight.name, planned))
    return found


def plain_sides(shape: Sequence[int]) -> tuple[int, ...]:
    """A shape without sides of 1, sorted: formats turn a kernel's sides around."""
    return tuple(sorted(side for side in shape if side != 1))


def _owner(name: str, layers: Sequence[str]) -> str:
    """The layer that a weight or a factor of that name belongs to; its own module's path where none does."""
    owned = [layer for layer in layers if name == layer or name.startswith(f"{layer}.")]
    return max(owned, key=len) if owned else name.rpartition(".")[0] or name


def _aligned(now: Amounts, before: Amounts) -> list[tuple[str, str]]:
    """Pairs of names that mean one layer. Weights that are only counted are matched by the sequence of their shapes."""
    counted = [name for name in now if name.startswith("#")]
    earlier = [name for name in before if name.startswith("#")]
    if not counted or len(counted) == len(earlier):
        return [(name, name) for name in now]
    matcher = SequenceMatcher(None, [before[name][1] for name in earlier], [now[name][1] for name in counted], False)
    same = {counted[b + k]: earlier[a + k] for a, b, size in matcher.get_matching_blocks() for k in range(size)}
    return [(name, same.get(name, "") if name.startswith("#") else name) for name in now]
