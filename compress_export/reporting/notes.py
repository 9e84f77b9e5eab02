"""Notes and failures of a report, as sentences: weights and data, the plan, fine-tuning, files and their times."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any

from bench.measurement import NotMeasured
from bench.simulator.latency_estimate import estimate_ms, operators_of, read_models
from bench.statistics import is_busy, times_remark
from compress_export.reporting.model import Epoch, FileRow, FormatRow, NetworkAccuracy, SharedWeights
from compress_export.settings import DTYPES
from compressor.mcnemar import mcnemar
from compressor.plan import Plan
from compressor.planning.limits import parse_limit
from exporters.artifact import Artifact, Quantization
from exporters.formats import FORMATS

RUINED_POINTS, RUINED_DB = 5.0, 3.0
"""Points of top-1 beyond which a file lost too much by its number type; without data, the signal-to-noise ratio of its
logits below which it did: half of their power is then error."""

SIGNIFICANCE = 0.05
"""A difference of two accuracies that chance makes more often than so is none."""


def origin_notes(origin: str, notes: Iterable[str], data: str | None, judged: bool) -> list[str]:
    """Conclusions that the weights and the data allow; `judged` where both networks' accuracy is known."""
    found = [f"{note[0].upper()}{note[1:]}." for note in notes]
    if origin == "untrained":
        found.append("The weights are untrained: size, latency and parity mean something, accuracy does not.")
    if data is None:
        found.append("Accuracy was not measured: no --data was given. Files were compared on crops of photographs.")
    elif origin != "untrained" and not judged:
        found.append("Accuracy was not measured yet.")
    if data == "digits":
        found.append("Digits prove that the path works; no compression ratio for real photographs follows from them.")
    return found


def plan_notes(plan: Plan, changed: bool) -> list[str]:
    """The plan's own notes, or that it factors nothing; `changed` where the network was tuned or shares weights."""
    if not plan.factored:
        why = "as asked" if plan.rule == "none" else "the limit is met without it, or no layer pays"
        return [f"No layer is factored: {why}.{'' if changed else ' Both networks are the same.'}"]
    return list(plan.notes)


def tuning_notes(accuracy: Mapping[str, NetworkAccuracy]) -> list[str]:
    """A note that fine-tuning lowered the test accuracy, where the difference is significant (McNemar's test)."""
    factorized, tuned = accuracy.get("untuned"), accuracy.get("unshared", accuracy["compressed"])
    if factorized is None or tuned.top1 >= factorized.top1:
        return []
    p = mcnemar(factorized.correct, tuned.correct).p
    if p > SIGNIFICANCE:
        return []
    return [
        f"Fine-tuning made the network worse: top-1 was {factorized.top1:.2f} % before it and is {tuned.top1:.2f} % "
        f"(McNemar's p {p:.1g}); try a smaller fine_tune.rate, or fine_tune.distill, or leave it out with --epochs 0."
    ]


def kept_notes(epochs: Sequence[Epoch]) -> list[str]:
    """A note on the epoch of fine-tuning that was kept, where it is not the last. See `TrainOptions.best`."""
    last_step = [epoch for epoch in epochs if epoch.step == epochs[-1].step]
    if not last_step or last_step[-1].kept:
        return []
    kept, last = next(epoch for epoch in reversed(last_step) if epoch.kept), last_step[-1]
    best = max(last_step, key=lambda epoch: epoch.top1)
    if best.top1 > kept.top1:
        return [
            f"The network before fine-tuning is kept: it had lost nothing on the validation split ({kept.top1:.2f} %), "
            f"and the best of the {len(last_step) - 1} epochs of fine-tuning ({best.top1:.2f} %) is better by no more "
            "than chance."
        ]
    when = f"after epoch {kept.epoch}" if kept.epoch else "before fine-tuning"
    return [
        f"Of the {len(last_step) - 1} epochs of fine-tuning the best on the validation split is kept: the network "
        f"{when} ({kept.top1:.2f} %; after the last it was {last.top1:.2f} %)."
    ]


def size_notes(text: str | None, formats: Sequence[FormatRow], dtype: str) -> list[str]:
    """Compressed files above --max-size, where it was given; a plan predicts files of the number type `dtype`."""
    if not text:
        return []
    limit, notes = parse_limit("size", text), []
    for file in formats:
        if DTYPES[file.type or "none"] != dtype:
            continue
        most, size = limit.most(file.before.artifact.bytes), file.compressed.artifact.bytes
        if size > most:
            notes.append(
                f"{file.compressed.name} has {size:,} bytes, {size - most:,.0f} bytes more than --max-size {text} "
                "allows; ask for a little less"
            )
    return notes


def runtime_notes(timed: str, formats: Sequence[str], cost_source: str) -> list[str]:
    """A note that layers were timed in a runtime which no exported file is for, where the plan rests on times."""
    if not formats or timed in formats or not cost_source.startswith("measured"):
        return []
    titles = ", ".join(FORMATS[name].title for name in formats)
    return [f"The plan's times are those of {FORMATS[timed].runtime} on this machine; {titles} may take others."]


def shared_notes(shared: SharedWeights | None) -> list[str]:
    """A note on the layers whose weights are shared, and on the files that keep them so."""
    if shared is None:
        return []
    names = ", ".join(layer.name for layer in shared.shared)
    kept = "".join(f"; {layer.name} is kept ({layer.kept})" for layer in shared.layers if layer.kept is not None)
    return [
        f"Weights of {names} are shared, {shared.sharing}{kept}. shared.safetensors holds them packed, and .onnx files "
        "hold indices and codebook, as .mlpackage files do where Core ML has such a table; files of other formats hold "
        "ordinary weights and do not become smaller by it."
    ]


def quantization_notes(quantization: Mapping[str, Quantization]) -> list[str]:
    """For each network in another number type: its calibration, and the layers that stay in float32."""
    notes = []
    for name, entry in quantization.items():
        floats = [layer for layer in entry.layers if layer.dtype != "int8"]
        reasons: dict[tuple[str, str], list[str]] = {}
        for layer in floats:
            reasons.setdefault((layer.dtype, layer.reason), []).append(layer.layer)
        kept = "".join(f"; in {dtype}: {', '.join(names)} ({reason})" for (dtype, reason), names in reasons.items())
        steps = "".join(f"; {note}" for note in entry.notes)
        notes.append(
            f"{name}: {len(entry.layers) - len(floats)} of {len(entry.layers)} layers compute in int8, calibrated on "
            f"{entry.images} images of {entry.source}, where the logits' signal-to-noise ratio is "
            f"{entry.signal_to_noise:.1f} dB{steps}{kept}."
        )
    return notes


def ruined_files(formats: Sequence[FormatRow], quantization: Mapping[str, Quantization]) -> tuple[str, ...]:
    """Files that lost more than RUINED_POINTS of top-1 against the float32 file of the same network, beyond chance; or,
    where no accuracy is known, whose logits are nearer to noise than RUINED_DB. The layer that lost most is named."""
    found = []
    floats = {row.format: row for row in formats if not row.type}
    for row in formats:
        pairs = zip(floats[row.format].files, row.files, strict=True) if row.type else ()
        for before, after in pairs:
            entry, loss = quantization.get(after.artifact.network), ""
            first, last = before.accuracy, after.accuracy
            if first is not None and last is not None and first.images == last.images:
                lost = first.top1 - last.top1
                p = mcnemar(first.correct, last.correct).p
                if lost > RUINED_POINTS and p < SIGNIFICANCE:
                    loss = f"{lost:.2f} points of top-1 ({first.top1:.2f} to {last.top1:.2f} %)"
            elif last is None and entry is not None and entry.signal_to_noise < RUINED_DB:
                loss = f"its outputs (a signal-to-noise ratio of {entry.signal_to_noise:.1f} dB)"
            if loss:
                worst = None if entry is None else _worst_layer(entry)
                where = "" if worst is None else f"; the outputs of {worst} lose most"
                found.append(f"{after.name}: {row.type} costs {loss}{where}; ship {before.name}")
    return tuple(found)


def _worst_layer(entry: Quantization) -> str | None:
    """The layer at whose output the signal-to-noise ratio falls most below that of the layer before it."""
    known = [(layer.layer, layer.signal_to_noise) for layer in entry.layers if layer.signal_to_noise is not None]
    falls = [(last - here, name) for (_, last), (name, here) in pairwise(known)]
    return max(falls)[1] if falls else None


def row_notes(formats: Sequence[FormatRow], again: str) -> list[str]:
    """For each format and file what is gone, became slower, or was measured badly or not at all; `again` is the command
    that measures them again."""
    notes = []
    for row in formats:
        if row.ratio is not None and row.ratio.low is not None and row.ratio.low > 1:
            notes.append(
                f".{row.title} became slower: fewer parameters are not less time; leave --max-params out, or keep the "
                "layers near the image with --keep-layers"
            )
        for file in row.files:
            if file.verdict == "gone":
                notes.append(f"{file.name}: {file.altered}")
            if isinstance(file.row, NotMeasured):
                notes.append(f"{file.name}: not measured: {file.row.reason}")
            if file.measured is not None and (remark := times_remark(file.measured)):
                notes.append(f"{file.name}: {remark}{f' with `{again}`' if file.measured.invalid else ''}")
            if file.artifact.fallbacks:
                notes.append(f"{file.name}: outside XNNPACK run {', '.join(file.artifact.fallbacks)}")
            notes += [f"{file.name}: {note}" for note in file.artifact.notes]
            notes += [f"{file.name} on the {each.device.name}: {each.note}" for each in file.simulated if each.note]
    return notes


def estimate_notes(before: Mapping[str, Any], after: Mapping[str, Any], cores: Iterable[str]) -> list[str]:
    """A note for each of the simulated cores that a latency model was fitted for; the others get none.

    `before` and `after` are the surveys of the original and the compressed network.
    """
    runtime, models = read_models()
    notes = []
    for model in (models[core] for core in cores if core in models):
        first, last = (estimate_ms(model, operators_of(survey)) for survey in (before, after))
        on_devices, on_networks, on_ratios = (
            f"{100 * error:.0f} %" for error in (model.device_error, model.error, model.ratio_error)
        )
        notes.append(
            f"Estimate, not measured: {runtime} on a {model.core} at {model.mhz:g} MHz would take about {first:.0f} ms "
            f"for the original and {last:.0f} ms for the compressed network. On devices that the fit had not seen such "
            f"estimates were off by {on_devices} in the mean, on devices and networks that it had "
            f"not seen by {on_networks}, and ratios of two such networks by {on_ratios}."
        )
    return notes


def unsteady_sentence(formats: Sequence[FormatRow], again: str) -> str:
    """A sentence on a busy machine or unsteady times: for how many files, and the command that measures them `again`;
    "" where all are steady. The reasons of each file stand in the notes."""
    timed = [file for row in formats for file in row.files if file.statistics is not None]
    shaky = [file for file in timed if file.unsteady]
    if not shaky:
        return ""
    found = f"times of {len(shaky)} of {len(timed)} files are not steady (see Notes); measure again with "
    busy = any(file.measured is not None and is_busy(file.measured) for file in shaky)
    return f"{'Taken on a busy machine: the' if busy else 'The'} {found}`{again}`"


def changed_files(files: Sequence[FileRow]) -> list[str]:
    """Files that others have taken the place of. One that is gone is a note: it may have been moved on purpose."""
    return [f"{file.name}: {file.altered}" for file in files if file.verdict == "changed"]


def failures(artifacts: Sequence[Artifact]) -> tuple[str, ...]:
    """Reasons not to ship a file: layers outside the fast backend, logits that differ from the PyTorch model's."""
    found = []
    for artifact in artifacts:
        name, parity = artifact.path.name, artifact.parity
        model = "its int8 program" if artifact.dtype == "int8" else "the PyTorch model"
        if artifact.not_delegated:
            layers = ", ".join(artifact.not_delegated)
            found.append(
                f"{name}: {layers} would run outside XNNPACK, many times slower; keep the layer, or take .onnx"
            )
        if artifact.verdict == "failed" and parity is not None:
            kind, error = parity.error(artifact.dtype)
            worst = max(parity.outputs, key=lambda each: each.relative_error, default=None)
            alike = f"top-1 agreement {100 * (parity.top1_agreement or 0):.1f} %"
            if worst is not None:
                pixels = "" if worst.agreement is None else f", same class {100 * worst.agreement:.2f} %"
                alike = f"worst of its output {worst.name}{pixels}"
            found.append(f"{name} does not match {model}: {kind} {error:.1e}, {alike} on {parity.images} images")
    return tuple(found)
