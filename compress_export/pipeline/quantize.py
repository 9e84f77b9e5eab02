"""Quantizes captured networks on calibration images, tunes them so, and records each layer's number type."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

import msgspec
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.run_files import COMPRESSED, RunFile, network_of, type_of
from compress_export.data.datasets import spread_images
from compress_export.data.images import View, photograph_crops
from compress_export.errors import InputError
from compress_export.pipeline.load import RunContext, fit_in_place, training_images
from compress_export.run_directory import RunDirectory
from compress_export.settings import DTYPES, ExportSettings
from compressor.training.loop import accuracy
from compressor.training.options import Distillation, TrainOptions
from exporters.artifact import FEWEST_IMAGES, Quantization

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

    from exporters.quantization.post_training import QuantizedProgram

FEW = 64
"""Below so many calibration images a note says how many there are."""

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
    entry gives; the one of the `compressed` network is tuned in int8 where that lost accuracy.

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
    it lost nothing on the validation split, there is nothing to train with, or the tuning gained nothing there."""
    run, data, tune = context.run, context.data, context.run.stored().tune
    if found.source is None or data is None or not context.trainable or settings.epochs == 0:
        return found
    if tune is not None and tune.epochs == 0:
        return found
    from exporters.quantization.tuning import trainable, trained

    module = trainable(found.source)
    if module is None:
        return replace(found, notes=(*found.notes, "not tuned in int8: a reshape fixes the batch to one image"))
    weights, rows_file, checkpoint = TUNING_FILES
    if not (run.has(weights) and run.has(rows_file)):
        with context.reporter.stage("Measuring what int8 loses on the validation split") as advance:
            before = accuracy(compressed, data.validation, context.group.device).top1
            advance(1, 2, "int8")
            now = accuracy(module, data.validation, context.group.device).top1
        if now >= before and not run.has(checkpoint):
            note = f"not tuned in int8, which loses nothing on the validation split ({before:.2f} to {now:.2f} %)"
            return replace(found, notes=(*found.notes, note))
        options = TrainOptions(
            rate=settings.rate, best=True, seed=context.seed, weight_decay=0.0, distillation=Distillation()
        )
        teacher, files = copy.deepcopy(compressed), (rows_file, checkpoint)
        train = None if tune is None else training_images(context, tune)
        fit_in_place(context, module, settings.epochs, options, "Tuning in int8", files, teacher, train)
        save_file(_parameters(module), run / weights)
        (run / checkpoint).unlink(missing_ok=True)
    rows = run.read_lines(rows_file)
    first, best = rows[0]["top1"], max(row["top1"] for row in rows)
    shown = f"epochs: {len(rows) - 1}, {first:.2f} to {best:.2f} % on the validation split"
    if best <= first:
        return replace(found, notes=(*found.notes, f"tuned in int8 without a gain, which is not kept ({shown})"))
    return trained(found, load_file(run / weights), f"tuned in int8 ({shown})")


def _parameters(module: nn.Module) -> dict[str, Tensor]:
    return {name: value.detach().contiguous() for name, value in module.named_parameters() if value.requires_grad}
