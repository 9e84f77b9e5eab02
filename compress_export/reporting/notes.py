"""Notes of a report that do not depend on its files: where the weights come from, what the plan has to say, and what
tuning cost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from bench.measurement import Measurement, NotMeasured
from bench.simulator.latency_estimate import CoreModel, estimate_ms, operators_of, read_models
from bench.statistics import is_busy, times_remark
from compress_export.mcnemar import compare
from compress_export.reporting.values import FileRow, FormatRow
from compress_export.settings import keeps_best
from compressor.plan import KEEP
from compressor.planning.limits import parse_limit
from exporters.artifact import Artifact
from exporters.formats import FORMATS


def estimate_notes(before: Mapping[str, Any], after: Mapping[str, Any], cores: Iterable[str]) -> list[str]:
    """A note for each of the simulated cores that figures of real devices could judge; the others get none.

    `before` and `after` are the surveys of the original and the compressed network.
    """
    runtime, models = read_models()
    return [_note(runtime, models[core], before, after) for core in cores if core in models]


def _note(runtime: str, model: CoreModel, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    first, last = (estimate_ms(model, operators_of(survey)) for survey in (before, after))
    return (
        f"Estimate, not measured: {runtime} on a {model.core} at {model.mhz:g} MHz would take about {first:.0f} ms for "
        f"the original and {last:.0f} ms for the compressed network. On devices that the fit had not seen such "
        f"estimates were off by {_share(model.device_error)} in the mean, on devices and networks that it had not seen "
        f"by {_share(model.error)}, and ratios of two such networks by {_share(model.ratio_error)}."
    )


def _share(error: float) -> str:
    return f"{100 * error:.0f} %"


def changed_files(formats: Sequence[FormatRow]) -> list[str]:
    """Files that others have taken the place of. One that is gone is a note: it may have been moved on purpose."""
    files = [file for row in formats for file in (row.original, row.compressed)]
    return [f"{file.artifact.path.name}: {file.altered}" for file in files if file.answers == "changed"]


def row_notes(formats: Sequence[FormatRow], again: str) -> list[str]:
    """What a reader should know of each format and file: what is gone, became slower, or was measured badly or not.
    `again` is the command that measures them again."""
    notes = []
    for row in formats:
        if row.ratio is not None and row.ratio.low is not None and row.ratio.low > 1:
            notes.append(
                f".{row.format} became slower: fewer parameters are not less time; leave --max-params out, or keep the "
                "layers near the image with --keep-layers"
            )
        for file in (row.original, row.compressed):
            name = file.artifact.path.name
            if file.answers == "gone":
                notes.append(f"{name}: {file.altered}")
            if isinstance(file.row, NotMeasured):
                notes.append(f"{name}: not measured: {file.row.reason}")
            if isinstance(file.row, Measurement) and (told := times_remark(file.row)):
                notes.append(f"{name}: {told}{f' with `{again}`' if file.row.invalid else ''}")
            if file.artifact.fallbacks:
                notes.append(f"{name}: outside XNNPACK run {', '.join(file.artifact.fallbacks)}")
            notes += [f"{name}: {note}" for note in file.artifact.notes]
            notes += [f"{name} on the {each.device.name}: {each.note}" for each in file.simulated if each.note]
    return notes


def unsteady_sentence(formats: Sequence[FormatRow], again: str) -> str:
    """That the machine was busy, or the times are not steady, for how many files, and the command that measures them
    `again`; "" where all are steady.

    What was found of each file stands in the notes of the summary.
    """
    files = [file for row in formats for file in (row.original, row.compressed) if file.statistics is not None]
    shaky = [file for file in files if file.unsteady]
    if not shaky:
        return ""
    told = f"the times of {len(shaky)} of {len(files)} files are not steady (see Notes); measure again with `{again}`"
    return f"Taken on a busy machine: {told}" if any(map(_busy, shaky)) else f"{told[0].upper()}{told[1:]}"


def _busy(file: FileRow) -> bool:
    return isinstance(file.row, Measurement) and is_busy(file.row)


def failures(artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    """What must stop a user from shipping: layers outside the fast backend, answers that differ from the module's."""
    found = []
    for artifact in artifacts:
        name = artifact.path.name
        if artifact.not_delegated:
            layers = ", ".join(artifact.not_delegated)
            found.append(
                f"{name}: {layers} would run outside XNNPACK, many times slower; keep the layer, or take .onnx"
            )
        if artifact.verdict == "failed" and artifact.parity is not None:
            parity = artifact.parity
            found.append(
                f"{name} does not answer like the module: relative error {parity.relative_error:.1e}, "
                f"top-1 agreement {100 * (parity.top1_agreement or 0):.1f} % on {parity.images} images"
            )
    return tuple(found)


CHANCE = 0.05
"""A difference that chance makes more often than so is none."""


def size_notes(settings: Mapping[str, Any], files: Sequence[tuple[Artifact, Artifact]]) -> list[str]:
    """What --max-size asked for, beside what each compressed file weighs: a plan predicts float32 files."""
    asked = settings["plan"].get("max_size")
    if not asked:
        return []
    limit, notes = parse_limit("size", asked), []
    for original, compressed in files:
        most = limit.most(original.bytes)
        if compressed.bytes > most:
            more = f"{compressed.bytes - most:,.0f} bytes"
            notes.append(
                f"{compressed.path.name} has {compressed.bytes:,} bytes, {more} more than --max-size {asked} allows; "
                "ask for a little less"
            )
    return notes


def runtime_notes(settings: Mapping[str, Any], formats: Sequence[str], plan: Mapping[str, Any]) -> list[str]:
    """That layers were timed in a runtime which no exported file is for, where the plan rests on times."""
    timed = settings["plan"].get("latency_format", "pte")
    if not formats or timed in formats or not str(plan.get("cost_source", "")).startswith("measured"):
        return []
    titles = ", ".join(FORMATS[name].title for name in formats)
    return [f"The plan's times are those of {FORMATS[timed].runtime} on this machine; {titles} may take others."]


def origin_notes(network: Mapping[str, Any], settings: Mapping[str, Any], judged: bool) -> list[str]:
    """What the weights and the data let a reader conclude; `judged` where both networks' accuracy is known."""
    notes = [f"{note[0].upper()}{note[1:]}." for note in network.get("notes", ())]
    if network["origin"] == "untrained":
        notes.append("The weights are untrained: size, latency and parity mean something, accuracy does not.")
    if settings["source"]["data"] is None:
        notes.append("Accuracy was not measured: no --data was given. Files were compared on crops of photographs.")
    elif network["origin"] != "untrained" and not judged:
        notes.append("Accuracy was not measured yet.")
    if settings["source"]["data"] == "digits":
        notes.append("Digits prove that the path works; no compression ratio for real photographs follows from them.")
    return notes


def plan_notes(plan: Mapping[str, Any], changed: bool) -> list[str]:
    """The plan's own notes, or that it factors nothing; `changed` where the network was tuned or shares weights."""
    if all(layer["method"] == KEEP for layer in plan["layers"]):
        why = "as asked" if plan["rule"] == "none" else "the limit is met without it, or no layer pays"
        return [f"No layer is factored: {why}.{'' if changed else ' Both networks are the same.'}"]
    return list(plan["notes"])


def kept_notes(network: Mapping[str, Any], asked: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which epoch of tuning was kept, where it is not the last. See `keeps_best`."""
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    if not last or not keeps_best(network["origin"], asked.get("regularizer")):
        return []
    best = max(last, key=lambda row: (row["top1"], row["epoch"]))
    if best is last[-1]:
        return []
    when = f"after epoch {best['epoch']}" if best["epoch"] else "as it was cut"
    return [
        f"Of the {len(last) - 1} epochs of tuning the best on held-out images is kept: the network {when} "
        f"({best['top1']:.2f} %; after the last it was {last[-1]['top1']:.2f} %)."
    ]


def tuning_notes(accuracy: Mapping[str, Any]) -> list[str]:
    """That tuning left the network worse than it was as cut, where the validation images tell the two apart."""
    cut, tuned = accuracy.get("cut"), accuracy.get("unshared", accuracy["compressed"])
    if cut is None or tuned["top1"] >= cut["top1"]:
        return []
    p = compare(cut["correct"], tuned["correct"], [True] * len(cut["correct"])).p
    if p > CHANCE:
        return []
    return [
        f"Tuning made the network worse: top-1 was {cut['top1']:.2f} % as cut and is {tuned['top1']:.2f} % (McNemar's "
        f"p {p:.1g}); try a smaller --rate or --distill, or keep it as cut with --epochs 0."
    ]
