"""gather(run) -> Report, read from the run's files alone. Imports no toolkit."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from bench.measurement import Device, Measurement, Row, Simulated, read
from bench.profile.profile import read as read_profiles
from bench.run_files import (
    COMPRESSED,
    ORIGINAL,
    FileAccuracy,
    LayerCost,
    NetworkSurvey,
    RunFile,
    RunFiles,
    network_of,
    type_of,
)
from bench.statistics import Ratio, summarize, time_ratio
from compress_export.errors import InputError
from compress_export.reporting import notes
from compress_export.reporting.commands import bench_command, command
from compress_export.reporting.figures import device_text
from compress_export.reporting.model import (
    AccuracyChange,
    Epoch,
    FileRow,
    FormatRow,
    LayerProfile,
    LayerRow,
    NetworkAccuracy,
    Pair,
    ParetoPoint,
    Report,
    SharedLayer,
    SharedWeights,
    StoredFile,
)
from compress_export.run_directory import RunDirectory, RunSettings
from compress_export.settings import (
    ExportSettings,
    PlanSettings,
    ShareSettings,
    SourceSettings,
    TuneSettings,
    plain,
)
from compressor.layer_shape import PlanError
from compressor.plan import LayerPlan, Plan, Point
from exporters.artifact import Artifact, Quantization, read_artifacts, size_and_sha256

TOP = 5
"""Classes among which the right one counts for top-5; of a network that has no more, it says nothing."""

STORED = (
    RunFile.PLAN,
    RunFile.ORIGINAL_WEIGHTS,
    RunFile.COMPRESSED_WEIGHTS,
    RunFile.TUNED_WEIGHTS,
    RunFile.SHARED_WEIGHTS,
)
"""Files of a run whose hashes a reader may want beside those of the artifacts."""


@dataclass(frozen=True)
class _Network:
    """The content of network.json."""

    name: str
    input: tuple[int, ...]
    outputs: int
    origin: str
    metric: str = "top-1"
    shown: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Survey(NetworkSurvey):
    """The content of survey.json and of compressed.json."""

    stability: dict[str, float | None] = field(default_factory=dict)
    errors: dict[str, float] = field(default_factory=dict)
    paper_parameters: int | None = None


@dataclass(frozen=True)
class _Bits:
    dense: int
    indices: int
    codebooks: int


@dataclass(frozen=True)
class _QuantizedLayer:
    name: str
    weight: tuple[int, ...]
    bits: _Bits | None
    error: float | None
    kept: str | None


@dataclass(frozen=True)
class _Quantized:
    """The content of shared.json."""

    sharing: str
    layers: tuple[_QuantizedLayer, ...]


def gather(run: RunDirectory) -> Report:
    """The report of what the run's files hold. InputError if it has no plan yet, or a file has lost its content."""
    try:
        return _gather(run)
    except (KeyError, TypeError, AttributeError, msgspec.ValidationError, PlanError) as error:
        raise InputError(f"a file of {run.path} has lost its content ({error}); remove it and run again") from error


def read_measurements(run: RunDirectory) -> tuple[Row, ...]:
    """Every row of the run's measurements.jsonl, oldest first; none where there is no file."""
    return read(run / RunFile.MEASUREMENTS) if run.has(RunFile.MEASUREMENTS) else ()


def _gather(run: RunDirectory) -> Report:
    path = run.need(RunFile.PLAN, f"plan NETWORK --name {run.path.name}")
    run.read_json(path.name)  # which says so where it is no JSON any more
    plan = Plan.read(path)
    settings, network = run.stored(), msgspec.convert(run.read_json(RunFile.NETWORK), _Network)
    source, planned = settings.source, settings.plan
    if source is None or planned is None:
        raise InputError(f"{run / RunFile.SETTINGS} names no network or no plan; remove the run and make it again")
    survey_before = run.read_json(RunFile.SURVEY)
    survey_after = run.read_json(run.need(RunFile.COMPRESSED_SURVEY, f"compress {run.path}").name)
    before, after = msgspec.convert(survey_before, _Survey), msgspec.convert(survey_after, _Survey)
    stored = run.read_json(RunFile.ACCURACY) if run.has(RunFile.ACCURACY) else {}
    accuracy = msgspec.convert(stored, dict[str, NetworkAccuracy])
    tuning = _read_epochs(run, RunFile.TUNING)
    artifacts = read_artifacts(run / RunFile.ARTIFACTS) if run.has(RunFile.ARTIFACTS) else ()
    shared = _shared_weights(run, accuracy)
    every_row = read_measurements(run)
    rows, other_devices = on_one_device(every_row)
    device = next((row.device for row in reversed(rows) if not isinstance(row, Simulated)), None)
    again = bench_command(run.path, device, rows)
    names = dict.fromkeys(artifact.format for artifact in artifacts)
    unwritten = msgspec.convert(run.read_json(RunFile.UNWRITTEN), dict[str, str]) if run.has(RunFile.UNWRITTEN) else {}
    files_accuracy = {name: row for name, row in stored.items() if "." in name}
    judged_files = msgspec.convert(files_accuracy, dict[str, FileAccuracy])
    formats = tuple(
        row for name in names for row in _format_rows(name, RunFiles(run.path), artifacts, rows, judged_files)
    )
    quantized = run.read_json(RunFile.QUANTIZATION) if run.has(RunFile.QUANTIZATION) else {}
    quantization = msgspec.convert(quantized, dict[str, Quantization])
    files = [file for row in formats for file in row.files]
    counted = dict.fromkeys(row.device.cpu for file in files for row in file.simulated)
    metrics = RunFiles(run.path).metrics
    measured = metrics is not None and COMPRESSED in metrics.networks
    judged = COMPRESSED in accuracy  # until then it is the original's alone
    sections = {
        name: {key: value for key, value in plain(section).items() if not key.endswith("sha256")}
        for name, section in settings.sections.items()
    }
    defaults = RunSettings(
        source=SourceSettings(""),
        plan=PlanSettings(),
        tune=TuneSettings(),
        share=ShareSettings(),
        export=ExportSettings(),
    )
    changed = {
        name: {key: value for key, value in sections[name].items() if value != plain(section)[key]}
        for name, section in defaults.sections.items()
        if name in sections
    }
    costs = {layer.name: layer.cost for layer in before.layers}
    layers = tuple(_layer_row(layer, costs[layer.name], after) for layer in plan.layers)
    return Report(
        run=run.path.name,
        command=command(settings, [*names, *unwritten], every_row, run.path.name),
        title=network.name,
        origin=network.origin,
        input="x".join(map(str, network.input)),
        data=source.data,
        rule=plan.rule,
        goal=plan.goal,
        settings=sections,
        changed_settings=changed,
        failures=(
            *notes.changed_files(files),
            *notes.failures(artifacts),
            *notes.ruined_files(formats, quantization),
        ),
        unwritten=unwritten,
        notes=(
            *(f"Files of .{name} are missing: {reason}." for name, reason in unwritten.items()),
            *notes.origin_notes(
                network.origin, (*filter(None, (network.shown,)), *network.notes), source.data, judged or measured
            ),
            *(notes.tuning_notes(accuracy) if judged else ()),
            *notes.kept_notes(tuning),
            *notes.plan_notes(plan, run.has(RunFile.TUNED_WEIGHTS) or shared is not None),
            *notes.size_notes(planned.max_size, formats, planned.dtype),
            *notes.runtime_notes(planned.latency_format, list(names), plan.cost_source),
            *notes.shared_notes(shared),
            *notes.quantization_notes(quantization),
            *notes.row_notes(formats, again),
            *notes.estimate_notes(survey_before, survey_after, counted),
            *other_devices,
        ),
        parameters=Pair(before.parameters, after.parameters),
        macs=Pair(before.macs, after.macs),
        predicted_instructions=_predicted_instructions(plan),
        paper_parameters=after.paper_parameters,
        accuracy=_accuracy_change(accuracy, network.outputs) if judged else None,
        metric=network.metric,
        metrics=metrics,
        shared=shared,
        layers=layers,
        cost_source=plan.cost_source or None,
        profile=_newest_profile(run, layers, formats),
        quantization=quantization,
        formats=formats,
        device=device,
        again=again,
        processes=_by_process(every_row, device),
        training=_read_epochs(run, RunFile.TRAINING),
        tuning=tuning,
        pareto_front=_pareto_front(plan),
        environment=tuple(_environment(files)),
        stored=(
            *(StoredFile(f"artifacts/{file.name}", file.artifact.bytes, file.artifact.sha256) for file in files),
            *(StoredFile(name, *size_and_sha256(run / name)) for name in STORED if run.has(name)),
        ),
    )


# ---- accuracy, epochs, weights -----------------------------------------------------------------------------------


def _read_epochs(run: RunDirectory, name: str) -> tuple[Epoch, ...]:
    return msgspec.convert(run.read_lines(name), tuple[Epoch, ...])


def _accuracy_change(rows: Mapping[str, NetworkAccuracy], outputs: int) -> AccuracyChange:
    first, last = rows[ORIGINAL], rows[COMPRESSED]
    pairs = list(zip(first.correct, last.correct, strict=True))
    return AccuracyChange(
        images=len(pairs),
        top1=Pair(first.top1, last.top1),
        top5=Pair(first.top5, last.top5) if outputs > TOP else None,
        gained=sum(after and not before for before, after in pairs),
        lost=sum(before and not after for before, after in pairs),
        changed=sum(a != b for a, b in zip(first.predictions, last.predictions, strict=True)),
        untuned_top1=rows["untuned"].top1 if "untuned" in rows else None,
    )


def _shared_weights(run: RunDirectory, accuracy: Mapping[str, NetworkAccuracy]) -> SharedWeights | None:
    """The run's product quantization; None where there is none, or not yet."""
    if not run.has(RunFile.SHARED_WEIGHTS):
        return None
    record = msgspec.convert(run.read_json(RunFile.SHARED_LAYERS), _Quantized)
    first = next(iter(_read_epochs(run, RunFile.SHARING)), None)
    return SharedWeights(
        sharing=record.sharing,
        original_bytes=(run / RunFile.ORIGINAL_WEIGHTS).stat().st_size,
        packed_bytes=(run / RunFile.SHARED_WEIGHTS).stat().st_size,
        layers=tuple(
            SharedLayer(
                name=layer.name,
                weight="x".join(map(str, layer.weight)),
                dense_bits=layer.bits.dense if layer.bits else None,
                index_bits=layer.bits.indices if layer.bits else None,
                codebook_bits=layer.bits.codebooks if layer.bits else None,
                error=layer.error,
                kept=layer.kept,
            )
            for layer in record.layers
        ),
        unshared_top1=accuracy["unshared"].top1 if "unshared" in accuracy else None,
        untuned_top1=None if first is None else first.top1,
    )


# ---- layers and plans --------------------------------------------------------------------------------------------


def _layer_row(layer: LayerPlan, cost: LayerCost, after: _Survey) -> LayerRow:
    factors = [row.cost for row in after.layers if row.name == layer.name or row.name.startswith(f"{layer.name}.")]
    return LayerRow(
        name=layer.name,
        weight="x".join(map(str, layer.weight)),
        method=layer.method,
        rank="" if layer.kept else ", ".join(map(str, layer.rank)),
        reason=layer.reason,
        error=after.errors.get(layer.name, layer.error),
        stability=after.stability.get(layer.name),
        parameters=Pair(cost.parameters, sum(factor.parameters for factor in factors)),
        macs=Pair(cost.macs, sum(factor.macs for factor in factors)),
        ms=None if layer.dense_ms is None or layer.ms is None else Pair(layer.dense_ms, layer.ms),
    )


def _predicted_instructions(plan: Plan) -> Pair | None:
    """Instructions of the original and of the planned network; None where the plan predicts none."""
    before, after = (None if point is None else point.instructions for point in (plan.original, plan.chosen))
    return None if before is None or after is None else Pair(before, after)


def _pareto_front(plan: Plan) -> tuple[ParetoPoint, ...]:
    """The plan's Pareto front with the chosen plan at its place by loss; it is seldom one of the front's points, which
    were computed without the run's limits."""

    def costs(point: Point) -> tuple[float | None, ...]:
        return point.parameters, point.macs, point.ms, point.loss

    def equal(one: Point, other: Point) -> bool:  # sums may differ in their last digit
        return all(
            a == b if a is None or b is None else math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-12)
            for a, b in zip(costs(one), costs(other), strict=True)
        )

    def point_of(point: Point, chosen: bool, on_front: bool = True) -> ParetoPoint:
        return ParetoPoint(point.parameters, point.macs, point.ms, point.loss, chosen, on_front)

    front, chosen = list(plan.pareto_front), plan.chosen
    if not front:
        return ()
    same = next((index for index, point in enumerate(front) if chosen is not None and equal(point, chosen)), None)
    points = [point_of(point, index == same) for index, point in enumerate(front)]
    if chosen is not None and same is None:
        index = next((index for index, point in enumerate(front) if point.loss > chosen.loss), len(front))
        points.insert(index, point_of(chosen, True, on_front=False))
    return tuple(points)


# ---- files and measurements --------------------------------------------------------------------------------------


def _format_rows(
    name: str,
    run: RunFiles,
    artifacts: Sequence[Artifact],
    rows: Sequence[Row],
    accuracies: Mapping[str, FileAccuracy],
) -> Iterator[FormatRow]:
    """The rows of one format, float32 first, then each number type that both networks have a file of."""
    files = {}
    for each in artifacts:
        if each.format == name:
            accuracy = accuracies.get(each.path.name)
            judged = accuracy if accuracy is not None and accuracy.sha256 == each.sha256 else None
            files[each.network] = replace(file_row(each, rows, run.altered(each)), accuracy=judged)
    base = files[ORIGINAL]
    for kind in sorted({type_of(network) for network in files}):
        first, last = (files.get(f"{network}.{kind}".rstrip(".")) for network in (ORIGINAL, COMPRESSED))
        if first is None or last is None:
            continue
        row = FormatRow(name, first, last, _time_ratio(last, first))
        yield row if not kind else replace(row, type=kind, base=base, base_ratio=_time_ratio(last, base))


def _time_ratio(file: FileRow, before: FileRow) -> Ratio | None:
    """The file's time over the other's; None where they did not take turns."""
    first, last = before.measured, file.measured
    if first is None or last is None or first.invalid or last.invalid or first.session != last.session:
        return None
    return time_ratio(last, first)


def file_row(artifact: Artifact, rows: Sequence[Row], altered: str) -> FileRow:
    """The file with its newest measurement and its newest count on each core; counts and times are never mixed."""
    of_file = [row for row in rows if (row.network, row.sha256) == (artifact.network, artifact.sha256)]
    counted = tuple({row.device.name: row for row in of_file if isinstance(row, Simulated)}.values())
    row = next((row for row in reversed(of_file) if not isinstance(row, Simulated)), None)
    if not isinstance(row, Measurement):
        return FileRow(artifact, row, None, None, counted, altered)
    return FileRow(artifact, row, None if row.invalid else summarize(row), row.memory.model_peak, counted, altered)


def on_one_device(rows: Sequence[Row]) -> tuple[tuple[Row, ...], tuple[str, ...]]:
    """The rows of the device that was timed last and all simulated ones, and a note that names the other devices.

    Times of two devices never stand in one table; simulated rows hold counts, which have a table of their own.
    """
    timed = [row.device for row in rows if not isinstance(row, Simulated) and row.device.kind != "simulated"]
    if not timed:
        return tuple(rows), ()
    others = dict.fromkeys(f"{each.name} ({each.kind})" for each in timed if not _same_phone(each, timed[-1]))
    note = f"measurements.jsonl also has rows of {', '.join(others)}, which are not compared with these."
    kept = tuple(row for row in rows if row.device == timed[-1] or row.device.kind == "simulated")
    return kept, (note,) if others else ()


def _by_process(rows: Sequence[Row], device: Device | None) -> tuple[Measurement, ...]:
    """The newest valid measurement of each file in each process of the phone; none where there is one process only."""
    if device is None or device.kind != "phone":
        return ()
    found: dict[tuple[str, str, str], Measurement] = {}
    for row in rows:
        if isinstance(row, Measurement) and not row.invalid and _same_phone(row.device, device):
            found[row.format, row.network, row.device.process] = row
    several = len({row.device.process for row in found.values()}) > 1
    return tuple(found[key] for key in sorted(found, reverse=True)) if several else ()


def _same_phone(one: Device, other: Device) -> bool:
    return replace(one, process=other.process) == other


def _newest_profile(run: RunDirectory, layers: Sequence[LayerRow], formats: Sequence[FormatRow]) -> LayerProfile | None:
    """The newest profile of a current compressed file with the original's of the same number type beside it, a
    quantized pair before one in float32, since that is what ships; None where there is none."""
    profiles = read_profiles(run / RunFile.PROFILES) if run.has(RunFile.PROFILES) else ()
    current = {(row.format, row.compressed.artifact.sha256) for row in formats}
    newest = sorted(enumerate(profiles), key=lambda each: (type_of(each[1].network) == "", -each[0]))
    for _, last in newest:
        if network_of(last.network) != COMPRESSED or not last.joined or (last.format, last.sha256) not in current:
            continue
        wanted = (last.network.replace(COMPRESSED, ORIGINAL, 1), last.format, last.device)
        first = next((one for one in reversed(profiles) if (one.network, one.format, one.device) == wanted), None)
        if first is None or not first.joined:
            continue
        before, after = ({layer.layer: layer.amount for layer in profile.layers()} for profile in (first, last))
        pairs = {layer.name: Pair(before.get(layer.name, 0.0), after.get(layer.name, 0.0)) for layer in layers}
        rest = Pair(
            first.total - sum(pair.original for pair in pairs.values()),
            last.total - sum(pair.compressed for pair in pairs.values()),
        )
        place = device_text(last.device)
        kind = type_of(last.network)
        return LayerProfile(last.format, kind, place, last.device.kind, last.unit, last.runtime, pairs, rest)
    return None


# ---- environment -------------------------------------------------------------------------------------------------


def _environment(files: Sequence[FileRow]) -> Iterator[tuple[str, str]]:
    """(name, value) of devices, conditions of measuring and versions."""
    measured = [file.measured for file in files if file.measured is not None]
    for device in dict.fromkeys(row.device for row in measured):
        memory = "" if device.memory_kb is None else f", {device.memory_kb / 1e6:.1f} GB of memory"
        yield device.kind, f"{device.name}: {device.cpu}, {device.cores} cores{memory}, {device.os}"
    yield from _range("threads", [row.threads for row in measured])
    cores = sorted({row.pinned_cores for row in measured if row.pinned_cores})
    yield from _range("pinned to core", [", ".join(map(str, pinned)) for pinned in cores], ordered=True)
    clocks = sorted(row.mhz_before for row in measured if row.mhz_before)
    yield from _range("MHz before", [f"{clock:.0f}" for clock in clocks], ordered=True)
    yield from _range("load average before", [row.load_average for row in measured if row.load_average is not None])
    yield from _range("measured", [row.measured_at for row in measured])
    yield from dict.fromkeys((row.runtime, row.runtime_version) for row in measured)
    counted = [row for file in files for row in file.simulated]
    for device, emulator in dict.fromkeys((row.device, row.emulator) for row in counted):
        yield device.kind, f"{device.name}: {device.os}; counted by {emulator}"
    for runtime, number in dict.fromkeys((row.runtime, row.runtime_version) for row in counted):
        yield f"{runtime}, simulated", number
    yield from sorted({name: number for file in files for name, number in file.artifact.toolkits.items()}.items())
    try:
        yield "compress-export (this report)", version("compress-export")
    except PackageNotFoundError:
        yield "compress-export (this report)", "of no known version"


def _range(name: str, values: Iterable[Any], ordered: bool = False) -> Iterator[tuple[str, str]]:
    """The least and the largest of the values, or the only one; nothing where there is none."""
    found = list(values) if ordered else sorted(values)
    if found:
        yield name, str(found[0]) if found[0] == found[-1] else f"{found[0]} to {found[-1]}"
