"""A run from end to end, and each of its verbs alone. The stages are in source.py, stages.py and file_stages.py."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

from bench.run_files import COMPRESSED, ORIGINAL
from compress_export.console import console, output_options, print_result
from compress_export.errors import InputError
from compress_export.pipeline import compress as stages
from compress_export.pipeline import fine_tune as tuning
from compress_export.pipeline import plan as planning
from compress_export.pipeline import share as sharing
from compress_export.pipeline.distributed import initialize, join, serve, shut_down
from compress_export.pipeline.export_and_measure import bench_stage, choose_device, export_stage
from compress_export.pipeline.load import RunContext, load
from compress_export.pipeline.validate import (
    check_goal,
    check_latency,
    check_regularizer,
    runtime_note,
    while_training,
    with_centroids,
)
from compress_export.progress import Reporter
from compress_export.reporting.gather import gather
from compress_export.reporting.model import Report
from compress_export.reporting.notes import failures
from compress_export.reporting.pages import as_json, renew_pages, write_pages
from compress_export.reporting.terminal import show, show_plan
from compress_export.run_directory import RunDirectory, open_run
from compress_export.settings import BenchSettings, PlanSettings, ShareSettings, SourceSettings, TuneSettings
from compressor.distributed import SINGLE_PROCESS, ProcessGroup
from compressor.plan import Plan
from exporters.artifact import ExportError, read_artifacts


@dataclass(frozen=True)
class RunRequest:
    """What a whole run was asked for."""

    source: SourceSettings
    plan: PlanSettings
    tune: TuneSettings
    formats: tuple[str, ...]
    bench: BenchSettings
    share: ShareSettings = field(default_factory=ShareSettings)


JOBS: dict[str, Callable[..., object]] = {
    "losses": planning.measure_probe_points,
    "drops": planning.probe_layers,
    "tune": tuning.tune,
}
"""What all processes of a group do at once."""


def on_main_process(work: Callable[[ProcessGroup], object], mixed_precision: bool = False) -> None:
    """Does the context in the process that leads; the others that torchrun started do what it sends them."""
    group = initialize(mixed_precision)
    if not group.is_main:
        serve(group, JOBS)
        return
    work(group)
    shut_down(group)


def run_all(path: Path, request: RunRequest, force: bool = False, group: ProcessGroup = SINGLE_PROCESS) -> Report:
    """The report of a whole run in the directory `path`, printed as well.

    ExportError after the report is written, if a file is not to be shipped: a layer that was not delegated, or answers
    that differ from the module's.
    """
    planning.check_plan_settings(request.plan)
    tune = with_centroids(request.tune, request.share)
    source = while_training(request.source, tune)
    check_regularizer(source, tune)
    check_goal(source, request.plan)
    device = choose_device(request.bench, Reporter())
    _foretell(
        check_latency(request.plan, request.bench, device.describe()), runtime_note(request.plan, request.formats)
    )
    with open_run(path) as run:
        stale_source = run.stale("source", source, force)
        stale_plan = run.stale("plan", request.plan, force)
        stale_tune = run.stale("tune", tune, force)
        stale_share = run.stale("share", request.share, force)
        context = _context(run, source, stale_source, group)
        stages.baseline_stage(context)
        plan, verified = planning.plan_stage(context, request.plan, stale_plan)
        cut = stages.cut_stage(context, plan, verified)
        tuned = tuning.tune_stage(context, plan, cut, tune, stale_tune)
        shared = sharing.share_stage(context, tuned, request.share, stale_share)
        stages.accuracy_stage(context, _modules(context, cut, tuned, shared))
        artifacts = export_stage(context, shared, request.formats)
        bench_stage(context, artifacts, request.bench, device)
        report = _report(run)
    _stop(report.failures)
    return report


def _foretell(*notes: str) -> None:
    for note in filter(None, notes):
        Reporter().say(f"note: {note}")


def tuned_run(
    path: Path, source: SourceSettings, settings: PlanSettings, tune: TuneSettings, group: ProcessGroup = SINGLE_PROCESS
) -> RunContext:
    """A run in the directory `path` as far as its accuracy: planned, cut, tuned, nothing exported."""
    planning.check_plan_settings(settings)
    check_goal(source, settings)
    with open_run(path) as run:
        stale = run.stale("source", source, False), run.stale("plan", settings, False), run.stale("tune", tune, False)
        context = _context(run, source, stale[0], group)
        plan, verified = planning.plan_stage(context, settings, stale[1])
        cut = stages.cut_stage(context, plan, verified)
        tuned = tuning.tune_stage(context, plan, cut, tune, stale[2])
        stages.accuracy_stage(context, _modules(context, cut, tuned, tuned))
    return context


def plan_only(
    path: Path,
    source: SourceSettings,
    settings: PlanSettings,
    force: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Plan:
    """The plan of a run, written and printed."""
    planning.check_plan_settings(settings)
    check_goal(source, settings)
    with open_run(path) as run:
        stale_source = run.stale("source", source, force)
        stale_plan = run.stale("plan", settings, force)
        context = _context(run, source, stale_source, group)
        plan, _ = planning.plan_stage(context, settings, stale_plan)
        print_result(plan.to_json(), lambda: show_plan(plan, context.survey, console()))
        context.reporter.say(f"{run / 'plan.json'}: go on with `compress-export compress {path}`")
    return plan


def compress_only(path: Path) -> None:
    """Writes the cut network of the run at `path`, and its accuracy where there is data."""
    with _existing(path, "plan.json", f"plan NETWORK --name {path.name}") as (run, context):
        cut = stages.cut_stage(context, Plan.read(run / "plan.json"))
        if not (run.has("tuned.safetensors") or run.has(sharing.PACKED)):
            stages.accuracy_stage(context, _modules(context, cut, cut, cut))
        Reporter().say(f"{run / 'compressed.safetensors'}: {_next(context, path)}")


def _next(context: RunContext, path: Path) -> str:
    """What to do with a cut network: tune it where there is data to tune with, else export it."""
    export = f"compress-export export {path} --target android"
    return f"go on with `compress-export tune {path}`, or `{export}`" if context.trainable else f"go on with `{export}`"


def tune_only(path: Path, settings: TuneSettings, force: bool = False, group: ProcessGroup = SINGLE_PROCESS) -> None:
    """Fine-tunes the compressed network of the run at `path` and measures its accuracy."""
    with _existing(path, "compressed.safetensors", f"compress {path}", group) as (run, context):
        if not context.trainable:
            lacks = "data" if context.data is None else "trained weights"
            raise InputError(f"{path} has no {lacks} to tune with; plan a run with --data and trained weights")
        check_regularizer(_source(run), settings)
        stale = run.stale("tune", settings, force)
        plan = Plan.read(run / "plan.json")
        cut = stages.cut_stage(context, plan)
        tuned = tuning.tune_stage(context, plan, cut, settings, stale)
        if not run.has(sharing.PACKED):
            stages.accuracy_stage(context, _modules(context, cut, tuned, tuned))
        if tuned is cut:
            Reporter().say("nothing was tuned: no layer is factored, or --epochs is 0")
        Reporter().say(f"go on with `compress-export export {path} --target android`")


def share_only(path: Path, settings: ShareSettings, force: bool = False) -> None:
    """Shares weights of the run at `path`, as it was tuned, or cut where it was not, and measures its accuracy."""
    with _existing(path, "compressed.safetensors", f"compress {path}") as (run, context):
        stale = run.stale("share", settings, force)
        cut, tuned = _newest(run, context, path)
        shared = sharing.share_stage(context, tuned, settings, stale)
        stages.accuracy_stage(context, _modules(context, cut, tuned, shared))
        if run.has(sharing.PACKED):
            size = (run / sharing.PACKED).stat().st_size
            Reporter().say(f"{run / sharing.PACKED}: {size:,} bytes; exported files do not become smaller by it")
        Reporter().say(f"go on with `compress-export export {path} --target android`")


def _newest(run: RunDirectory, context: RunContext, path: Path) -> tuple[nn.Module, nn.Module]:
    """The cut network, and the tuned one (the same where it was not tuned). InputError amid a tuning."""
    if run.has("tuning.pt"):
        raise InputError(f"the tuning of {path} was interrupted; finish it with `compress-export tune {path}`")
    plan = Plan.read(run / "plan.json")
    cut = stages.cut_stage(context, plan)
    tuned = run.has("tuned.safetensors")
    return cut, stages.load_module(context, plan, "tuned.safetensors") if tuned else cut


def export_only(path: Path, formats: tuple[str, ...]) -> None:
    """Exports the shared network of the run at `path`, else the tuned one, else the cut one."""
    with _existing(path, "compressed.safetensors", f"compress {path}") as (run, context):
        _, module = _newest(run, context, path)
        if run.has("sharing.pt"):
            raise InputError(f"the sharing of {path} was interrupted; finish it with `compress-export share {path}`")
        if run.has(sharing.PACKED):
            module = sharing.packed_module(context, module)
        artifacts = export_stage(context, module, formats)
        renew_pages(run)
        for artifact in artifacts:
            Reporter().say(f"{artifact.path}: {artifact.bytes:,} bytes, answers {artifact.verdict}")
        Reporter().say(f"go on with `compress-export bench {path}`")
    _stop(failures(artifacts))


def bench_only(path: Path, settings: BenchSettings) -> None:
    """Measures every file of the run at `path` once more."""
    device = choose_device(settings, Reporter())
    with _existing(path, "artifacts.json", f"export {path} --target android") as (run, context):
        try:
            bench_stage(context, read_artifacts(run / "artifacts.json"), settings, device, again=True)
        finally:
            renew_pages(run)  # a fault or Ctrl-C leaves the rows of the formats before it
        _tell(gather(run))


def images_of(run: RunDirectory) -> Any:
    """The real images on which the run's files are compared and measured, float32 (N, C, H, W)."""
    return _context(run, _source(run)).images.numpy()


def report_only(path: Path | str) -> Report:
    """The report of the run at `path`, after writing its pages and printing its closing table.

    InputError if `path` is no run directory or has no plan yet; ExportError if a file is not to be shipped.
    """
    with open_run(Path(path), create=False) as run:
        report = _report(run)
    _stop(report.failures)
    return report


def _context(
    run: RunDirectory, source: SourceSettings, stale: bool = False, group: ProcessGroup = SINGLE_PROCESS
) -> RunContext:
    reporter = Reporter()
    if run.has("network.json") and not stale:
        reporter.say(f"going on in {run.path}: what is there already is not made again")
    context = load(run, source, reporter, stale, group)
    join(context)
    return context


@contextmanager
def _existing(
    path: Path, needed: str, verb: str, group: ProcessGroup = SINGLE_PROCESS
) -> Iterator[tuple[RunDirectory, RunContext]]:
    """An existing run with its network and data as its settings name them. InputError if it lacks the file `needed`."""
    with open_run(path, create=False) as run:
        run.need(needed, verb)
        yield run, _context(run, _source(run), group=group)


def _source(run: RunDirectory) -> SourceSettings:
    source = run.stored().source
    if source is None:
        raise InputError(f"{run / 'settings.json'} names no network; make the run again")
    return source


def _modules(context: RunContext, cut: nn.Module, tuned: nn.Module, shared: nn.Module) -> dict[str, nn.Module]:
    modules = {ORIGINAL: context.network.module, COMPRESSED: shared}
    if tuned is not cut:
        modules["cut"] = cut
    return modules if shared is tuned else {**modules, "unshared": tuned}


def _report(run: RunDirectory) -> Report:
    report = write_pages(run)
    _tell(report)
    Reporter().say(f"the whole report: {run / 'report.html'} (report.md and report.json say the same)")
    return report


def _tell(report: Report) -> None:
    """The closing table, or what report.json holds."""
    print_result(as_json(report) if output_options().as_json else "", lambda: show(report, console()))


def _stop(found: tuple[str, ...]) -> None:
    if found:
        raise ExportError(f"do not ship this: {'; '.join(found)}")
