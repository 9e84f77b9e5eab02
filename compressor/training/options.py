"""TrainOptions: how the epochs of a step are trained, with the optimizer, learning rate and loss that follow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.weight_sharing.regularizers import Regularization

UNLABELLED = -1
"""The label of an image that has none: only the teacher says what it shows."""


@dataclass(frozen=True)
class Distillation:
    """Weight of the teacher's logits in the loss (the labels have the rest), and the temperature that softens them.

    See `soft_target_loss`.
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
    after them; the rest stays as it is to the last bit. With `distillation` a teacher's logits are learned. A
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


def soft_target_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean KL divergence of the teacher's softened logits to the student's, times the temperature squared, so that its
    gradient keeps its size at any temperature (Hinton et al. 2015, section 2). Zero where the logits are equal."""
    student, target = ((values / temperature).log_softmax(1) for values in (logits, teacher))
    divergence = functional.kl_div(student, target, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the images that have a label; 0 where none has one."""
    if not bool((labels != UNLABELLED).any()):
        return logits.sum() * 0
    return functional.cross_entropy(logits, labels, ignore_index=UNLABELLED)


def loss_of(
    logits: Tensor, labels: Tensor, images: Tensor, teacher: nn.Module | None, distillation: Distillation | None
) -> Tensor:
    """The loss of a batch: cross-entropy, or with a teacher its logits and the labels, each by its weight."""
    if teacher is None or distillation is None:  # both or neither, as `fit` has checked
        return functional.cross_entropy(logits, labels)
    with torch.no_grad():
        target = teacher(images)
    soft = soft_target_loss(logits, target, distillation.temperature)
    return distillation.weight * soft + (1 - distillation.weight) * label_loss(logits, labels)
