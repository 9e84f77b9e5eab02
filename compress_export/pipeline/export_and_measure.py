"""The stages that make files and measure them: export_stage(), bench_stage()."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace

from torch import nn

from bench.devices import DeviceEngine, choose, find
from bench.host.facts import pick_cores
from bench.measurement import BenchError, Device, NotMeasured, Row, Schedule, Simulated, append
from bench.run_files import COMPRESSED, ORIGINAL
from compress_export.errors import InputError
from compress_export.pipeline.load import RunContext
from compress_export.progress import Advance, Reporter
from compress_export.reporting.gather import read_measurements
from compress_export.settings import BenchSettings
from exporters.artifact import Artifact, read_artifacts, size_and_sha256, write_artifacts


def export_stage(context: RunContext, compressed: nn.Module, formats: Sequence[str]) -> tuple[Artifact, ...]:
    """Every format of the original and the compressed network, those exported before included. Files that are no
    longer as they were recorded are exported again if asked for; else they are left out, and stay on record as such."""
    from exporters import capture as program
    from exporters.export_all import export_all
    from exporters.parity import logits_of

    run = context.run
    recorded = read_artifacts(run / "artifacts.json") if run.has("artifacts.json") else ()
    damaged = {each.format for each in recorded if not _whole(each)}
    for name in sorted(damaged):
        cure = "exporting them again" if name in formats else f"`compress-export export {run.path} --format {name}`"
        context.reporter.say(f"files of {name} are gone or have changed: {cure}")
    stays = [artifact for artifact in recorded if artifact.format in damaged - set(formats)]
    done = tuple(artifact for artifact in recorded if artifact.format not in damaged)
    missing = [name for name in formats if name not in {artifact.format for artifact in done}]
    if not missing:
        return done
    artifacts = list(done)

    def record(made: tuple[Artifact, ...]) -> None:
        artifacts.extend(made)
        write_artifacts(run / "artifacts.json", [*artifacts, *stays])

    work = run / "artifacts" / ".work"
    work.mkdir(parents=True, exist_ok=True)
    try:
        with context.reporter.stage(f"Exporting {' '.join(missing)}") as advance:
            modules = {ORIGINAL: context.network.module, COMPRESSED: compressed}
            programs, reference = {}, {}
            for name, module in modules.items():
                advance(0, 2 * len(missing) + 1, f"capturing the {name} network")
                programs[name] = work / f"{name}.pt2"
                program.save(program.capture(module, context.images[:1]), programs[name])
                reference[name] = logits_of(module, context.images.numpy())
            export_all(
                programs,
                missing,
                run / "artifacts",
                context.images.numpy(),
                reference,
                progress=_export_progress(advance, len(missing)),
                finished=record,
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tuple(artifacts)


def _whole(artifact: Artifact) -> bool:
    """Whether the file is there and still the one that was recorded."""
    return artifact.path.exists() and size_and_sha256(artifact.path) == (artifact.bytes, artifact.sha256)


def _export_progress(advance: Advance, formats: int) -> Callable[[str, str, str], None]:
    finished = 0

    def note(name: str, network: str, stage: str) -> None:
        nonlocal finished
        finished += stage == "done"
        advance(1 + finished, 2 * formats + 1, f"{network} .{name}: {stage}")

    return note


def choose_device(settings: BenchSettings, reporter: Reporter) -> DeviceEngine:
    """The device that was asked for, or the one that is there; in that case it is said which, and why.

    InputError or BenchError if it cannot be used, before anything else is done.
    """
    name, why = settings.device or ("phone" if settings.serial or settings.inside != "shell" else None), ""
    if name is None:
        name, why = choose(settings.threads)
    engine = find(name, settings.serial, settings.inside)
    if name == "host":
        pick_cores(settings.threads)
    if name != "phone" and settings.cores is not None:
        raise InputError(
            f"--cores {settings.cores} names cores of a phone; pass --device phone as well, or leave it out"
        )
    where = engine.describe()
    if why:
        counts = "; it counts instructions and tells no times, --device host does" if where.kind == "simulated" else ""
        reporter.say(f"files will be measured on {where.name} ({where.kind}): {why}{counts}")
    return engine


def bench_stage(
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
    known = {_measured(row) for row in before}
    wanted = {(where, schedule), (where, None)}
    todo = [each for each in artifacts if again or not known & {(each.network, each.sha256, *key) for key in wanted}]
    formats = sorted({artifact.format for artifact in todo})
    if not formats:
        return
    members = [artifact for artifact in artifacts if artifact.format in formats]
    with context.reporter.stage(f"Measuring {len(members)} files on {where.name} ({where.cpu})") as advance:
        for place, form in enumerate(formats):
            files = [artifact for artifact in members if artifact.format == form]
            progress = _within(advance, place, len(formats))
            try:
                rows = device.measure(files, context.images.numpy(), schedule, progress)
            except BenchError as error:
                if error.rows:
                    append(run / "measurements.jsonl", error.rows)
                raise
            # At once: a phone may be unplugged during the next format.
            append(run / "measurements.jsonl", [row for row in rows if row not in before])


def _within(advance: Advance, part: int, parts: int) -> Advance:
    """Progress of one part among several of equal length."""
    return lambda done, total, now: advance(part + done / max(total, 1), parts, now)


def schedule_for(settings: BenchSettings) -> Schedule:
    schedule = Schedule(threads=settings.threads, cluster=settings.cores)
    return schedule if settings.cap is None else replace(schedule, cap_seconds=settings.cap)


def _measured(row: Row) -> tuple[str, str, Device, Schedule | None] | None:
    """What was measured, where and how; None for what is to be measured still, or whose times are not to be used."""
    if isinstance(row, Simulated):
        return row.network, row.sha256, row.device, None
    if isinstance(row, NotMeasured):
        return None
    return None if row.invalid else (row.network, row.sha256, row.device, row.schedule)
