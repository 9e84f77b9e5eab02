"""MeasuredCosts: what each variant of each layer takes in the real runtime, as the planner's cost model."""

from __future__ import annotations

import hashlib
import tempfile
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal

from torch import Tensor, nn
from torch.export import ExportedProgram

from bench.host.layer_latency import LAYER_DEVICES, Effort, Stopwatch, TimedFile, Timing, most_swept
from bench.measurement import BenchError
from compress_export.errors import InputError, nearest
from compress_export.latency.cache import ANOTHER, Conditions, Entry, add, foreign, load
from compress_export.latency.layer_files import Geometry, LayerFiles, geometry_of, writing
from compressor.layer_shape import Rank, dense_cost
from compressor.layers import find_layer
from compressor.plan import KEEP, LayerVariant
from compressor.planning.cost_model import Progress, calls_of, price, variant_cost
from compressor.survey import LayerCost, Survey
from exporters.capture import capture, save
from exporters.formats import find_format
from exporters.toolkits import versions

MULTIPLE = 16
"""Ranks are rounded to it: on this processor's 512-bit kernels a 17th channel costs as much as a 32nd in every runtime
(results/rank_multiples.jsonl: 3x3 in ONNX Runtime 0.37 ms at 32, 0.58 at 36 to 48, 0.86 at 52 to 64)."""

NETWORK = "network"
EDGES = "edges"
"""What stands for a method where a time is that of a file's edges."""
COPIES = 2
"""Copies of a small layer, and of its variants, in a timed file: so the edges weigh half. Four take twice the time to
write as one, two a third more."""
WORK_OF_COPIES = 6_000_000
"""Predicted work (MACs and traffic) that the copies in a file do at most together, where it has more than one."""
NEGLIGIBLE_EDGES = 100_000_000
"""Predicted work of a layer that takes far longer than its file's edges: they are not timed, for the difference of two
long times says nothing of a short one (of 4096 x 4096 it was 0.75 ms of 3.5, where 0.2 are likely)."""
LEAST_COST = 0.02
"""Fraction of a file's time that is its variant's at least, however long its edges are said to take."""
WHOLE = Effort(fewest=8, most=24, seconds=0.5, in_a_row=4)

Key = tuple[str, str, Rank]
"""What was timed, method and rank: variants that agree in it take the same time."""


@dataclass(frozen=True)
class _Timed:
    """A geometry with all else that its files' times depend on: copies in a file (other ones in the file that tells the
    edges, 0 where none does), and the bytes that are walked through before each run."""

    geometry: Geometry
    copies: int
    others: int
    sweep: int

    @cached_property
    def text(self) -> str:
        """The key under which times are kept."""
        return f"{self.geometry.text} {self.copies} in a file, {self.sweep} bytes between runs"


class MeasuredCosts:
    """A `CostModel` of times in ms, measured on a device in a format's own runtime. A context manager.

    A layer's cost is its part of a file with nothing but copies of it, the file's edges taken off: the same file with
    another number of copies tells them. Where these costs sum up to more than the network takes, all are lowered alike,
    once `network()` has measured it: then a cost is the layer's part of the network's time. A machine is faster at one
    time than at another: what is kept is each variant's time over that of its layer, and the network's over that of its
    layers, measured in turns. Times are kept in the user's cache; processes start with the first variant that is not
    there.
    """

    unit: Literal["ms"] = "ms"

    def __init__(
        self,
        network: nn.Module,
        survey: Survey,
        example: Tensor,
        format: str,
        threads: int = 1,
        device: str = "host",
        say: Callable[[str], None] = lambda _text: None,
    ) -> None:
        if device not in LAYER_DEVICES:
            raise InputError(f"there is no device {device!r} that times layers: {nearest(device, LAYER_DEVICES)}")
        kind = find_format(format)
        versions(kind.writer.REQUIRES)
        self._network, self._survey, self._example = network, survey, example
        self._device = LAYER_DEVICES[device]
        facts, runtime_version = self._device.describe(), self._device.runtime_version(format)
        self._conditions = Conditions(facts.kind, facts.cpu, format, kind.runtime, runtime_version, threads)
        self._entries: dict[Key, Entry] = {}
        self._ranks: dict[tuple[str, str], set[Rank]] = defaultdict(set)
        self._take(load(self._conditions))
        # Sizes are powers of two, so that networks of about the same size share times.
        self._sweep = min(most_swept(), 1 << (4 * survey.parameters).bit_length())
        self._timed = {layer.name: self._as_timed(layer) for layer in survey.layers if layer.calls}
        self._name: str | None = None
        self._scale = 1.0
        self._open = ExitStack()
        self._started: tuple[LayerFiles, Stopwatch, Path] | None = None
        where = "this machine" if device == "host" else facts.name
        number = f"{threads} thread{'s' * (threads > 1)}"
        self.source = f"measured on {where} ({facts.cpu}, {number}) in {kind.runtime} {runtime_version}"
        self.multiple = MULTIPLE
        for other in dict.fromkeys(foreign(self._conditions)):
            whose = f"from {kind.runtime} {other} are not used, {runtime_version} runs here"
            whose = f"by {other} are not used" if other == ANOTHER else whose
            say(f"Times kept {whose}; `compress-export costs --clear` removes them")

    def __enter__(self) -> MeasuredCosts:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._open.close()
        self._started = None

    def measure(self, variants: Collection[LayerVariant], progress: Progress) -> None:
        """Times exactly these variants, unless they were before, next to their layers as they are.

        BenchError if the device is gone; what was measured until then is kept.
        """
        missing: dict[_Timed, list[tuple[str, Rank]]] = {}
        for timed, method, rank in dict.fromkeys(map(self._variant, variants)):
            if timed is not None and (timed.text, method, rank) not in self._entries:
                missing.setdefault(timed, []).append((method, rank))
        if not missing:
            return
        total, done = sum(map(len, missing.values())), 0
        try:
            files, stopwatch, _ = self._start()
            # all of a geometry's variants are timed next to the layer itself, the first
            queue: dict[_Timed, list[tuple[str, Rank, int]]] = {}
            for timed, own in missing.items():
                edges = [(KEEP, (), timed.others)] * bool(timed.others and (timed.text, EDGES, ()) not in self._entries)
                variants_of = dict.fromkeys([(KEEP, ()), *own])
                queue[timed] = [*((method, rank, timed.copies) for method, rank in variants_of), *edges]
            written = {timed: [files.variant(timed.geometry, *each) for each in own] for timed, own in queue.items()}
            for timed, subjects in queue.items():
                progress(done, total, timed.geometry.title)
                timings = stopwatch.time(
                    [TimedFile(file.result(), timed.geometry.image, timed.sweep) for file in written[timed]], Effort()
                )
                self._keep(self._entries_of(timed, subjects, timings))
                for subject in subjects[1:]:
                    files.remove(timed.geometry, *subject)
                done += len(missing[timed])
        except BenchError as error:
            raise BenchError(
                f"{error}; {done} of {total} times are measured and kept, the same command goes on from there"
            ) from error

    def cost(self, variant: LayerVariant) -> float:
        """The variant's ms, all calls of its layer together. Between measured ranks a line in the counted work.

        BenchError where nothing of this layer and method was measured.
        """
        timed, method, rank = self._variant(variant)
        if timed is None:
            return 0.0
        calls = self._scale * calls_of(self._survey.layer(variant.layer))
        known = self._entries.get((timed.text, method, rank))
        if known is not None:
            return calls * self._without_edges(timed, known)
        ranks = self._ranks[timed.text, method]
        if method == KEEP or not ranks:
            raise BenchError(
                f"a cost lies between measured ones, and no time of {variant.layer} as {method} was measured; "
                "measure that layer and method at a rank or more first"
            )
        points = {
            self._work(LayerVariant(variant.layer, method, own)): self._without_edges(
                timed, self._entries[timed.text, method, own]
            )
            for own in ranks
        }
        return calls * interpolate(points, self._work(variant))

    @cached_property
    def _program(self) -> ExportedProgram:
        """The network as it is, captured once for all that is asked of it."""
        return capture(self._network, self._example[:1])

    def network(self) -> float:
        """The ms of the whole network as it is, exported and timed in turns with the layers that it consists of."""
        kept = [LayerVariant(name) for name in self._timed]
        self.measure(kept, lambda _done, _total, _now: None)
        if self._name is None:
            name = _hash(self._program, tuple(self._example.shape[1:]))
            if (name, NETWORK, ()) not in self._entries:
                files, stopwatch, _ = self._start()
                whole = self._file(self._program, tuple(self._example.shape[1:]))
                distinct = list(dict.fromkeys(self._timed.values()))
                subjects = [
                    TimedFile(files.variant(own.geometry, KEEP, (), own.copies).result(), own.geometry.image, own.sweep)
                    for own in distinct
                ]
                shape = (1, *self._example.shape[1:])
                network, *layers = stopwatch.time([TimedFile(whole, shape), *subjects], WHOLE)
                self._keep(
                    Entry(own.text, KEEP, (), timing.ms, timing.ms, timing.samples)
                    for own, timing in zip(distinct, layers, strict=True)
                )
                self._keep([Entry(name, NETWORK, (), network.ms, self._layer_files(), network.samples)])
            self._name = name
        entry = self._entries[self._name, NETWORK, ()]
        time = entry.ms / entry.beside * self._layer_files() if entry.beside else entry.ms
        self._scale = 1.0
        layers_alone = sum(map(self.cost, kept))
        self._scale = min(1.0, time / layers_alone) if layers_alone else 1.0
        return time

    def share(self, module: nn.Module) -> float:
        """The time of `module`, the network with layers exchanged, over the network's: both files timed in turns."""
        shape = (1, *self._example.shape[1:])
        programs = [self._program, capture(module, self._example[:1])]
        key = " in ".join(_hash(program, shape[1:]) for program in reversed(programs)), NETWORK, ()
        if key not in self._entries:
            whole, changed = (self._file(program, shape[1:]) for program in programs)
            before, after = self._start()[1].time([TimedFile(file, shape) for file in (whole, changed)], WHOLE)
            self._keep([Entry(*key, after.ms, before.ms, after.samples)])
            changed.unlink()
        return self._entries[key].ms / self._entries[key].beside

    def _as_timed(self, layer: LayerCost) -> _Timed:
        work = price(dense_cost(layer.shape))
        copies = max(1, min(COPIES, WORK_OF_COPIES // max(1, work)))
        others = 0 if work > NEGLIGIBLE_EDGES else 1 if copies > 1 else 2
        return _Timed(geometry_of(find_layer(self._network, layer.name), layer.shape), copies, others, self._sweep)

    def _variant(self, variant: LayerVariant) -> tuple[_Timed | None, str, Rank]:
        """The variant's files (None for a layer that never runs), its method and rank."""
        self._survey.layer(variant.layer)
        return self._timed.get(variant.layer), variant.method, variant.rank

    def _entries_of(
        self, timed: _Timed, files: Sequence[tuple[str, Rank, int]], timings: Sequence[Timing]
    ) -> Iterator[Entry]:
        """An entry for each file that there was none of, the layer's own first; the last may tell the edges."""
        whole = timings[0].ms
        for (method, rank, copies), timing in zip(files, timings, strict=True):
            ms = timing.ms
            if copies != timed.copies:
                once = (whole - ms) / (timed.copies - copies)
                method, ms = EDGES, min(max(0.0, whole - timed.copies * once), whole)
            if (timed.text, method, rank) not in self._entries:
                yield Entry(timed.text, method, rank, ms, whole, timing.samples)

    def _layer_files(self) -> float:
        """The ms of all layers' files, each as often as its layers are called: the pace of the machine."""
        return sum(
            calls_of(self._survey.layer(layer)) * self._ms(self._entries[timed.text, KEEP, ()])
            for layer, timed in self._timed.items()
        )

    def _without_edges(self, timed: _Timed, entry: Entry) -> float:
        """The ms of one copy in the entry's file."""
        ms, edges = self._ms(entry), self._entries.get((timed.text, EDGES, ()))
        return max(LEAST_COST * ms, ms - (0.0 if edges is None else self._ms(edges))) / timed.copies

    def _start(self) -> tuple[LayerFiles, Stopwatch, Path]:
        """The process that writes files and the stopwatch, started when first needed."""
        if self._started is None:
            format, threads = self._conditions.format, self._conditions.threads
            folder = Path(self._open.enter_context(tempfile.TemporaryDirectory(prefix="layer-times-")))
            stopwatch = self._open.enter_context(self._device.stopwatch(format, threads))
            self._started = self._open.enter_context(writing(format, folder, threads)), stopwatch, folder
        return self._started

    def _file(self, program: ExportedProgram, image: tuple[int, ...]) -> Path:
        """The whole network of a program as a file; asked again in the same session, the same file."""
        files, _, folder = self._start()
        name = _hash(program, image)
        if (path := folder / f"{name}.{self._conditions.format}").exists():
            return path
        save(program, folder / f"{name}.pt2")
        written = files.program(folder / f"{name}.pt2").result()
        (folder / f"{name}.pt2").unlink()
        return written

    def _keep(self, entries: Iterable[Entry]) -> None:
        new = tuple(entries)
        add(self._conditions, new)
        self._take(new)

    def _take(self, entries: Iterable[Entry]) -> None:
        for entry in entries:
            self._entries[entry.what, entry.method, entry.rank] = entry
            self._ranks[entry.what, entry.method].add(entry.rank)

    def _ms(self, entry: Entry) -> float:
        """The variant's time, had it been measured when its layer was measured last."""
        return entry.ms / entry.beside * self._entries[entry.what, KEEP, ()].ms

    def _work(self, variant: LayerVariant) -> float:
        return price(variant_cost(self._survey, variant)) / calls_of(self._survey.layer(variant.layer))


def _hash(program: ExportedProgram, image: tuple[int, ...]) -> str:
    """A hash of all in a network that its time depends on: its image, its operators, the shapes of its weights."""
    shapes = [tuple(tensor.shape) for tensor in program.state_dict.values()]
    return hashlib.sha256(f"{image} {program.graph} {shapes}".encode()).hexdigest()


def interpolate(points: Mapping[float, float], at: float) -> float:
    """The value at `at` of the line through points (work, ms); beyond the ends the last piece goes on, never below 0.

    A single point gives a line through nothing at no work.
    """
    works = sorted(points)
    if len(works) == 1:
        return points[works[0]] * at / works[0]
    right = min(max(bisect_left(works, at), 1), len(works) - 1)
    low, high = works[right - 1], works[right]
    slope = (points[high] - points[low]) / (high - low)
    return max(0.0, points[low] + slope * (at - low))
