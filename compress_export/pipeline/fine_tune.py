"""The tuning stage: the cut network trained as the settings say, by all processes together."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, DataLoader

from compress_export.data.datasets import device_of
from compress_export.data.image_files import unlabelled_images
from compress_export.data.in_memory import View
from compress_export.pipeline.compress import load_module, settle_statistics
from compress_export.pipeline.distributed import send
from compress_export.pipeline.load import RunContext
from compress_export.pipeline.validate import regularization_of
from compress_export.settings import TuneSettings, keeps_best
from compressor.calibration import collect
from compressor.decompositions.methods import decomposition
from compressor.plan import LayerPlan, Plan
from compressor.planning.loss_model import Evaluator
from compressor.planning.recipes import RECIPES
from compressor.surgery import apply, save_weights, skeleton
from compressor.training.fine_tune import fine_tune
from compressor.training.loop import EpochRow, Loader, TrainOptions, Watch
from compressor.training.options import Distillation
from compressor.training.schedules import FEW, reordered


def tune_stage(
    context: RunContext, plan: Plan, cut: nn.Module, settings: TuneSettings, stale: bool = False
) -> nn.Module:
    """The cut network after fine-tuning; the cut network itself where there is nothing to tune with, or no epochs."""
    run = context.run
    nothing = not plan.factored and settings.regularizer is None
    if not context.trainable or settings.epochs == 0 or nothing:
        run.begin("tune", settings, stale)
        return cut
    if run.has("tuned.safetensors") and not stale:
        return load_module(context, plan, "tuned.safetensors")
    run.begin("tune", settings, stale)
    run.clear_from("share")  # files of the network as it was before
    if settings.cut_order == "sensitive":
        plan = reordered(plan, _alone(context, plan))
    send(context, "tune", plan, settings)
    tuned = tune(context, plan, settings)
    save_weights(tuned, run / "tuned.safetensors")
    (run / "tuning.pt").unlink(missing_ok=True)
    return tuned


def tune(context: RunContext, plan: Plan, settings: TuneSettings) -> nn.Module:
    """The fine-tuned network, and its rows in tuning.jsonl. All processes of the group do this at once."""
    run = context.run
    assert context.data is not None  # it is trainable
    run.write_text("tuning.jsonl", "")
    with context.reporter.stage(f"Fine-tuning, {settings.schedule}, {len(plan.factored)} layers") as advance:
        now = ""

        def note(row: EpochRow) -> None:
            nonlocal now
            now = f"{row.cut}: held-out top-1 {row.top1:.1f} %"
            run.append_line("tuning.jsonl", asdict(row))

        tuned, _rows = fine_tune(
            context.network.module,
            plan,
            _images_of(context, settings),
            context.data.held_out,
            settings.schedule,
            settings.epochs,
            options_of(settings, context.seed, len(plan.factored), context.network.origin),
            factorize=lambda module, layers: _cut(context, plan, module, layers),
            checkpoint=run / "tuning.pt",
            watch=Watch(note, lambda done, total: advance(done, total, now)),
            paces=() if settings.rate is not None else RECIPES[settings.recipe].paces,
            group=context.group,
            total_epochs=settings.total_epochs,
        )
    return tuned.module


def options_of(settings: TuneSettings, seed: int, layers: int, origin: str) -> TrainOptions:
    """What the settings say of every epoch where so many layers of a network of that origin are cut; a rate that the
    recipe's paces give is set step by step. Where nobody says, many layers learn from the original: few stay near it.
    """
    distill = layers > FEW if settings.distill is None else settings.distill
    return TrainOptions(
        settings.optimizer,
        settings.rate or RECIPES[settings.recipe].rate,
        settings.rate_shape,
        step_epochs=settings.rate_step,
        patience=settings.patience,
        best=keeps_best(origin, settings.regularizer),
        seed=seed,
        trainable=settings.trained,
        distillation=Distillation() if distill else None,
        regularizer=regularization_of(settings),
    )


def _images_of(context: RunContext, settings: TuneSettings) -> Loader:
    """The training images, and with them those of the folder without labels."""
    assert context.data is not None  # it is trainable
    train, network = context.data.train, context.network
    if settings.unlabelled is None:
        return train
    device = device_of(train.dataset)
    more = unlabelled_images(Path(settings.unlabelled), View(network.input, network.mean, network.std, device))
    return DataLoader(
        ConcatDataset([train.dataset, more]),
        train.batch_size,
        shuffle=True,
        num_workers=max(train.num_workers, 2) if device.type == "cpu" else 0,  # a GPU's memory is this process's
        drop_last=True,
        generator=torch.Generator(),
    )


def _alone(context: RunContext, plan: Plan) -> dict[str, float]:
    """The divergence of the answers on held-out images when each factored layer alone is cut as planned."""
    network = context.network.module
    assert context.data is not None  # it is trainable
    evaluator = Evaluator(network, context.data.held_out, device=context.group.device)
    losses: dict[str, float] = {}
    with context.reporter.stage("Measuring which layer is most sensitive") as advance:
        for done, row in enumerate(plan.factored):
            inputs = (context.moments or {}).get(row.name)
            found = decomposition(context.decompositions, network, row.name, row.method, plan.seed, inputs)
            losses[row.name] = evaluator.alone(row.name, found.factors(row.rank))[0]
            advance(done + 1, len(plan.factored), row.name)
    return losses


def _cut(context: RunContext, plan: Plan, module: nn.Module, layers: tuple[LayerPlan, ...]) -> None:
    """Factors of the weights as they are now; those not yet trained since the plan use its decompositions.

    The other processes get the weights from the main one, so they only need the places for them.
    """
    if not context.group.is_main:
        skeleton(module, layers)
        return
    original, before = context.network.module, copy.deepcopy(module)
    names = [layer.name for layer in layers]
    if all(torch.equal(_weight(module, name).cpu(), _weight(original, name).cpu()) for name in names):
        apply(module, layers, context.decompositions, seed=plan.seed, moments=context.moments)
    else:
        moments = None
        if context.fits_outputs and context.data is not None:
            moments = collect(module, context.data.calibration, names, seed=plan.seed)
        apply(module, layers, seed=plan.seed, moments=moments)
    settle_statistics(context, module, before)


def _weight(module: nn.Module, name: str) -> Tensor:
    weight = module.get_submodule(name).weight
    assert isinstance(weight, Tensor)  # a plan names convolutions and fully connected layers only
    return weight
