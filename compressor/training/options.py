"""TrainOptions: how the epochs of a step are trained, with the optimizer and the course of the rate that follow."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from compressor.training.distillation import Distillation
from compressor.weight_sharing.regularizers import Regularization


@dataclass(frozen=True)
class TrainOptions:
    """How the epochs of a step are trained.

    `rate` is the learning rate. Shape "step" divides it by ten every `step_epochs` epochs (Astrid & Lee 2017), "cosine"
    lets it fall to zero along a half cosine, "one-cycle" warms it up over the first third before that.
    With `patience`, a step ends when the held-out accuracy has not risen for so many epochs, and the last step returns
    its best weights; without, every epoch is run and the last weights count. With `best` the last step returns its best
    weights too, those before its first epoch among them: right where the held-out images are new to the network.
    `trained` says what a step trains: all layers, the new factors alone, or them and all that runs after them; the rest
    stays as it is to the last bit. With `distillation` a teacher's answers are learned. A `regularizer` adds its term
    to the loss.
    """

    optimizer: Literal["sgd", "adamw"] = "adamw"
    rate: float = 3e-4
    shape: Literal["step", "cosine", "one-cycle"] = "cosine"
    step_epochs: float = 5
    momentum: float = 0.9
    weight_decay: float = 5e-4
    patience: int | None = None
    best: bool = False
    seed: int = 0
    trained: Literal["all", "new", "downstream"] = "all"
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
    if options.shape == "step":
        return options.rate * 0.1 ** int(epoch // options.step_epochs)
    progress, warm = epoch / epochs, 1 / 3
    if options.shape == "one-cycle":
        if progress < warm:
            return options.rate * (0.04 + 0.96 * progress / warm)
        progress = (progress - warm) / (1 - warm)
    return options.rate * 0.5 * (1 + math.cos(math.pi * progress))
