"""Shares weights by product quantization after tuning: centroids are found, tuned, and packed in a file."""

from __future__ import annotations

import copy
from dataclasses import asdict

from torch import nn

from bench.run_files import COMPRESSED, RunFile
from compress_export.pipeline.load import RunContext, fit_in_place
from compress_export.run_directory import RunDirectory
from compress_export.settings import ShareSettings
from compressor.calibration import collect
from compressor.survey import survey
from compressor.training.options import Distillation, TrainOptions
from compressor.weight_sharing.layers import (
    load_shared,
    plain,
    plan_sharing,
    put_empty,
    read_shared,
    save_shared,
    share,
)
from compressor.weight_sharing.product_quantization import Sharing
from exporters.lookup import Lookup

PACKED = RunFile.SHARED_WEIGHTS


def share_stage(context: RunContext, tuned: nn.Module, settings: ShareSettings, stale: bool = False) -> nn.Module:
    """The tuned network with shared weights, as ordinary layers; the tuned one itself where none are to be shared."""
    run, data = context.run, context.data
    if settings.share is None:
        run.begin("share", settings, stale)
        return tuned
    if run.has(PACKED) and not stale:
        return packed_module(context, tuned)
    sharing = Sharing.parse(settings.share)
    rows = plan_sharing(survey(tuned, context.images), sharing, settings.share_layers)
    names = [row.name for row in rows if row.kept is None]
    run.begin("share", settings, stale)
    run.clear_from("export")  # files of the network as it was before
    if run.has(RunFile.ACCURACY):  # that of the compressed network is of another one
        accuracies = run.read_json(RunFile.ACCURACY)
        run.write_json(RunFile.ACCURACY, {name: row for name, row in accuracies.items() if name != COMPRESSED})
    if run.has(RunFile.SHARING_CHECKPOINT):  # the tuning of the centroids was interrupted: they are in the checkpoint
        module = copy.deepcopy(tuned)
        put_empty(module, dict.fromkeys(names, sharing))
    else:
        with context.reporter.stage(f"Sharing the weights of {len(names)} layers, {sharing.text()}") as advance:
            moments = None
            if context.fits_outputs and data is not None:
                moments = collect(tuned, data.calibration, names, seed=context.seed)
            model = share(tuned, rows, sharing, context.seed, moments, advance)
        if any(len(row.weight) > 2 for row in model.shared):
            context.settle_statistics(model.module, tuned)
        run.write_json(
            RunFile.SHARED_LAYERS, {"sharing": sharing.text(), "layers": [asdict(row) for row in model.rows]}
        )
        module = model.module
    if context.trainable and data is not None and settings.share_epochs > 0:
        # where nothing has labels the original teaches
        taught = context.objective.loss is None
        options = TrainOptions(
            rate=settings.share_rate, seed=context.seed, distillation=Distillation() if taught else None
        )
        files, teacher = (RunFile.SHARING, RunFile.SHARING_CHECKPOINT), copy.deepcopy(context.network.module)
        title = "Fine-tuning the centroids"
        fit_in_place(context, module, settings.share_epochs, options, title, files, teacher if taught else None)
    save_shared(module, run / PACKED)
    (run / RunFile.SHARING_CHECKPOINT).unlink(missing_ok=True)
    return plain(module)


def lookups_of(run: RunDirectory, compressed: nn.Module) -> dict[str, Lookup]:
    """The weights of the run's compressed network, given as ordinary layers, that are shared, by name."""
    if not run.has(PACKED):
        return {}
    return {
        f"{name}.weight": Lookup(
            shared.weight,
            shared.indices.T.contiguous().numpy(),
            shared.codebook.numpy(),
            shared.sharing.split == "rows",
        )
        for name, shared in read_shared(compressed, run / PACKED).items()
    }


def packed_module(context: RunContext, tuned: nn.Module) -> nn.Module:
    """The network that the run's packed file holds, as ordinary layers."""
    module = copy.deepcopy(tuned)
    load_shared(module, context.run / PACKED)
    return plain(module).eval()
