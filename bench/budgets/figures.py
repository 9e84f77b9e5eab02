"""FIGURES: the value of each quantity that a budget may limit, from a file or its run; or why there is none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.budgets.limits import Where
from bench.budgets.model_files import ModelFile
from bench.measurement import Measurement, Simulated, process_said
from bench.run_files import ORIGINAL, RunFile, RunFiles, network_of
from bench.statistics import summarize, times_remark, unsteady


@dataclass(frozen=True)
class Unmeasured:
    """A figure that nobody has measured, with the reason and what would measure it."""

    reason: str


Figure = float | Unmeasured
NO_ACCURACY = "the run has no accuracy: it was made without --data"


def _no_run(what: str) -> Unmeasured:
    return Unmeasured(f"no run recorded this file, and only a run tells {what}")


def _parameters(subject: ModelFile, _where: Where) -> Figure:
    survey = None if subject.run is None else subject.run.survey(subject.network)
    if survey is not None:
        return survey.parameters
    if subject.contents is None:
        return Unmeasured("no run tells, and no reader knows this kind of file")
    return subject.contents.parameters


def _macs(subject: ModelFile, _where: Where) -> Figure:
    if subject.run is None:
        return _no_run("MACs")
    survey = subject.run.survey(subject.network)
    return Unmeasured("the run has no survey of this network") if survey is None else survey.macs


def counted(subject: ModelFile, where: Where, core: str = "") -> Simulated | Unmeasured:
    """The newest count of the file: on `core`, or on the budget's device where that is a simulated one by name."""
    if subject.run is None:
        return _no_run("measurements")
    named = where.device if where.device is not None and where.device.startswith("simulated ") else ""
    found = subject.run.simulated(subject.network, subject.sha256, core or named)
    said = f" on the {core or named}" if core or named else ""
    return Unmeasured(f"the run has no simulated count of this file{said}") if found is None else found


def _instructions(subject: ModelFile, where: Where) -> Figure:
    row = counted(subject, where)
    return row if isinstance(row, Unmeasured) else row.run.instructions


def _latency(subject: ModelFile, where: Where) -> Figure:
    row = row_of(subject, where)
    if isinstance(row, Unmeasured):
        return row
    return Unmeasured(times_remark(row)) if row.invalid else summarize(row).p50


def unsteady_times(quantity: str, subject: ModelFile | None, where: Where) -> tuple[str, ...]:
    """Reasons not to trust the times behind that figure; empty where they are steady, and for all but latency."""
    row = None if quantity != "latency" or subject is None else row_of(subject, where)
    return unsteady(row) if isinstance(row, Measurement) else ()


def _memory(subject: ModelFile, where: Where) -> Figure:
    row = row_of(subject, where)
    if isinstance(row, Unmeasured):
        return row
    peak = row.memory.model_peak
    return Unmeasured(f"{row.device.name} does not tell a process's peak memory") if peak is None else peak * 1024


def _accuracy(subject: ModelFile, _where: Where) -> Figure:
    if subject.run is None:
        return _no_run("accuracy")
    if subject.accuracy is not None:
        return subject.accuracy.top1
    if subject.artifact is None or subject.run.accuracy(network_of(subject.network)) is None:
        return Unmeasured(NO_ACCURACY)
    command = f"`compress-export export {subject.run.path} --format {subject.artifact.format}`"
    return Unmeasured(f"this very file has not classified the run's test images; {command}, where its runtime runs")


def _agreement(subject: ModelFile, _where: Where) -> Figure:
    parity = None if subject.artifact is None else subject.artifact.parity
    if parity is None:
        return Unmeasured("the file was not compared with its module")
    if parity.top1_agreement is None:
        return Unmeasured(parity.note or "the file was not executed")
    return 100 * parity.top1_agreement


def interpreter_of(quantity: str, subject: ModelFile) -> str:
    """The mark of a figure that an interpreter gave in place of the file's runtime; "" of every other figure."""
    parity = None if subject.artifact is None else subject.artifact.parity
    ran = quantity == "agreement" or (quantity == "accuracy" and subject.accuracy is not None)
    return parity.interpreter if ran and parity is not None else ""


def _metric(subject: ModelFile, _where: Where) -> Figure:
    if subject.run is None:
        return _no_run("metric")
    return _metric_of(subject.run, subject.network)


def _metric_of(run: RunFiles, network: str) -> Figure:
    """The metric of a run's network, where more of it is better."""
    found = run.metrics
    value = None if found is None else found.of(network_of(network))
    if found is None or value is None:
        return Unmeasured("the run has no metric: its network is a classifier, and it was made without source.evaluate")
    if not found.higher_is_better:
        return Unmeasured(f"{found.metric} is better the lower it is, and a limit on metric is a least; return 1 / it")
    return value


FIGURES: dict[str, Callable[[ModelFile, Where], Figure]] = {
    "size": lambda subject, _: subject.measured[0],
    "shipped": lambda subject, _: subject.shipped,
    "parameters": _parameters,
    "macs": _macs,
    "instructions": _instructions,
    "latency": _latency,
    "memory": _memory,
    "accuracy": _accuracy,
    "agreement": _agreement,
    "metric": _metric,
}
"""The keys are those of QUANTITIES; a test compares the two."""


def row_of(subject: ModelFile, where: Where) -> Measurement | Unmeasured:
    """The newest measurement of the file there."""
    if subject.run is None:
        return _no_run("measurements")
    wanted = subject.network, subject.sha256, where.device or "", where.process or ""
    found = subject.run.measured(*wanted)
    if found is not None:
        return found
    refusal = subject.run.refusal(*wanted)
    if refusal is not None:
        return Unmeasured(refusal)
    known = ", ".join(subject.run.devices) or "no device"
    inside = "" if where.process is None else f" inside {where.process!r}"
    return Unmeasured(f"the run has no measurement of this file on {where.device!r}{inside} (measured on {known})")


def original(quantity: str, subject: ModelFile, where: Where) -> Figure:
    """The original's figure beside the subject's."""
    if subject.is_run and subject.run is not None:
        if quantity == "accuracy":
            accuracy = subject.run.accuracy(ORIGINAL)
            return Unmeasured(NO_ACCURACY) if accuracy is None else accuracy.top1
        if quantity == "metric":
            return _metric_of(subject.run, ORIGINAL)
        survey = subject.run.survey(ORIGINAL)
        if survey is None:
            return Unmeasured(f"the run has no {RunFile.SURVEY}")
        return survey.parameters if quantity == "parameters" else survey.macs
    other = subject.original
    if other is None or not other.path.exists():
        return Unmeasured("the original's file is not beside it, so there is no ratio")
    if quantity == "size" and other.artifact is not None:
        return other.artifact.bytes  # as recorded: reading a great original only to weigh it again takes seconds
    if quantity == "instructions":
        return _of_same_core(subject, other, where)
    if quantity in ("latency", "memory"):
        rows = row_of(subject, where), row_of(other, where)
        sessions = {row.session for row in rows if isinstance(row, Measurement)}
        if all(isinstance(row, Measurement) for row in rows) and len(sessions) > 1:
            return Unmeasured("it did not take turns with the original; measure both with `compress-export bench`")
    if quantity == "accuracy" and (differs := _other_images(subject, other)):
        return Unmeasured(f"the original's file {differs}")
    found = FIGURES[quantity](other, where)
    return Unmeasured(f"the original: {found.reason}") if isinstance(found, Unmeasured) else found


def _of_same_core(subject: ModelFile, other: ModelFile, where: Where) -> Figure:
    """The other file's instructions on the core that the subject's were counted on, by the same counter."""
    own = counted(subject, where)
    if isinstance(own, Unmeasured):
        return own
    row = counted(other, where, own.device.name)
    if isinstance(row, Unmeasured):
        return row
    if (row.emulator, row.runtime_version) != (own.emulator, own.runtime_version):
        return Unmeasured(
            f"counted with {row.emulator} and {row.runtime_version}, this with {own.emulator} and "
            f"{own.runtime_version}: measure both again"
        )
    return row.run.instructions


def _other_images(subject: ModelFile, other: ModelFile) -> str:
    """The clause that the other file was judged on another number of test images; "" if it was not."""
    ours, theirs = subject.accuracy, other.accuracy
    if ours is None or theirs is None or ours.images is None or theirs.images in (None, ours.images):
        return ""
    return f"classified {theirs.images:,} test images, this one {ours.images:,}; export both with as many"


def of_base(quantity: str, subject: ModelFile, base: ModelFile, where: Where) -> Figure:
    """The base's figure beside the subject's; a time or a memory only if it comes from the same device."""
    if base.problem is not None:
        return Unmeasured(f"the base's file: {base.problem}")
    if quantity in ("latency", "memory"):
        ours, theirs = row_of(subject, where), row_of(base, where)
        if isinstance(theirs, Unmeasured):
            return Unmeasured(f"the base: {theirs.reason}")
        if isinstance(ours, Measurement) and _where(ours) != _where(theirs):
            return Unmeasured(f"the base was measured on {_where(theirs)}, this on {_where(ours)}")
    if quantity == "accuracy" and (differs := _other_images(subject, base)):
        return Unmeasured(f"the base's file {differs}")
    found = _of_same_core(subject, base, where) if quantity == "instructions" else FIGURES[quantity](base, where)
    return Unmeasured(f"the base: {found.reason}") if isinstance(found, Unmeasured) else found


def _where(row: Measurement) -> str:
    device, threads = row.device, f"with {row.threads} thread{'s' if row.threads > 1 else ''}"
    return f"{device.name} ({device.kind}, {device.cpu}{process_said(device.process)}) {threads}"
