"""Distillation: a cut network learns the answers of the original, on images with labels and without."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional

UNLABELLED = -1
"""The label of an image that has none: only the teacher says what it shows."""


@dataclass(frozen=True)
class Distillation:
    """How much of the loss the teacher's answers are (the labels have the rest), and the temperature that softens them.

    See `soft_target_loss`.
    """

    weight: float = 0.9
    temperature: float = 4.0


def soft_target_loss(logits: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Mean KL divergence of the teacher's softened answers to the student's, times the temperature squared, so that its
    gradient keeps its size at any temperature (Hinton et al. 2015). Zero where the logits are equal."""
    own, aim = ((each / temperature).log_softmax(1) for each in (logits, teacher))
    divergence = functional.kl_div(own, aim, reduction="batchmean", log_target=True)
    return divergence * temperature**2


def label_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross-entropy over the images that have a label; 0 where none has one."""
    if not bool((labels != UNLABELLED).any()):
        return logits.sum() * 0
    return functional.cross_entropy(logits, labels, ignore_index=UNLABELLED)


def distilled_loss(logits: Tensor, labels: Tensor, teacher: Tensor, how: Distillation) -> Tensor:
    """Both losses, each by its share."""
    soft = soft_target_loss(logits, teacher, how.temperature)
    return how.weight * soft + (1 - how.weight) * label_loss(logits, labels)
