"""report.json: the record for programs. docs/report.md describes every key."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import Any

from bench.measurement import Measurement, NotMeasured
from compress_export.reporting import counted, processes, profiled
from compress_export.reporting.record import Record
from compress_export.reporting.values import FileRow

VERSION = 1
"""Of report.json; raised when a key changes its meaning or goes."""


def as_json(record: Record) -> str:
    """The record as one JSON object, ending with a line end. What was not measured is null, never zero."""
    return json.dumps(_finite(plain(record)), indent=2, allow_nan=False) + "\n"


def plain(record: Record) -> dict[str, Any]:
    """The record as JSON holds it."""
    summary = record.summary
    return {
        "version": VERSION,
        "run": record.run,
        "command": record.command,
        "title": summary.title,
        "origin": summary.origin,
        "input": summary.input,
        "data": summary.data,
        "rule": summary.rule,
        "goal": summary.goal,
        "asked": record.asked,
        "failures": list(summary.failures),
        "notes": list(summary.notes),
        "parameters": asdict(summary.parameters),
        "macs": asdict(summary.macs),
        "paper_parameters": summary.paper_parameters,
        "accuracy": None if summary.accuracy is None else asdict(summary.accuracy),
        "shared": None if summary.shared is None else asdict(summary.shared),
        "layers": [asdict(layer) for layer in summary.layers],
        "cost_source": record.cost_source,
        "profile": profiled.plain(record.profiled),
        "files": [_file(file) for row in summary.formats for file in (row.original, row.compressed)],
        "time_ratios": {row.format: None if row.ratio is None else asdict(row.ratio) for row in summary.formats},
        "processes": processes.plain(summary.beside),
        "instructions": counted.plain(summary),
        "training": [asdict(row) for row in record.training],
        "tuning": [asdict(row) for row in record.tuning],
        "front": [asdict(point) for point in record.front],
        "environment": [list(pair) for pair in record.environment],
        "stored": [asdict(file) for file in record.files],
    }


def _file(file: FileRow) -> dict[str, Any]:
    artifact = file.artifact
    return {
        "name": artifact.path.name,
        "network": artifact.network,
        "format": artifact.format,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "dtype": artifact.dtype,
        "answers": file.answers,
        "altered": file.altered or None,
        "parity": None if artifact.parity is None else asdict(artifact.parity),
        "latency": _latency(file),
        "memory": asdict(file.row.memory) if isinstance(file.row, Measurement) else None,
        "model_peak_kb": file.memory_kb,
        "not_measured": _not_measured(file),
    }


def _not_measured(file: FileRow) -> str | None:
    if isinstance(file.row, Measurement):
        return f"times are invalid: {file.row.invalid}" if file.row.invalid else None
    return file.row.reason if isinstance(file.row, NotMeasured) else None


def _latency(file: FileRow) -> dict[str, Any] | None:
    if not isinstance(file.row, Measurement) or file.statistics is None:
        return None
    return {
        "device": asdict(file.row.device),
        "threads": file.row.threads,
        "measured_at": file.row.measured_at,
        "load_ms": file.row.load_ms,
        **asdict(file.statistics),
        "unsteady": list(file.unsteady),
    }


def _finite(value: Any) -> Any:
    """The value with null in place of what JSON cannot say (infinity, not a number)."""
    if isinstance(value, dict):
        return {key: _finite(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
