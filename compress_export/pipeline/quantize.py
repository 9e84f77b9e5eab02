"""Quantizes captured networks on calibration images, and records which layers compute in which number type."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING

import msgspec

from bench.run_files import RunFile
from compress_export.data.datasets import spread_images
from compress_export.data.images import View, photograph_crops
from compress_export.errors import InputError
from compress_export.pipeline.load import RunContext
from compress_export.run_directory import RunDirectory
from compress_export.settings import CALIBRATED, ExportSettings
from exporters.artifact import FEWEST_IMAGES, Quantization

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

DTYPES = {"int8": "int8", "fp16": "float16", "auto": "int8"}
"""The number type that a format must have files of, by the value of --quantize."""

FEW = 64
"""Below so many calibration images a note says how many there are."""

PHOTOGRAPHS = 64
"""Crops of photographs that stand for calibration images where there is no data."""


def recorded(run: RunDirectory) -> dict[str, Quantization]:
    """The entries of quantization.json by network ("compressed.int8"); none where the run has quantized nothing."""
    if not run.has(RunFile.QUANTIZATION):
        return {}
    return msgspec.convert(run.read_json(RunFile.QUANTIZATION), dict[str, Quantization])


def check_calibration(context: RunContext, settings: ExportSettings) -> None:
    """InputError where the validation split is too small to calibrate int8 on; a note where it is small."""
    if settings.quantize not in CALIBRATED or context.data is None:
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


def calibration_images(context: RunContext, most: int) -> tuple[NDArray[np.float32], str]:
    """Images (N, C, H, W) of the validation split, `most` at most and spread over it, else crops of photographs; and
    what they are."""
    if context.data is not None:
        return spread_images(context.data.validation, most).numpy(), "the validation split"
    return photograph_crops(View.of(context.network), min(most, PHOTOGRAPHS)).numpy(), "crops of photographs"


def quantize_stage(
    context: RunContext,
    networks: dict[str, Callable[[], ExportedProgram]],
    settings: ExportSettings,
) -> dict[str, ExportedProgram]:
    """The programs in another number type by name ("compressed.int8"), each made from the float32 program that its
    entry gives.

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
    title = f"Quantizing ({settings.quantize}) on {len(images)} images of {source}"
    with context.reporter.stage(title) as advance:
        for done, (name, program) in enumerate(networks.items()):
            advance(done, len(networks), name)
            if settings.quantize == "int8":
                found = quantize(program(), images)
            else:
                found = choose_types(program(), images, settings.signal_to_noise)
            made[name] = found.program
            entries[name] = Quantization(
                settings.calibration, found.images, source, found.signal_to_noise, found.layers, found.notes
            )
    context.run.write_json(RunFile.QUANTIZATION, {name: asdict(entry) for name, entry in entries.items()})
    return made
