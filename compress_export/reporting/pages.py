"""The pages of a run, which say the same: report.html, report.md and report.json. docs/report.md describes each key."""

from __future__ import annotations

from typing import Any

import msgspec

from bench.measurement import NotMeasured, Simulated
from bench.run_files import FileAccuracy, RunFile
from bench.statistics import summarize
from compress_export.console import Reporter
from compress_export.reporting.figures import shell_ratio
from compress_export.reporting.gather import gather
from compress_export.reporting.html import html
from compress_export.reporting.markdown import markdown
from compress_export.reporting.model import FileRow, Report, comparable
from compress_export.run_directory import RunDirectory

VERSION = 2
"""Of report.json; raised when a key changes its meaning or goes."""


def write_pages(run: RunDirectory) -> Report:
    """Writes all three, each whole or not at all; the report that they say. InputError as `gather` gives it."""
    report = gather(run)
    run.write_text(RunFile.REPORT_MARKDOWN, markdown(report))
    run.write_text(RunFile.REPORT_JSON, as_json(report))
    run.write_text(RunFile.REPORT_HTML, html(report))
    return report


def renew_pages(run: RunDirectory) -> None:
    """Writes the pages again, and says so, where the run has them: they lack what was measured or exported since."""
    if run.has(RunFile.REPORT_HTML):
        write_pages(run)
        Reporter().say(f"{run / RunFile.REPORT_HTML}, report.md and report.json are written anew")


def as_json(report: Report) -> str:
    """The report as one JSON object, ending with a line end. What was not measured is null, never zero."""
    # msgspec writes null for what JSON cannot say (infinity, not a number)
    return msgspec.json.format(msgspec.json.encode(plain(report)), indent=2).decode() + "\n"


def plain(report: Report) -> dict[str, Any]:
    """The report as JSON holds it."""
    left_out = ("formats", "changed_settings", "device", "again", "processes")
    fields = {name: getattr(report, name) for name in report.__dataclass_fields__ if name not in left_out}
    value: dict[str, Any] = msgspec.to_builtins(
        {
            "version": VERSION,
            **fields,
            "files": [_file(file) for file in report.files],
            "time_ratios": {row.title: row.ratio for row in report.formats},
            "time_ratios_to_float32": {row.title: row.base_ratio for row in report.formats if row.base is not None},
            "processes": [
                {
                    "file": f"{row.network}.{row.format}",
                    "process": row.device.process,
                    **{name: getattr(summarize(row), name) for name in ("p50", "p90", "runs")},
                    "of_shell": shell_ratio(row, report.processes),
                    "model_peak_kb": row.memory.model_peak,
                }
                for row in report.processes
            ],
            "instructions": [
                _counted(file, row, form.before.counted_on(row.device.name) if file is not form.before else None)
                for form in report.formats
                for file in form.files
                for row in file.simulated
            ],
        }
    )
    return value


def _file(file: FileRow) -> dict[str, object]:
    artifact, row, latency = file.artifact, file.measured, None
    if row is not None and file.statistics is not None:
        latency = {
            "device": row.device,
            "threads": row.threads,
            "measured_at": row.measured_at,
            "load_ms": row.load_ms,
            **msgspec.to_builtins(file.statistics),
            "unsteady": file.unsteady,
        }
    reason = file.row.reason if isinstance(file.row, NotMeasured) else None
    if row is not None and row.invalid:
        reason = f"times are invalid: {row.invalid}"
    return {
        "name": file.name,
        "network": artifact.network,
        "format": artifact.format,
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "dtype": artifact.dtype,
        "verdict": file.verdict,
        "altered": file.altered or None,
        "parity": artifact.parity,
        "accuracy": None if file.accuracy is None else _without_images(file.accuracy),
        "latency": latency,
        "memory": None if row is None else row.memory,
        "model_peak_kb": file.memory_kb,
        "not_measured": reason,
    }


def _without_images(accuracy: FileAccuracy) -> dict[str, object]:
    """The accuracy without a figure for every image, which accuracy.json has."""
    return {name: getattr(accuracy, name) for name in ("top1", "top5", "flipped", "images")}


def _counted(file: FileRow, row: Simulated, first: Simulated | None) -> dict[str, object]:
    same = first is not None and comparable(first, row)
    return {
        "file": file.name,
        "core": row.device.name,
        "device": row.device,
        "emulator": row.emulator,
        "runtime": row.runtime,
        "runtime_version": row.runtime_version,
        "images": row.images,
        "measured_at": row.measured_at,
        **{
            name: {"instructions": counts.instructions, **msgspec.to_builtins(counts)}
            for name, counts in (("load", row.load), ("first", row.first), ("run", row.run))
        },
        "fewer": first.run.instructions / row.run.instructions if first is not None and same else None,
        "traffic": row.traffic and {**msgspec.to_builtins(row.traffic), "memory_bytes": row.traffic.memory_bytes},
        "allocated_peak_kb": row.memory.model_peak,
        "parity": row.parity,
    }
