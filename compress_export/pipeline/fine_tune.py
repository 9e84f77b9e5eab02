"""Trains the compressed network as the settings say, in all processes together."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from bench.run_files import RunFile
from compress_export.pipeline.load import RunContext, logged_training, training_images
from compress_export.pipeline.validate import regularization_of
from compress_export.settings import TuneSettings, keeps_best
from compressor.calibration import collect
from compressor.decompositions.methods import decomposition
from compressor.equivalence import check_factors
from compressor.layers import find_layer
from compressor.plan import LayerPlan, Plan
from compressor.planning.loss_model import Evaluator
from compressor.planning.recipes import RECIPES
from compressor.surgery import apply, save_weights, skeleton
from compressor.training.fine_tune import fine_tune
from compressor.training.options import Distillation, TrainOptions
from compressor.training.schedules import FEW, reordered


def fine_tune_stage(
    context: RunContext, plan: Plan, compressed: nn.Module, settings: TuneSettings, stale: bool = False
) -> nn.Module:
    """The fine-tuned network; the compressed one itself where there is nothing to tune with, or there are no epochs."""
    run, data = context.run, context.data
    nothing = not plan.factored and settings.regularizer is None
    if data is None or not context.trainable or settings.epochs == 0 or nothing:
        run.begin("tune", settings, stale)
        return compressed
    if run.has(RunFile.TUNED_WEIGHTS) and not stale:
        return context.load_module(plan, RunFile.TUNED_WEIGHTS)
    run.begin("tune", settings, stale)
    run.clear_from("share")  # files of the network as it was before
    if settings.order == "sensitive":
        network = context.network.module
        evaluator = Evaluator(network, data.validation, device=context.group.device, objective=context.objective)
        losses: dict[str, float] = {}  # divergence of the outputs when each layer alone is factored as planned
        with context.reporter.stage("Measuring which layer is most sensitive") as advance:
            for done, row in enumerate(plan.factored, 1):
                inputs = (context.moments or {}).get(row.name)
                found = decomposition(context.decompositions, network, row.name, row.method, plan.seed, inputs)
                losses[row.name] = evaluator.alone(row.name, found.factors(row.rank))[0]
                advance(done, len(plan.factored), row.name)
        plan = reordered(plan, losses)
    context.send("tune", plan, settings)
    tuned = train(context, plan, settings, compressed)
    save_weights(tuned, run / RunFile.TUNED_WEIGHTS)
    (run / RunFile.TUNING_CHECKPOINT).unlink(missing_ok=True)
    return tuned


def train(context: RunContext, plan: Plan, settings: TuneSettings, compressed: nn.Module | None = None) -> nn.Module:
    """The fine-tuned network, and its rows in tuning.jsonl. All processes of the group do this at once.

    Where a step factors every layer of the plan, `compressed` is what they become.
    """
    original, data = context.network.module, context.data
    assert data is not None  # it is trainable

    def factorize(module: nn.Module, layers: tuple[LayerPlan, ...]) -> None:
        """Factors of the weights as they are now; those not yet trained since the plan use its decompositions.

        The other processes get the weights from the main one, so they only need the places for them.
        """
        if not context.group.is_main:
            skeleton(module, layers)
            return
        if compressed is not None and len(layers) == len(plan.factored):
            skeleton(module, layers)
            module.load_state_dict(compressed.state_dict())
            return
        before, names = copy.deepcopy(module), [layer.name for layer in layers]
        weights = [[find_layer(network, name).weight.cpu() for name in names] for network in (module, original)]
        if all(map(torch.equal, *weights)):
            apply(module, layers, context.decompositions, seed=plan.seed, moments=context.moments)
        else:
            moments = collect(module, data.calibration, names, seed=plan.seed) if context.fits_outputs else None
            apply(module, layers, seed=plan.seed, moments=moments)
        check_factors(before, module, names, context.images)
        context.settle_statistics(module, before)

    options = options_of(settings, context.seed, len(plan.factored), context.network.origin)
    if settings.distill is None and context.objective.score is not None:
        # few labels say what every pixel or feature of the original does
        options = replace(options, distillation=Distillation())
    title = f"Fine-tuning, {settings.schedule}, {len(plan.factored)} layers"
    text = f"{{0.layers}}: {context.objective.metric} on the validation split {{0.top1:.1f}} %".format
    with logged_training(context.run, title, RunFile.TUNING, text) as watch:
        tuned, _rows = fine_tune(
            original,
            plan,
            training_images(context, settings),
            data.validation,
            settings.schedule,
            settings.epochs,
            options,
            factorize=factorize,
            checkpoint=context.run / RunFile.TUNING_CHECKPOINT,
            watch=watch,
            paces=() if settings.rate is not None else RECIPES[settings.recipe].paces,
            group=context.group,
            total_epochs=settings.total_epochs,
            objective=context.objective,
        )
    return tuned.module


def options_of(settings: TuneSettings, seed: int, layers: int, origin: str) -> TrainOptions:
    """Training options of every epoch where so many layers of a network of that origin are factored.

    A rate that the recipe's paces give is set step by step. Where the settings do not say, many layers learn from the
    original, for few stay near it.
    """
    distill = layers > FEW if settings.distill is None else settings.distill
    return TrainOptions(
        settings.optimizer,
        settings.rate or RECIPES[settings.recipe].rate,
        settings.rate_schedule,
        step_epochs=settings.rate_step,
        patience=settings.patience,
        best=keeps_best(origin, settings.regularizer),
        seed=seed,
        trainable=settings.trainable,
        distillation=Distillation() if distill else None,
        regularizer=regularization_of(settings),
    )
