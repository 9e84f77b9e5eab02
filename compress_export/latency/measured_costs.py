"""MeasuredCosts: what each variant of each layer takes in the real runtime, as the planner's cost model."""

from __future__ import annotations

import hashlib
import tempfile
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Literal

from torch import Tensor, nn
from torch.export import ExportedProgram

from bench.host.layer_latency import LAYER_DEVICES, Effort, Stopwatch, TimedFile
from bench.measurement import BenchError
from compress_export.errors import InputError, nearest
from compress_export.latency.cache import ANOTHER, Conditions, Entry, add, foreign, load
from compress_export.latency.layer_files import Geometry, LayerFiles, geometry_of, writing
from compressor.layer_shape import Rank
from compressor.layers import find_layer
from compressor.plan import KEEP, LayerVariant
from compressor.planning.cost_model import Progress, calls_of, price, variant_cost
from compressor.survey import Survey
from exporters.capture import capture, save
from exporters.formats import find_format
from exporters.toolkits import versions

MULTIPLE = 16
"""Ranks are rounded to it: on this processor's 512-bit kernels a 17th channel costs as much as a 32nd in every runtime
(results/rank_multiples.jsonl: 3x3 in ONNX Runtime 0.37 ms at 32, 0.58 at 36 to 48, 0.86 at 52 to 64)."""

NETWORK = "network"
WHOLE = Effort(fewest=8, most=24, seconds=0.5, in_a_row=4)

Key = tuple[str, str, Rank]
"""Geometry, method and rank: variants that agree in it take the same time."""


class MeasuredCosts:
    """A `CostModel` of times in ms, measured on a device in a format's own runtime. A context manager.

    A layer's cost is what a file with nothing but the layer takes, the file's edges with it: they cost the same in each
    of a layer's variants, so differences of costs are those of the network, while the sum over a network's layers may
    exceed `network()`. A machine is faster at one time than at another: what is kept is each variant's time over that
    of its layer, and the network's over that of its layers, measured in turns. Times are kept in the user's cache;
    processes start with the first variant that is not there.
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
        self._geometry = {
            layer.name: geometry_of(find_layer(network, layer.name), layer.shape)
            for layer in survey.layers
            if layer.calls
        }
        self._name: str | None = None
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
        missing: dict[Geometry, list[tuple[str, Rank]]] = {}
        for geometry, method, rank in dict.fromkeys(map(self._variant, variants)):
            if geometry is not None and (geometry.text, method, rank) not in self._entries:
                missing.setdefault(geometry, []).append((method, rank))
        if not missing:
            return
        total, done = sum(map(len, missing.values())), 0
        try:
            files, stopwatch, _ = self._start()
            # all of a geometry's variants are timed next to the layer itself, the first
            queue = {geometry: list(dict.fromkeys([(KEEP, ()), *own])) for geometry, own in missing.items()}
            written = {
                geometry: [files.variant(geometry, method, rank) for method, rank in own]
                for geometry, own in queue.items()
            }
            for geometry, own in queue.items():
                progress(done, total, geometry.title)
                subjects = [TimedFile(file.result(), geometry.image) for file in written[geometry]]
                timings = stopwatch.time(subjects, Effort())
                self._keep(
                    Entry(geometry.text, method, rank, timing.ms, timings[0].ms, timing.samples)
                    for (method, rank), timing in zip(own, timings, strict=True)
                    if (geometry.text, method, rank) not in self._entries
                )
                for method, rank in own[1:]:
                    files.remove(geometry, method, rank)
                done += len(missing[geometry])
        except BenchError as error:
            raise BenchError(
                f"{error}; {done} of {total} times are measured and kept, the same command goes on from there"
            ) from error

    def cost(self, variant: LayerVariant) -> float:
        """The variant's ms, all calls of its layer together. Between measured ranks a line in the counted work.

        BenchError where nothing of this layer and method was measured.
        """
        geometry, method, rank = self._variant(variant)
        if geometry is None:
            return 0.0
        calls = calls_of(self._survey.layer(variant.layer))
        known = self._entries.get((geometry.text, method, rank))
        if known is not None:
            return calls * self._ms(known)
        ranks = self._ranks[geometry.text, method]
        if method == KEEP or not ranks:
            raise BenchError(
                f"a cost lies between measured ones, and no time of {variant.layer} as {method} was measured; "
                "measure that layer and method at a rank or more first"
            )
        points = {
            self._work(LayerVariant(variant.layer, method, own)): self._ms(self._entries[geometry.text, method, own])
            for own in ranks
        }
        return calls * interpolate(points, self._work(variant))

    @cached_property
    def _program(self) -> ExportedProgram:
        """The network as it is, captured once for all that is asked of it."""
        return capture(self._network, self._example[:1])

    def network(self) -> float:
        """The ms of the whole network as it is, exported and timed in turns with the layers that it consists of."""
        kept = [LayerVariant(name) for name in self._geometry]
        self.measure(kept, lambda _done, _total, _now: None)
        if self._name is None:
            name = _hash(self._program, tuple(self._example.shape[1:]))
            if (name, NETWORK, ()) not in self._entries:
                files, stopwatch, _ = self._start()
                whole = self._file(self._program, tuple(self._example.shape[1:]))
                calls: dict[Geometry, float] = defaultdict(float)
                for layer, geometry in self._geometry.items():
                    calls[geometry] += calls_of(self._survey.layer(layer))
                subjects = [TimedFile(files.variant(own, KEEP, ()).result(), own.image) for own in calls]
                shape = (1, *self._example.shape[1:])
                network, *layers = stopwatch.time([TimedFile(whole, shape, cold=False), *subjects], WHOLE)
                total = sum(calls[geometry] * timing.ms for geometry, timing in zip(calls, layers, strict=True))
                self._keep(
                    Entry(geometry.text, KEEP, (), timing.ms, timing.ms, timing.samples)
                    for geometry, timing in zip(calls, layers, strict=True)
                )
                self._keep([Entry(name, NETWORK, (), network.ms, total, network.samples)])
            self._name = name
        entry = self._entries[self._name, NETWORK, ()]
        return entry.ms / entry.beside * sum(map(self.cost, kept)) if entry.beside else entry.ms

    def share(self, module: nn.Module) -> float:
        """The time of `module`, the network with layers exchanged, over the network's: both files timed in turns."""
        shape = (1, *self._example.shape[1:])
        programs = [self._program, capture(module, self._example[:1])]
        key = " in ".join(_hash(program, shape[1:]) for program in reversed(programs)), NETWORK, ()
        if key not in self._entries:
            whole, changed = (self._file(program, shape[1:]) for program in programs)
            before, after = (
                timing
                for timing in self._start()[1].time([TimedFile(f, shape, cold=False) for f in (whole, changed)], WHOLE)
            )
            self._keep([Entry(*key, after.ms, before.ms, after.samples)])
            changed.unlink()
        return self._entries[key].ms / self._entries[key].beside

    def _variant(self, variant: LayerVariant) -> tuple[Geometry | None, str, Rank]:
        """The variant's geometry (None for a layer that never runs), method and rank."""
        self._survey.layer(variant.layer)
        return self._geometry.get(variant.layer), variant.method, variant.rank

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
