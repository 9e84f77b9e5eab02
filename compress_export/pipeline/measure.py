"""Measures the latency and memory of exported files on the device that is asked for, or there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.devices import DeviceEngine, choose, find
from bench.host.facts import pick_cores
from bench.measurement import BenchError, Measurement, Schedule, Simulated, append
from bench.run_files import RunFile
from compress_export.console import Reporter
from compress_export.errors import InputError
from compress_export.pipeline.load import RunContext
from compress_export.reporting.gather import read_measurements
from compress_export.settings import BenchSettings
from exporters.artifact import Artifact


def choose_device(settings: BenchSettings, reporter: Reporter) -> DeviceEngine:
    """The device that was asked for, or the one that is there; in that case it is said which, and why.

    InputError or BenchError if it cannot be used, before anything else is done.
    """
    name, why = settings.device or ("phone" if settings.serial or settings.inside != "shell" else None), ""
    if name is None:
        name, why = choose()
    engine = find(name, settings.serial, settings.inside)
    if name == "host":
        pick_cores(settings.threads)
    if name != "phone" and settings.cores is not None:
        raise InputError(
            f"--cores {settings.cores} names cores of a phone; pass --device phone as well, or leave it out"
        )
    where = engine.describe()
    if why:
        reporter.say(f"files will be measured on {where.name} ({where.kind}): {why}")
    return engine


def measure_stage(
    context: RunContext,
    artifacts: Sequence[Artifact],
    settings: BenchSettings,
    device: DeviceEngine,
    again: bool = False,
) -> None:
    """Latency and memory of every artifact on the device, added to measurements.jsonl format by format.

    Unless asked to measure again, files that were measured there with the same settings are not measured twice.
    """
    run, schedule, where = context.run, schedule_for(settings), device.describe()
    before = read_measurements(run)
    measured = {
        (row.network, row.sha256)
        for row in before
        if (isinstance(row, Simulated) and row.device == where)  # it counts the same whatever the schedule
        or (isinstance(row, Measurement) and (row.device, row.schedule) == (where, schedule) and not row.invalid)
    }
    todo = [artifact for artifact in artifacts if again or (artifact.network, artifact.sha256) not in measured]
    formats = sorted({artifact.format for artifact in todo})
    if not formats:
        return
    members = [artifact for artifact in artifacts if artifact.format in formats]
    with context.reporter.stage(f"Measuring {len(members)} files on {where.name} ({where.cpu})") as advance:
        for index, form in enumerate(formats):
            files = [artifact for artifact in members if artifact.format == form]

            def progress(done: float, total: float, now: str, before: int = index) -> None:
                advance(before + done / max(total, 1), len(formats), now)

            try:
                rows = device.measure(files, context.images.numpy(), schedule, progress)
            except BenchError as error:
                if error.rows:
                    append(run / RunFile.MEASUREMENTS, error.rows)
                raise
            # At once: a phone may be unplugged during the next format.
            append(run / RunFile.MEASUREMENTS, [row for row in rows if row not in before])


def schedule_for(settings: BenchSettings) -> Schedule:
    """The schedule of measuring that the settings ask for."""
    schedule = Schedule(threads=settings.threads, cluster=settings.cores)
    return schedule if settings.cap is None else replace(schedule, cap_seconds=settings.cap)
