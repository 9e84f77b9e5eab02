"""A run from end to end, and each of its verbs alone: stages in their order, each resuming from the run's files."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stderr
from dataclasses import asdict
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import msgspec
import torch
from torch import nn

from bench.run_files import COMPRESSED, ORIGINAL, RunFile
from compress_export.console import Reporter, console, output_options, print_result, quietly
from compress_export.errors import InputError
from compress_export.pipeline.compress import compress_stage
from compress_export.pipeline.export import check_types, export_stage, unwritten_formats
from compress_export.pipeline.fine_tune import fine_tune_stage, train
from compress_export.pipeline.load import RunContext, load, stored_source
from compress_export.pipeline.measure import choose_device, measure_stage
from compress_export.pipeline.plan import measure_probe_points, plan_stage, probe_layers
from compress_export.pipeline.quantize import check_calibration
from compress_export.pipeline.share import PACKED, packed_module, share_stage
from compress_export.pipeline.validate import (
    RunRequest,
    check_goal,
    check_latency,
    check_regularizer,
    runtime_note,
    timed_type_note,
    validated,
    with_costs,
)
from compress_export.reporting.gather import gather
from compress_export.reporting.model import Report
from compress_export.reporting.notes import failures
from compress_export.reporting.pages import as_json, renew_pages, write_pages
from compress_export.reporting.terminal import show, show_plan
from compress_export.run_directory import RunDirectory, RunSettings, open_run
from compress_export.settings import (
    BenchSettings,
    ExportSettings,
    PlanSettings,
    Section,
    ShareSettings,
    SourceSettings,
    TuneSettings,
)
from compressor.distributed import SINGLE_PROCESS, AccelerateGroup, ProcessGroup
from compressor.equivalence import DIFFERS, FactorsDifferError
from compressor.plan import Plan
from compressor.training.loop import Accuracy, accuracy
from exporters.artifact import ExportError, read_artifacts

JOBS: dict[str, Callable[..., object]] = {"losses": measure_probe_points, "drops": probe_layers, "tune": train}
"""Jobs that all processes of a group do at once."""

LOAD, LEAVE = "load", "leave"
FILES = (RunFile.NETWORK, RunFile.ORIGINAL_WEIGHTS)


def on_main_process(work: Callable[[ProcessGroup], object], mixed_precision: bool = False) -> None:
    """Does the work in the main process; the others that torchrun started do the jobs that it sends them."""
    group = initialize(mixed_precision)
    if group.is_main:
        work(group)
        group.broadcast((LEAVE, RunSettings(), ()))
    else:
        _serve(group)


def initialize(mixed_precision: bool = False) -> ProcessGroup:
    """The processes that train together: those that torchrun started, one with a GPU, or one on the CPU.

    InputError for mixed precision without a CUDA GPU.
    """
    gpu = torch.cuda.is_available()
    if mixed_precision and not gpu:
        raise InputError(
            "fine_tune.mixed_precision trains in half precision on a CUDA GPU, and this machine has none; leave it out"
        )
    if not gpu and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE_PROCESS
    half = "bf16" if gpu and torch.cuda.is_bf16_supported() else "fp16"
    return AccelerateGroup(half if mixed_precision else "no")


def _serve(group: ProcessGroup) -> None:
    """Does every job that the main process sends, in a run directory of its own, silently, until it is shut down."""
    context: RunContext | None = None
    with TemporaryDirectory() as folder, quietly(), redirect_stderr(StringIO()):
        run = RunDirectory(Path(folder))
        while True:
            job, settings, arguments = group.broadcast(("", RunSettings(), tuple[Any, ...]()))
            if job == LEAVE:
                return
            run.store(settings)
            if job == LOAD:
                for name, content in zip(FILES, arguments, strict=True):
                    (run / name).write_bytes(content)
                context = load(run, stored_source(run), Reporter(), group=group)
            else:
                JOBS[job](context, *arguments)


def _load(
    run: RunDirectory, source: SourceSettings, stale: bool = False, group: ProcessGroup = SINGLE_PROCESS
) -> RunContext:
    """The context that `source` describes, in the other processes of the group as well."""
    reporter = Reporter()
    if run.has(RunFile.NETWORK) and not stale:
        reporter.say(f"going on in {run.path}: what is there already is not made again")
    context = load(run, source, reporter, stale, group)
    if group is not SINGLE_PROCESS:
        context.send(LOAD, *((run / name).read_bytes() for name in FILES))
    return context


def run_all(path: Path, request: RunRequest, force: bool = False, group: ProcessGroup = SINGLE_PROCESS) -> Report:
    """The report of a whole run in the directory `path`, printed as well.

    ExportError after the report is written, if a file is not to be shipped (a layer that was not delegated, or outputs
    that differ from the module's), or a format could not be written.
    """
    request = validated(request)
    device = choose_device(request.bench, Reporter())
    latency = check_latency(request.plan, request.bench, device.describe())
    types = check_types(request.formats, request.export)
    for note in filter(
        None, (latency, runtime_note(request.plan, request.formats), timed_type_note(request.plan), types)
    ):
        Reporter().say(f"note: {note}")
    with open_run(path) as run:
        context, module = _compressed(run, request, force, group)
        artifacts = export_stage(context, module, request.formats, request.export)
        measure_stage(context, artifacts, request.bench, device)
        report = _report(run)
    _stop(report.failures, report.unwritten)
    return report


def compressed_run(path: Path, request: RunRequest, group: ProcessGroup = SINGLE_PROCESS) -> RunContext:
    """A run in the directory `path` as far as the accuracy of its compressed network; nothing is exported."""
    with open_run(path) as run:
        return _compressed(run, validated(request), False, group)[0]


def _compressed(
    run: RunDirectory, request: RunRequest, force: bool, group: ProcessGroup
) -> tuple[RunContext, nn.Module]:
    """The run's context, and the network as it is exported: planned, compressed, fine-tuned, its weights shared."""
    sections: dict[str, Section] = {
        "source": request.source,
        "plan": request.plan,
        "tune": request.tune,
        "share": request.share,
    }
    stale = {name for name, settings in sections.items() if run.stale(name, settings, force)}
    context = _load(run, request.source, "source" in stale, group)
    check_calibration(context, request.export)
    # Before hours are spent: an image of the test set that cannot be read is found, and a wrong figure is seen.
    _evaluate(context, {ORIGINAL: context.network.module})
    context, plan, compressed = _planned(context, request.plan, "plan" in stale)
    tuned = fine_tune_stage(context, plan, compressed, request.tune, "tune" in stale)
    shared = share_stage(context, tuned, request.share, "share" in stale)
    _evaluate(context, _modules(context, compressed, tuned, shared))
    return context, shared


def _planned(context: RunContext, settings: PlanSettings, stale: bool) -> tuple[RunContext, Plan, nn.Module]:
    """The plan and the network compressed by it. Layers whose factors the network does not run as it runs them are
    kept, and the plan is made again; FactorsDifferError where it was given."""
    while True:
        try:
            plan, verified = plan_stage(context, settings, stale)
            return context, plan, compress_stage(context, plan, verified)
        except FactorsDifferError as error:
            if settings.plan or settings.ranks:
                raise
            context.reporter.say(f"note: {', '.join(error.layers)}: kept, {DIFFERS}: planning again")
            context, stale = context.keeping(error.layers), True


def plan_only(
    path: Path,
    source: SourceSettings,
    settings: PlanSettings,
    force: bool = False,
    group: ProcessGroup = SINGLE_PROCESS,
) -> Plan:
    """The plan of a run, written and printed."""
    settings = with_costs(settings)
    check_goal(source, settings)
    with open_run(path) as run:
        stale_source, stale_plan = run.stale("source", source, force), run.stale("plan", settings, force)
        context = _load(run, source, stale_source, group)
        plan, _ = plan_stage(context, settings, stale_plan)
        print_result(plan.to_json(), lambda: show_plan(plan, context.survey, console(), context.objective.metric))
        context.reporter.say(f"{run / RunFile.PLAN}: go on with `compress-export compress {path}`")
    return plan


def compress_only(path: Path) -> None:
    """Writes the compressed network of the run at `path`, and its accuracy where there is data."""
    with _existing(path, RunFile.PLAN, f"plan NETWORK --name {path.name}") as context:
        run = context.run
        compressed = compress_stage(context, Plan.read(run / RunFile.PLAN))
        if not (run.has(RunFile.TUNED_WEIGHTS) or run.has(PACKED)):
            _evaluate(context, _modules(context, compressed, compressed, compressed))
        ways = [f"`compress-export export {path} --target android`"]
        if context.trainable:
            ways.insert(0, f"`compress-export tune {path}`")
        Reporter().say(f"{run / RunFile.COMPRESSED_WEIGHTS}: go on with {', or '.join(ways)}")


def tune_only(path: Path, settings: TuneSettings, force: bool = False, group: ProcessGroup = SINGLE_PROCESS) -> None:
    """Fine-tunes the compressed network of the run at `path` and measures its accuracy."""
    with _existing(path, RunFile.COMPRESSED_WEIGHTS, f"compress {path}", group) as context:
        run = context.run
        if not context.trainable:
            lacks = "data" if context.data is None else "trained weights"
            raise InputError(f"{path} has no {lacks} to tune with; plan a run with --data and trained weights")
        check_regularizer(stored_source(run), settings)
        stale = run.stale("tune", settings, force)
        plan = Plan.read(run / RunFile.PLAN)
        compressed = compress_stage(context, plan)
        tuned = fine_tune_stage(context, plan, compressed, settings, stale)
        if not run.has(PACKED):
            _evaluate(context, _modules(context, compressed, tuned, tuned))
        if tuned is compressed:
            Reporter().say("nothing was tuned: no layer is factored, or --epochs is 0")
        Reporter().say(f"go on with `compress-export export {path} --target android`")


def share_only(path: Path, settings: ShareSettings, force: bool = False) -> None:
    """Shares weights of the run at `path`, tuned or not, and measures its accuracy."""
    with _existing(path, RunFile.COMPRESSED_WEIGHTS, f"compress {path}") as context:
        run = context.run
        stale = run.stale("share", settings, force)
        compressed, tuned = _newest(context)
        shared = share_stage(context, tuned, settings, stale)
        _evaluate(context, _modules(context, compressed, tuned, shared))
        if run.has(PACKED):
            size = (run / PACKED).stat().st_size
            Reporter().say(f"{run / PACKED}: {size:,} bytes; of exported files, .onnx becomes smaller by it")
        Reporter().say(f"go on with `compress-export export {path} --target android`")


def export_only(path: Path, formats: tuple[str, ...], settings: ExportSettings) -> None:
    """Exports the shared network of the run at `path`, else the tuned one, else the one that is only compressed."""
    note = check_types(formats, settings)
    if note:
        Reporter().say(f"note: {note}")
    with _existing(path, RunFile.COMPRESSED_WEIGHTS, f"compress {path}") as context:
        run = context.run
        _, module = _newest(context)
        if run.has(RunFile.SHARING_CHECKPOINT):
            raise InputError(f"the sharing of {path} was interrupted; finish it with `compress-export share {path}`")
        if run.has(PACKED):
            module = packed_module(context, module)
        artifacts = export_stage(context, module, formats, settings)
        renew_pages(run)
        for artifact in artifacts:
            Reporter().say(f"{artifact.path}: {artifact.bytes:,} bytes, parity {artifact.verdict}")
        Reporter().say(f"go on with `compress-export bench {path}`")
        unwritten = unwritten_formats(run)
    _stop(failures(artifacts), unwritten)


def bench_only(path: Path, settings: BenchSettings) -> None:
    """Measures every file of the run at `path` once more."""
    device = choose_device(settings, Reporter())
    with _existing(path, RunFile.ARTIFACTS, f"export {path} --target android") as context:
        run = context.run
        try:
            measure_stage(context, read_artifacts(run / RunFile.ARTIFACTS), settings, device, again=True)
        finally:
            renew_pages(run)  # a fault or Ctrl-C leaves the rows of the formats before it
        _tell(gather(run))


def report_only(path: Path | str) -> Report:
    """The report of the run at `path`, after writing its pages and printing its closing table.

    InputError if `path` is no run directory or has no plan yet; ExportError if a file is not to be shipped.
    """
    with open_run(Path(path), create=False) as run:
        report = _report(run)
    _stop(report.failures, report.unwritten)
    return report


@contextmanager
def _existing(path: Path, needed: str, verb: str, group: ProcessGroup = SINGLE_PROCESS) -> Iterator[RunContext]:
    """An existing run with its network and data as its settings name them. InputError if it lacks the file `needed`."""
    with open_run(path, create=False) as run:
        run.need(needed, verb)
        yield _load(run, stored_source(run), group=group)


def _newest(context: RunContext) -> tuple[nn.Module, nn.Module]:
    """The compressed network before and after tuning (the same where it was not tuned). InputError amid a tuning."""
    run = context.run
    if run.has(RunFile.TUNING_CHECKPOINT):
        raise InputError(f"the tuning of {run.path} was interrupted; finish it with `compress-export tune {run.path}`")
    plan = Plan.read(run / RunFile.PLAN)
    compressed = compress_stage(context, plan)
    tuned = run.has(RunFile.TUNED_WEIGHTS)
    return compressed, context.load_module(plan, RunFile.TUNED_WEIGHTS) if tuned else compressed


def _modules(context: RunContext, compressed: nn.Module, tuned: nn.Module, shared: nn.Module) -> dict[str, nn.Module]:
    """The networks whose accuracy is recorded, by their names in accuracy.json."""
    modules = {ORIGINAL: context.network.module, COMPRESSED: shared}
    if tuned is not compressed:
        modules["untuned"] = compressed
    return modules if shared is tuned else {**modules, "unshared": tuned}


def _evaluate(context: RunContext, modules: Mapping[str, nn.Module]) -> None:
    """Writes accuracy.json: top-1, top-5 and every prediction on the test set, for each module by name.

    The original's accuracy is kept once it is known; alone it is measured only where the file has none yet.
    """
    run = context.run
    if context.objective.score is not None or stored_source(run).evaluate is not None:
        from compress_export.pipeline.task_metric import measure_metrics

        measure_metrics(context, modules)
    if not context.trainable or context.data is None or context.objective.score is not None:
        return
    rows: dict[str, Accuracy] = {}
    if run.has(RunFile.ACCURACY):
        rows = msgspec.convert(run.read_json(RunFile.ACCURACY), dict[str, Accuracy])
    known = {name for name in rows if "." not in name}  # the others are files
    if known == set(modules) or (known and set(modules) == {ORIGINAL}):
        return
    with context.reporter.stage(f"Measuring the accuracy of {', '.join(modules)} on the test set") as advance:
        for done, (name, module) in enumerate(modules.items()):
            advance(done, len(modules), name)
            if name != ORIGINAL or ORIGINAL not in rows:
                rows[name] = accuracy(module, context.data.test, context.group.device)
    run.write_json(RunFile.ACCURACY, {name: asdict(rows[name]) for name in modules})
    if set(modules) == {ORIGINAL}:
        original = rows[ORIGINAL]
        context.reporter.say(
            f"top-1 of the original: {original.top1:.2f} % of {len(original.correct)} images of the test set"
        )


def _report(run: RunDirectory) -> Report:
    report = write_pages(run)
    _tell(report)
    Reporter().say(f"the whole report: {run / RunFile.REPORT_HTML} (report.md and report.json say the same)")
    return report


def _tell(report: Report) -> None:
    """Prints the closing table, or what report.json holds."""
    print_result(as_json(report) if output_options().as_json else "", lambda: show(report, console()))


def _stop(found: tuple[str, ...], unwritten: Mapping[str, str]) -> None:
    said = [f"do not ship this: {'; '.join(found)}"] if found else []
    said += [f"{reason} (files of .{name} are missing, the others are written)" for name, reason in unwritten.items()]
    if said:
        raise ExportError("; ".join(said))
