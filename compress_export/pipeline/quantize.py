"""Quantizes captured networks on calibration images, tunes them so, and records each layer's number type."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

import msgspec
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from bench.run_files import COMPRESSED, RunFile, network_of, type_of
from compress_export.data.datasets import spread_images
from compress_export.data.images import View, photograph_crops
from compress_export.errors import InputError
from compress_export.pipeline.load import RunContext, fit_in_place, training_images
from compress_export.run_directory import RunDirectory
from compress_export.settings import DTYPES, ExportSettings
from compressor.mcnemar import CHANCE, mcnemar
from compressor.training.options import Distillation, TrainOptions
from exporters.artifact import FEWEST_IMAGES, Quantization

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

    from exporters.quantization.post_training import QuantizedProgram

FEW = 64
"""Below so many calibration images a note says how many there are."""

SAME = 0.01
"""The fraction of other predictions than in float32, none of them for the worse on the whole, below which there is
nothing to tune."""

TUNING_FILES = (RunFile.QUANTIZED_WEIGHTS, RunFile.QUANTIZED_TUNING, RunFile.QUANTIZED_CHECKPOINT)
"""Files of the tuning in int8."""

PHOTOGRAPHS = 64
"""Crops of photographs that stand for calibration images where there is no data."""


def recorded(run: RunDirectory) -> dict[str, Quantization]:
    """The entries of quantization.json by network ("compressed.int8"); none where the run has quantized nothing."""
    if not run.has(RunFile.QUANTIZATION):
        return {}
    return msgspec.convert(run.read_json(RunFile.QUANTIZATION), dict[str, Quantization])


def check_calibration(context: RunContext, settings: ExportSettings) -> None:
    """InputError where the validation split is too small to calibrate int8 on; a note where it is small."""
    if DTYPES[settings.quantize] != "int8" or context.data is None:
        return
    count = len(context.data.validation.dataset)  # type: ignore[arg-type]  # each of ours has a length
    if count < FEWEST_IMAGES:
        raise InputError(
            f"--quantize {settings.quantize} is calibrated on {FEWEST_IMAGES} images of the validation split at least, "
            f"and it has {count} (15 % of the training images); add training images, or leave --quantize out"
        )
    if min(count, settings.calibration) < FEW:
        context.reporter.say(
            f"note: int8 is calibrated on {min(count, settings.calibration)} images; below {FEW} the ranges of "
            "activations depend on which images these are"
        )


def asked_of(name: str, settings: ExportSettings) -> dict[str, float]:
    """The settings that a calibrated network ("compressed.auto") follows from, by their names: with other values it is
    another network."""
    asked = {"calibration": float(settings.calibration)}
    if type_of(name) == "auto":
        asked["signal_to_noise"] = settings.signal_to_noise
    return asked | ({"epochs": settings.epochs, "rate": settings.rate} if network_of(name) == COMPRESSED else {})


def calibrated_otherwise(run: RunDirectory, settings: ExportSettings) -> set[str]:
    """The recorded networks of which the settings ask something else; what their tuning left is removed."""
    found = {name for name, entry in recorded(run).items() if entry.asked != asked_of(name, settings)}
    stored = run.stored().export
    if stored is None or stored.quantize != settings.quantize or any(network_of(name) == COMPRESSED for name in found):
        for name in TUNING_FILES:
            (run / name).unlink(missing_ok=True)
    return found


def calibration_images(context: RunContext, most: int) -> tuple[NDArray[np.float32], str]:
    """Images (N, C, H, W) of the validation split, `most` at most and spread over it, else crops of photographs; and
    what they are."""
    if context.data is not None:
        return spread_images(context.data.validation, most).numpy(), "the validation split"
    return photograph_crops(View.of(context.network), min(most, PHOTOGRAPHS)).numpy(), "crops of photographs"


def quantize_stage(
    context: RunContext,
    networks: Mapping[str, Callable[[], ExportedProgram]],
    compressed: nn.Module,
    settings: ExportSettings,
) -> dict[str, ExportedProgram]:
    """The programs in another number type by name ("compressed.int8"), each made from the float32 program that its
    entry gives; the one of the `compressed` network is tuned in int8 where that changes predictions.

    quantization.json then has an entry for each that is calibrated. ExportError where there are too few images to
    calibrate on, or a number is too large for float16.
    """
    made: dict[str, ExportedProgram] = {}
    if not networks:
        return made
    if settings.quantize == "fp16":
        from exporters.quantization.half import halve

        return {name: halve(program(), context.images.numpy()) for name, program in networks.items()}
    from compress_export.latency.choose_types import choose_types
    from exporters.quantization.post_training import quantize

    entries = recorded(context.run)
    images, source = calibration_images(context, settings.calibration)
    found: dict[str, QuantizedProgram] = {}
    title = f"Quantizing ({settings.quantize}) on {len(images)} images of {source}"
    with context.reporter.stage(title) as advance:
        for done, (name, program) in enumerate(networks.items()):
            advance(done, len(networks), name)
            if settings.quantize == "auto":
                found[name] = choose_types(program(), images, settings.signal_to_noise)
            else:
                found[name] = quantize(program(), images)
    for name, own in found.items():
        best = tuned(context, own, compressed, settings) if network_of(name) == COMPRESSED else own
        made[name] = best.program
        entries[name] = Quantization(
            settings.calibration,
            best.images,
            source,
            best.signal_to_noise,
            best.layers,
            best.notes,
            asked_of(name, settings),
        )
    context.run.write_json(RunFile.QUANTIZATION, {name: asdict(entry) for name, entry in entries.items()})
    return made


def tuned(
    context: RunContext, found: QuantizedProgram, compressed: nn.Module, settings: ExportSettings
) -> QuantizedProgram:
    """The quantized program after quantization-aware tuning, with the float32 network as the teacher; as it was where
    its predictions on the validation split are nearly the same, there is nothing to train with, or the tuning did not
    bring its outputs there nearer to those in float32."""
    run, data, tune = context.run, context.data, context.run.stored().tune
    if found.source is None or data is None or not context.trainable or settings.epochs == 0:
        return found
    if tune is not None and tune.epochs == 0:
        return found
    if context.objective.score is not None:
        return replace(found, notes=(*found.notes, "not tuned in int8, where classifiers alone are judged"))
    from exporters.quantization.tuning import trainable, trained

    module = trainable(found.source)
    if module is None:
        return replace(found, notes=(*found.notes, "not tuned in int8: a reshape fixes the batch to one image"))
    weights, rows, checkpoint = TUNING_FILES
    with context.reporter.stage("Comparing int8 with float32 on the validation split") as advance:
        wanted = _logits(context, compressed)
        advance(1, 2, "int8")
        before = _compared(_logits(context, module), wanted)
    if run.has(weights) and run.has(rows):
        module.load_state_dict(load_file(run / weights), strict=False)
    elif before.lost <= 0 and before.changed <= SAME and not run.has(checkpoint):
        shown = f"loses nothing on the validation split and changes {100 * before.changed:.1f} % of its predictions"
        return replace(found, notes=(*found.notes, f"not tuned in int8, which {shown}"))
    else:
        options = TrainOptions(rate=settings.rate, seed=context.seed, weight_decay=0.0, distillation=Distillation())
        teacher, files = copy.deepcopy(compressed), (rows, checkpoint)
        train = None if tune is None else training_images(context, tune)
        fit_in_place(context, module, settings.epochs, options, "Tuning in int8", files, teacher, train)
        save_file(_parameters(module), run / weights)
        (run / checkpoint).unlink(missing_ok=True)
    after = _compared(_logits(context, module), wanted)
    shown = (
        f"epochs: {len(run.read_lines(rows)) - 1}; on the validation split {before.top1:.2f} to {after.top1:.2f} %, "
        f"and {before.divergence:.2g} to {after.divergence:.2g} nats from float32"
    )
    # the teacher's outputs tell more than labels: on a few hundred images one more or less is chance
    worse = mcnemar(before.correct, after.correct, "greater").p < CHANCE
    if after.divergence >= before.divergence or worse:
        return replace(found, notes=(*found.notes, f"tuned in int8 without a gain, which is not kept ({shown})"))
    return trained(found, load_file(run / weights), f"tuned in int8 ({shown})")


@dataclass(frozen=True)
class _Compared:
    """A network beside the one in float32 on the validation split: its top-1 and what that is less, in per cent, the
    images that it has right, the fraction of predictions that are others, and the mean divergence of its outputs."""

    top1: float
    lost: float
    correct: tuple[bool, ...]
    changed: float
    divergence: float


def _logits(context: RunContext, network: nn.Module) -> tuple[Tensor, Tensor]:
    """The logits of a network on the validation split, and the labels."""
    assert context.data is not None  # it is trainable
    device = context.group.device
    network.to(device).eval()
    with torch.no_grad():
        parts = [(network(images.to(device)).cpu(), labels) for images, labels in context.data.validation]
    network.cpu()
    logits, labels = zip(*parts, strict=True)
    return torch.cat(logits), torch.cat(labels)


def _compared(found: tuple[Tensor, Tensor], wanted: tuple[Tensor, Tensor]) -> _Compared:
    (logits, labels), (others, _) = found, wanted
    # logits in int8 are often equal: ties are broken as `accuracy` breaks them
    predictions, before = (each.topk(min(5, each.shape[1])).indices[:, 0] for each in (logits, others))
    correct = predictions == labels
    top1, other = (100 * float(each.double().mean()) for each in (correct, before == labels))
    changed = float((predictions != before).double().mean())
    new, old = (each.double().log_softmax(1) for each in (logits, others))
    divergence = float(functional.kl_div(new, old, reduction="batchmean", log_target=True))
    return _Compared(top1, other - top1, tuple(correct.tolist()), changed, divergence)


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in module.named_parameters() if value.requires_grad}
