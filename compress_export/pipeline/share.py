"""The sharing stage: product quantization after tuning, the centroids tuned, all of it packed in a file."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from torch import nn

from bench.run_files import COMPRESSED
from compress_export.pipeline.compress import settle_statistics
from compress_export.pipeline.load import RunContext
from compress_export.run_directory import RunDirectory
from compress_export.settings import ShareSettings
from compressor.calibration import Moments, collect
from compressor.distributed import SingleProcess
from compressor.survey import survey
from compressor.training.loop import EpochRow, TrainOptions, Watch, fit
from compressor.training.schedules import Step
from compressor.weight_sharing.layers import SharedRow, load_shared, plain, plan_sharing, put_empty, save_shared, share
from compressor.weight_sharing.product_quantization import Sharing

PACKED = "shared.safetensors"


def share_stage(context: RunContext, tuned: nn.Module, settings: ShareSettings, stale: bool = False) -> nn.Module:
    """The tuned network with shared weights, as ordinary layers; the tuned one itself where none are to be shared."""
    run = context.run
    if settings.share is None:
        run.begin("share", settings, stale)
        return tuned
    if run.has(PACKED) and not stale:
        return packed_module(context, tuned)
    sharing = Sharing.parse(settings.share)
    rows = plan_sharing(survey(tuned, context.images), sharing, settings.share_layers)
    run.begin("share", settings, stale)
    run.clear_from("export")  # files of the network as it was before
    _forget_accuracy(run)
    module = _shared(context, tuned, rows, sharing)
    _tune(context, module, settings)
    save_shared(module, run / PACKED)
    (run / "sharing.pt").unlink(missing_ok=True)
    return plain(module)


def packed_module(context: RunContext, tuned: nn.Module) -> nn.Module:
    """The network that the run's packed file holds, as ordinary layers."""
    module = copy.deepcopy(tuned)
    load_shared(module, context.run / PACKED)
    return plain(module).eval()


def _shared(context: RunContext, tuned: nn.Module, rows: Sequence[SharedRow], sharing: Sharing) -> nn.Module:
    """The network with centroids found; where their tuning was interrupted, with places for those of the checkpoint."""
    run = context.run
    names = [row.name for row in rows if row.kept is None]
    if run.has("sharing.pt"):
        module = copy.deepcopy(tuned)
        put_empty(module, dict.fromkeys(names, sharing))
        return module
    with context.reporter.stage(f"Sharing the weights of {len(names)} layers, {sharing.text()}") as advance:
        model = share(
            tuned,
            rows,
            sharing,
            context.seed,
            _moments(context, tuned, names),
            lambda done, total, name: advance(done, total, name),
        )
    if any(len(row.weight) > 2 for row in model.shared):
        settle_statistics(context, model.module, tuned)
    record: dict[str, Any] = {"sharing": sharing.text(), "layers": [asdict(row) for row in model.rows]}
    run.write_json("shared.json", record)
    return model.module


def _moments(context: RunContext, tuned: nn.Module, names: Sequence[str]) -> dict[str, Moments] | None:
    """What the layers read in the tuned network, where factors are fitted to outputs too."""
    if not context.fits_outputs or context.data is None:
        return None
    return collect(tuned, context.data.calibration, names, seed=context.seed)


def _tune(context: RunContext, module: nn.Module, settings: ShareSettings) -> None:
    """Trains the centroids and all that is not shared, where there is data to train with."""
    run = context.run
    if not context.trainable or context.data is None or settings.share_epochs == 0:
        return
    run.write_text("sharing.jsonl", "")
    options = TrainOptions(rate=settings.share_rate, seed=context.seed)
    with context.reporter.stage("Fine-tuning the centroids") as advance:
        now = ""

        def note(row: EpochRow) -> None:
            nonlocal now
            now = f"held-out top-1 {row.top1:.1f} %"
            run.append_line("sharing.jsonl", asdict(row))

        fit(
            module,
            context.data.train,
            context.data.held_out,
            (Step((), settings.share_epochs),),
            options,
            checkpoint=run / "sharing.pt",
            watch=Watch(note, lambda done, total: advance(done, total, now)),
            group=SingleProcess(context.group.device),
        )


def _forget_accuracy(run: RunDirectory) -> None:
    """The accuracy measured before was that of another compressed network."""
    if run.has("accuracy.json"):
        rows = run.read_json("accuracy.json")
        run.write_json("accuracy.json", {name: row for name, row in rows.items() if name != COMPRESSED})
