"""Summary: all that a report says about a run, read from the run's files alone. Imports no toolkit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from bench.measurement import Measurement, Row, Simulated, read
from bench.run_files import RunFiles
from bench.statistics import summarize, time_ratio
from compress_export.errors import InputError
from compress_export.reporting.command import bench_command
from compress_export.reporting.notes import (
    changed_files,
    estimate_notes,
    failures,
    kept_notes,
    origin_notes,
    plan_notes,
    row_notes,
    runtime_notes,
    size_notes,
    tuning_notes,
)
from compress_export.reporting.processes import beside, on_one_device
from compress_export.reporting.shared import shared_notes, shared_of
from compress_export.reporting.values import AccuracyChange, FileRow, FormatRow, LayerRow, Pair, Summary
from compress_export.run_directory import RunDirectory
from compressor.plan import KEEP
from exporters.artifact import Artifact, read_artifacts

ORIGINAL, COMPRESSED = "original", "compressed"
TOP = 5
"""Classes among which the right one counts for top-5; of a network that has no more, it says nothing."""


def summarize_run(run: RunDirectory) -> Summary:
    """The summary of what the run's files hold. InputError if it has no plan yet, or a file has lost its content."""
    try:
        return _summarized(run)
    except (KeyError, TypeError, AttributeError) as error:
        raise InputError(f"a file of {run.path} has lost its content ({error}); remove it and run again") from error


def _summarized(run: RunDirectory) -> Summary:
    run.need("plan.json", f"plan NETWORK --name {run.path.name}")
    settings, network = run.settings(), run.read_json("network.json")
    before = run.read_json("survey.json")
    after = run.read_json(str(run.need("compressed.json", f"compress {run.path}").name))
    accuracy = run.read_json("accuracy.json") if run.has("accuracy.json") else {}
    accuracy = accuracy if COMPRESSED in accuracy else None  # until then it is the original's alone
    plan = run.read_json("plan.json")
    artifacts = read_artifacts(run / "artifacts.json") if run.has("artifacts.json") else ()
    shared = shared_of(run)
    every = read_measurements(run)
    measured, elsewhere = on_one_device(every)
    device = next((row.device for row in reversed(measured) if not isinstance(row, Simulated)), None)
    again = bench_command(run.path, device, measured)
    names = dict.fromkeys(artifact.format for artifact in artifacts)
    formats = tuple(_format_row(name, RunFiles(run.path), artifacts, measured) for name in names)
    return Summary(
        title=str(network["name"]),
        origin=str(network["origin"]),
        input="x".join(map(str, network["input"])),
        data=settings["source"]["data"],
        rule=str(plan["rule"]),
        goal=str(plan["goal"]),
        parameters=Pair(before["parameters"], after["parameters"]),
        macs=Pair(before["macs"], after["macs"]),
        paper_parameters=after.get("paper_parameters"),
        accuracy=_accuracy(accuracy, network["outputs"]) if accuracy else None,
        layers=_layers(before, after, plan),
        formats=formats,
        device=device,
        notes=(
            *origin_notes(network, settings, accuracy is not None),
            *(tuning_notes(accuracy) if accuracy else ()),
            *kept_notes(network, settings.get("tune", {}), run.read_lines("tuning.jsonl")),
            *plan_notes(plan, run.has("tuned.safetensors") or shared is not None),
            *size_notes(settings, [(row.original.artifact, row.compressed.artifact) for row in formats]),
            *runtime_notes(settings, [row.format for row in formats], plan),
            *shared_notes(shared),
            *row_notes(formats, again),
            *_estimates(before, after, formats),
            *elsewhere,
        ),
        failures=(*changed_files(formats), *failures(artifacts)),
        again=again,
        shared=shared,
        beside=beside(every, device),
    )


def read_measurements(run: RunDirectory) -> tuple[Row, ...]:
    """Every row of the run's measurements.jsonl, oldest first; none where there is no file."""
    if not run.has("measurements.jsonl"):
        return ()
    return read(run / "measurements.jsonl")


def _format_row(name: str, run: RunFiles, artifacts: Sequence[Artifact], rows: Sequence[Row]) -> FormatRow:
    own = [artifact for artifact in artifacts if artifact.format == name]
    files = {artifact.network: _file_row(artifact, rows, run.altered(artifact)) for artifact in own}
    original, compressed = files[ORIGINAL], files[COMPRESSED]
    ratio = None
    if isinstance(original.row, Measurement) and isinstance(compressed.row, Measurement):
        same = original.row.session == compressed.row.session and not (original.row.invalid or compressed.row.invalid)
        ratio = time_ratio(compressed.row, original.row) if same else None
    return FormatRow(name, original, compressed, ratio)


def _file_row(artifact: Artifact, rows: Sequence[Row], altered: str) -> FileRow:
    own = [row for row in rows if (row.network, row.sha256) == (artifact.network, artifact.sha256)]
    # Counts and times never stand in one ranking: each has a place of its own.
    counted = tuple({row.device.name: row for row in own if isinstance(row, Simulated)}.values())
    row = next((row for row in reversed(own) if not isinstance(row, Simulated)), None)
    if isinstance(row, Measurement):
        times = None if row.invalid else summarize(row)
        return FileRow(artifact, row, times, row.memory.model_peak, counted, altered)
    return FileRow(artifact, row, None, None, counted, altered)


def _estimates(before: Mapping[str, Any], after: Mapping[str, Any], formats: Sequence[FormatRow]) -> list[str]:
    counted = [row.device.cpu for form in formats for row in (*form.original.simulated, *form.compressed.simulated)]
    return estimate_notes(before, after, dict.fromkeys(counted))


def _accuracy(rows: Mapping[str, Any], outputs: int) -> AccuracyChange:
    first, last = rows[ORIGINAL], rows[COMPRESSED]
    pairs = list(zip(first["correct"], last["correct"], strict=True))
    return AccuracyChange(
        images=len(pairs),
        top1=Pair(first["top1"], last["top1"]),
        top5=Pair(first["top5"], last["top5"]) if outputs > TOP else None,
        gained=sum(after and not before for before, after in pairs),
        lost=sum(before and not after for before, after in pairs),
        differing=sum(a != b for a, b in zip(first["predictions"], last["predictions"], strict=True)),
        untuned_top1=rows["cut"]["top1"] if "cut" in rows else None,
    )


def _layers(before: Mapping[str, Any], after: Mapping[str, Any], plan: Mapping[str, Any]) -> tuple[LayerRow, ...]:
    costs = {layer["name"]: layer["cost"] for layer in before["layers"]}
    rows = []
    for layer in plan["layers"]:
        name, kept = layer["name"], layer["method"] == KEEP
        parts = [row["cost"] for row in after["layers"] if row["name"] == name or row["name"].startswith(f"{name}.")]
        rows.append(
            LayerRow(
                name=name,
                weight="x".join(map(str, layer["weight"])),
                method=layer["method"],
                rank="" if kept else ", ".join(map(str, layer["rank"])),
                reason=layer["reason"],
                error=layer["error"],
                stability=after["stability"].get(name),
                parameters=_pair("parameters", costs[name], parts),
                macs=_pair("macs", costs[name], parts),
                ms=_times(layer),
            )
        )
    return tuple(rows)


def _pair(field: str, before: Mapping[str, int], parts: Sequence[Mapping[str, int]]) -> Pair:
    return Pair(before[field], sum(part[field] for part in parts))


def _times(layer: Mapping[str, Any]) -> Pair | None:
    """ms that the plan predicts for the layer as it was and as it becomes; None where it has no times."""
    before, after = layer.get("dense_ms"), layer.get("ms")
    return None if before is None or after is None else Pair(float(before), float(after))
