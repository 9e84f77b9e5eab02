"""Accuracy of exported files in their own runtime: the test images that they classify, and what accuracy.json holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch.utils.data import DataLoader, Subset

from bench.run_files import ORIGINAL, FileAccuracy, RunFile
from compress_export.data.datasets import Data, spread_places
from compress_export.pipeline.load import RunContext
from compress_export.settings import ExportSettings
from compressor.training.loop import Accuracy
from exporters.artifact import Artifact
from exporters.export_all import Array, Exported

TEST_BYTES = 4 << 30
"""Test images that files classify take so many bytes at most, for they lie on the disk while they do."""


class TestSplit:
    """The test images that every exported file classifies: `count` of them, spread over the set."""

    def __init__(self, data: Data, size: tuple[int, ...], most: int | None) -> None:
        self.data, self.size = data, size
        self.total = len(data.test.dataset)  # type: ignore[arg-type]  # each of ours has a length
        fitting = TEST_BYTES // (4 * int(np.prod(size)))
        self.count = min(self.total, fitting if most is None else most)
        self.labels: list[int] = []

    @staticmethod
    def of(context: RunContext, settings: ExportSettings) -> TestSplit | None:
        """None where accuracy means nothing: without data, with untrained weights, or of no classifier."""
        if not context.trainable or context.data is None or context.objective.score is not None:
            return None
        found = TestSplit(context.data, context.network.input, settings.test_images)
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
