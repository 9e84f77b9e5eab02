"""Writes the run's networks in every format and number type, each compared with the network that it was made from."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import nn
from torch.export import ExportedProgram
from torch.utils.data import DataLoader, Subset

from bench.run_files import COMPRESSED, ORIGINAL, FileAccuracy, RunFile, network_of, type_of
from compress_export.data.datasets import Data, spread_places
from compress_export.errors import InputError
from compress_export.pipeline.load import RunContext
from compress_export.pipeline.quantize import DTYPES, quantize_stage, recorded
from compress_export.settings import ExportSettings
from compressor.training.loop import Accuracy
from exporters.artifact import Artifact, read_artifacts, size_and_sha256, write_artifacts
from exporters.export_all import Array, Exported
from exporters.formats import FORMATS

TEST_BYTES = 4 << 30
"""Test images that files classify take so many bytes at most, for they lie on the disk while they do."""


def check_types(formats: Sequence[str], settings: ExportSettings) -> str:
    """A note on formats that have no file of the number type asked for ("" if none). InputError if all of them are."""
    wanted = settings.quantize
    if wanted == "none":
        return ""
    dtype = DTYPES[wanted]
    lacking = [f".{name} ({FORMATS[name].refused[dtype]})" for name in formats if dtype not in FORMATS[name].dtypes]
    if len(lacking) == len(formats):
        takes = ", ".join(name for name, kind in FORMATS.items() if dtype in kind.dtypes)
        raise InputError(f"--quantize {wanted}: there is no such file of {', '.join(lacking)}; add --format {takes}")
    return f"--quantize {wanted}: not for {', '.join(lacking)}" if lacking else ""


def export_stage(
    context: RunContext, compressed: nn.Module, formats: Sequence[str], settings: ExportSettings
) -> tuple[Artifact, ...]:
    """Every format of the original and the compressed network, in float32 and the number type asked for, those exported
    before included. Each file has then classified the test images, where there are any.

    Files that are no longer as they were recorded are exported again if asked for; else they are left out, and stay on
    record as such.
    """
    from exporters import capture as program
    from exporters.export_all import export_all
    from exporters.parity import logits_of, logits_of_program

    run, images = context.run, context.images.numpy()
    run.begin("export", settings)
    found = read_artifacts(run / RunFile.ARTIFACTS) if run.has(RunFile.ARTIFACTS) else ()
    damaged = {
        artifact.format
        for artifact in found
        if not artifact.path.exists() or size_and_sha256(artifact.path) != (artifact.bytes, artifact.sha256)
    }
    for name in sorted(damaged):
        cure = "exporting them again" if name in formats else f"`compress-export export {run.path} --format {name}`"
        context.reporter.say(f"files of {name} are gone or have changed: {cure}")
    stays = [artifact for artifact in found if artifact.format in damaged - set(formats)]
    wanted = _networks(formats, settings)
    # calibrated on another number of images, or not judged on as many
    calibrated = {name: entry.calibration for name, entry in recorded(run).items()}
    test = _TestImages.of(context, settings)
    again = {
        (artifact.format, artifact.network)
        for artifact in found
        if artifact.network in wanted.get(artifact.format, ())
        and (
            calibrated.get(artifact.network, settings.calibration) != settings.calibration
            or (test is not None and FORMATS[artifact.format].runs_here and not test.judged(context, artifact))
        )
    }
    kept = {(one.format, one.network): one for one in found if one.format not in damaged}
    artifacts = [artifact for key, artifact in kept.items() if key not in again]
    missing = {
        name: [each for each in own if (name, each) in again or (name, each) not in kept]
        for name, own in wanted.items()
    }
    missing = {name: own for name, own in missing.items() if own}
    if not missing:
        return tuple(artifacts)
    work = run / "artifacts" / ".work"
    work.mkdir(parents=True, exist_ok=True)
    modules = {ORIGINAL: context.network.module, COMPRESSED: compressed}
    networks = list(dict.fromkeys(name for own in missing.values() for name in own))
    try:
        captured: dict[str, ExportedProgram] = {}

        def capture(name: str) -> ExportedProgram:
            if name not in captured:
                captured[name] = program.capture(modules[name], context.images[:1])
            return captured[name]

        quantized = quantize_stage(
            context, {name: partial(capture, network_of(name)) for name in networks if type_of(name)}, settings
        )
        with context.reporter.stage(f"Exporting {' '.join(missing)}") as advance:
            finished, steps = 0, sum(map(len, missing.values())) + 1

            def progress(name: str, network: str, stage: str) -> None:
                nonlocal finished
                finished += stage == "done"
                advance(1 + finished, steps, f"{network} .{name}: {stage}")

            def record(made: tuple[Exported, ...]) -> None:
                if test is not None:
                    test.record(context, made)
                artifacts.extend(each.artifact for each in made)
                write_artifacts(run / RunFile.ARTIFACTS, [*artifacts, *stays])

            programs, reference = {}, {}
            for name in networks:
                advance(0, steps, f"capturing the {name} network")
                programs[name] = work / f"{name}.pt2"
                program.save(quantized[name] if name in quantized else capture(name), programs[name])
                # float16 is held against the float32 network, int8 against its own program
                own = type_of(name) == "int8"
                reference[name] = (
                    logits_of_program(quantized[name], images) if own else logits_of(modules[network_of(name)], images)
                )
            written = None if test is None else test.write(work / "test.npy")
            folder = run / RunFile.ARTIFACTS_FOLDER
            export_all(programs, missing, folder, images, reference, test=written, progress=progress, finished=record)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tuple(artifacts)


def _networks(formats: Sequence[str], settings: ExportSettings) -> dict[str, list[str]]:
    """The networks of each format's files."""
    found = {}
    for name in formats:
        found[name] = [ORIGINAL, COMPRESSED]
        if settings.quantize != "none" and DTYPES[settings.quantize] in FORMATS[name].dtypes:
            found[name] += [f"{network}.{settings.quantize}" for network in (ORIGINAL, COMPRESSED)]
    return found


class _TestImages:
    """The test images that every file classifies: `count` of them, spread over the set, and what is recorded."""

    def __init__(self, data: Data, size: tuple[int, ...], most: int | None) -> None:
        self.data, self.size = data, size
        self.total = len(data.test.dataset)  # type: ignore[arg-type]  # each of ours has a length
        fitting = TEST_BYTES // (4 * int(np.prod(size)))
        self.count = min(self.total, fitting if most is None else most)
        self.labels: list[int] = []

    @staticmethod
    def of(context: RunContext, settings: ExportSettings) -> _TestImages | None:
        """None where accuracy means nothing: without data, or with untrained weights."""
        if not context.trainable or context.data is None:
            return None
        found = _TestImages(context.data, context.network.input, settings.test_images)
        if settings.test_images is None and found.count < found.total:
            context.reporter.say(
                f"note: files classify {found.count:,} of {found.total:,} test images, which take 4 GB; "
                "set export.test_images to another number"
            )
        return found

    def judged(self, context: RunContext, artifact: Artifact) -> bool:
        """True if the accuracy of this very file on as many images is known."""
        row = context.run.read_json(RunFile.ACCURACY).get(artifact.path.name)
        return row is not None and (row["sha256"], row["images"]) == (artifact.sha256, self.count)

    def write(self, path: Path) -> Path:
        """The images as an .npy (N, C, H, W)."""
        places, loader = spread_places(self.total, self.count), self.data.test
        part = DataLoader(Subset(loader.dataset, places), loader.batch_size, num_workers=loader.num_workers)
        array = np.lib.format.open_memmap(path, "w+", np.float32, (self.count, *self.size))  # type: ignore[no-untyped-call]  # numpy's own gap
        self.labels = []
        for images, labels in part:
            array[len(self.labels) : len(self.labels) + len(labels)] = images.cpu().numpy()
            self.labels += labels.tolist()
        array.flush()
        return path

    def record(self, context: RunContext, made: Sequence[Exported]) -> None:
        """Adds the accuracy of the files to accuracy.json."""
        rows = context.run.read_json(RunFile.ACCURACY)
        before = msgspec.convert(rows[ORIGINAL], Accuracy).predictions
        places = spread_places(self.total, self.count)
        for each in made:
            if each.logits is not None:
                rows[each.artifact.path.name] = asdict(
                    _accuracy(each.logits, self.labels, [before[place] for place in places], each.artifact.sha256)
                )
        context.run.write_json(RunFile.ACCURACY, rows)


def _accuracy(logits: Array, labels: Sequence[int], before: Sequence[int], sha256: str) -> FileAccuracy:
    """The accuracy of a file by its logits (N, classes); `before` are the original network's predictions."""
    best = torch.from_numpy(logits).topk(min(5, logits.shape[1]), dim=1).indices.numpy()
    hits = best == np.asarray(labels)[:, None]
    correct, count = hits[:, 0], len(labels)
    return FileAccuracy(
        top1=100 * float(correct.mean()),
        top5=100 * float(hits.any(axis=1).mean()),
        flipped=int((best[:, 0] != np.asarray(before)).sum()),
        images=count,
        sha256=sha256,
        predictions=tuple(best[:, 0].tolist()),
        correct=tuple(correct.tolist()),
    )
