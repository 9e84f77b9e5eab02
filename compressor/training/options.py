"""TrainOptions: how the epochs of a step are trained, with the optimizer, learning rate and loss that follow."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from compressor.outputs import CLASSIFICATION, UNLABELLED, Objective, divergence, tensors_of
from compressor.weight_sharing.regularizers import Regularization


@dataclass(frozen=True)
class Distillation:
    """Weight of the teacher's outputs in the loss (the labels have the rest), and the temperature that softens logits.

    See `divergence`.
    """

    weight: float = 0.9
    temperature: float = 4.0


@dataclass(frozen=True)
class TrainOptions:
    """Optimizer, learning rate, loss and trainable layers of the epochs of a step.

    `rate` is the learning rate. Its schedule "step" divides it by ten every `step_epochs` epochs (Astrid & Lee 2017),
    "cosine" lets it fall to zero along a half cosine, "one-cycle" warms it up over the first third before that.
    With `patience`, a step ends when the validation accuracy has not risen for so many epochs, and the last step
    returns its best weights; without, every epoch is run and the last weights count. With `best` the last step returns
    its best weights too, those before its first epoch among them: right where the validation images are new to the
    network. Where the accuracy before compression is known (`reference` of `fit`) and nothing of it was lost, so
    that nothing is to be regained, the network before that epoch gives way only to one that is better by more than
    chance: the best of several epochs on a few hundred images is better by an image or two for nothing.
    `trainable` names the layers that a step trains: all, the new factors alone, or them and all that runs
    after them; the rest stays as it is to the last bit. With `distillation` a teacher's outputs are learned. A
    `regularizer` adds its term to the loss.
    """

    optimizer: Literal["sgd", "adamw"] = "adamw"
    rate: float = 3e-4
    rate_schedule: Literal["step", "cosine", "one-cycle"] = "cosine"
    step_epochs: float = 5
    momentum: float = 0.9
    weight_decay: float = 5e-4
    patience: int | None = None
    best: bool = False
    seed: int = 0
    trainable: Literal["all", "new", "downstream"] = "all"
    distillation: Distillation | None = None
    regularizer: Regularization | None = None


def make_optimizer(parameters: Iterable[nn.Parameter], options: TrainOptions) -> torch.optim.Optimizer:
    if options.optimizer == "sgd":
        return torch.optim.SGD(
            parameters, lr=options.rate, momentum=options.momentum, weight_decay=options.weight_decay
        )
    return torch.optim.AdamW(parameters, lr=options.rate, weight_decay=options.weight_decay, fused=True)


def rate_at(options: TrainOptions, epoch: float, epochs: int) -> float:
    """The learning rate `epoch` epochs (with fraction) into a step of `epochs`."""
    if options.rate_schedule == "step":
        return options.rate * 0.1 ** int(epoch // options.step_epochs)
    progress, warm = epoch / epochs, 1 / 3
    if options.rate_schedule == "one-cycle":
        if progress < warm:
            return options.rate * (0.04 + 0.96 * progress / warm)
        progress = (progress - warm) / (1 - warm)
    return options.rate * 0.5 * (1 + math.cos(math.pi * progress))


def label_loss(outputs: Sequence[Tensor], labels: Tensor, objective: Objective = CLASSIFICATION) -> Tensor:
    """The loss against the labels of the images that have one; 0 where none has one, or labels have no loss."""
    known = labels != UNLABELLED if labels.dim() == 1 else torch.ones(len(labels), dtype=torch.bool)
    if objective.loss is None or not bool(known.any()):
        return sum((own.sum() * 0 for own in outputs), outputs[0].new_zeros(()))
    return objective.loss([own[known] for own in outputs], labels[known])


def loss_of(
    answer: object,
    labels: Tensor,
    images: Tensor,
    teacher: nn.Module | None,
    distillation: Distillation | None,
    objective: Objective = CLASSIFICATION,
) -> Tensor:
    """The loss of a batch: against its labels, or with a teacher the divergence from its outputs and the loss against
    the labels, each by its weight."""
    # GoogLeNet and Inception add their side heads while they are trained
    outputs = tensors_of(answer)[: len(objective.kinds)]
    if teacher is None or distillation is None:  # both or neither, as `fit` has checked
        assert objective.loss is not None  # without one there is a teacher
        return objective.loss(outputs, labels)
    with torch.no_grad():
        target = tensors_of(teacher(images))
    soft = divergence(outputs, target, objective.kinds, distillation.temperature)
    return distillation.weight * soft + (1 - distillation.weight) * label_loss(outputs, labels, objective)
