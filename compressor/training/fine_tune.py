"""fine_tune(): training after factorization. probe(): the accuracy that each layer loses when factorized alone."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from compressor.decompositions.methods import METHODS, Decompositions, default_method
from compressor.distributed import SINGLE_PROCESS, ProcessGroup, SingleProcess
from compressor.layers import evaluating
from compressor.outputs import CLASSIFICATION, Objective
from compressor.plan import LayerPlan, Plan
from compressor.planning.recipes import Pace
from compressor.surgery import CompressedModel, apply, describe
from compressor.survey import LayerCost
from compressor.training.loop import EpochRow, Factorize, Loader, TrainOptions, Watch, accuracy, fit
from compressor.training.schedules import SCHEDULES, Step, paced, within

PROBE_RANK = 5
"""The rank at which Astrid & Lee 2017 probe each layer."""


def fine_tune(
    network: nn.Module,
    plan: Plan,
    train: Loader,
    validation: Loader,
    schedule: str = "iterative",
    epochs: int = 1,
    options: TrainOptions | None = None,
    factorize: Factorize | None = None,
    checkpoint: Path | None = None,
    watch: Watch | None = None,
    paces: Sequence[Pace] = (),
    group: ProcessGroup = SINGLE_PROCESS,
    total_epochs: float | None = None,
    objective: Objective = CLASSIFICATION,
) -> tuple[CompressedModel, tuple[EpochRow, ...]]:
    """The compressed network factorized and trained by `schedule`, and the accuracy after every step.

    `network` is the original and stays as it is. `epochs` is for each step of the schedule. `factorize` puts
    the factors of some layers in place (by default it decomposes their weights as they then are). `paces` set batch and
    rate step by step; with `total_epochs` all steps share so many, in place of `epochs` each. Where the options ask for
    distillation `network` is the teacher. See `loop.fit` for the rest.
    """
    tuned = copy.deepcopy(network)
    factorize = factorize or (lambda module, layers: apply(module, layers, seed=plan.seed))
    options = options or TrainOptions()
    steps = paced(SCHEDULES[schedule](plan, epochs), paces)
    if not steps and options.regularizer is not None:
        steps = (Step((), epochs),)  # nothing to factorize, but weights to pull together
    if total_epochs is not None:
        steps = within(steps, total_epochs, len(train.dataset))  # type: ignore[arg-type]  # ours have a length
    teacher = copy.deepcopy(network) if options.distillation else None
    reference = None
    if options.best and steps and group.is_main:
        with evaluating(network):
            reference = score_of(network, validation, objective, group.device)
    rows = fit(
        tuned, train, validation, steps, options, factorize, checkpoint, watch, teacher, group, reference, objective
    )
    return describe(tuned, plan, network), rows


def score_of(network: nn.Module, batches: Loader, objective: Objective, device: torch.device | None = None) -> float:
    """The metric of the objective in percent; top-1 of a classifier."""
    if objective.score is None:
        return accuracy(network, batches, device).top1
    return objective.score(network, batches, device)


def probe(
    network: nn.Module,
    layers: Iterable[LayerCost],
    train: Loader,
    validation: Loader,
    options: TrainOptions,
    known: Mapping[str, float] | None = None,
    found: Callable[[str, float], None] = lambda _name, _drop: None,
    watch: Watch | None = None,
    decompositions: Decompositions | None = None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> dict[str, float]:
    """Top-1 points on the validation split that each layer loses, factorized alone at rank 5 and trained for one epoch.

    A drop is floored at half an image, so that every layer keeps a part of the ranks. `known` holds drops measured
    before; `found` hears of each new one, so that an interrupted probe can go on. The layers are dealt out to `group`.
    Labels alone teach, whatever the options say of distillation.
    """
    options = replace(options, distillation=None)
    with evaluating(network):
        base = accuracy(network, validation, group.device)
    floor = 50 / max(1, len(base.correct))
    drops = dict(known or {})

    def drop_of(layer: LayerCost) -> float:
        method = default_method(layer.shape)
        rank = min(PROBE_RANK, *METHODS[method].full_rank(layer.shape))
        row = LayerPlan(layer.name, layer.weight, method, (rank,), "probe")
        probed = copy.deepcopy(network)
        rows = fit(
            probed,
            train,
            validation,
            (Step((row,), 1),),
            options,
            lambda module, rows: apply(module, rows, decompositions, seed=options.seed),
            watch=watch,
            group=SingleProcess(group.device),
        )
        return max(floor, base.top1 - rows[-1].top1)

    left = [layer for layer in layers if layer.name not in drops]
    for layer, drop in zip(left, group.map(drop_of, left), strict=True):
        drops[layer.name] = drop
        found(layer.name, drop)
    return drops
