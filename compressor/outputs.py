"""Outputs of any network, and what they are for: their divergence from another network's, the metric, the loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

Kind = Literal["logits", "class map", "values"]
"""A row with a number for each class, such a row for each pixel (classes, height, width), or anything else."""

Batch = tuple[Tensor, Tensor]
Score = Callable[[nn.Module, Iterable[Batch], "torch.device | None"], float]
"""The metric of a network on batches, in percent; more is better."""

UNLABELLED = -1
"""The label of an image that has none: only the teacher says what it shows."""


@dataclass(frozen=True)
class Objective:
    """The purpose of a network's outputs.

    `kinds` says what each output holds, in the order in which the network gives them. `score` is the metric that the
    tool's own choices go by, called `metric`; without one it is the top-1 of a classifier. `loss` is the loss of
    outputs against labels; without one, or where an image has no label, a network learns from its teacher alone.
    """

    kinds: tuple[Kind, ...] = ("logits",)
    metric: str = "top-1"
    score: Score | None = None
    loss: Callable[[Sequence[Tensor], Tensor], Tensor] | None = None


CLASSIFICATION = Objective(loss=lambda outputs, labels: functional.cross_entropy(outputs[0], labels))


def tensors_of(answer: object) -> tuple[Tensor, ...]:
    """The tensors that a network gives, any nest of them, in its own order."""
    return tuple(leaf for leaf in tree_leaves(answer) if isinstance(leaf, Tensor))


def divergence(
    outputs: Sequence[Tensor], reference: Sequence[Tensor], kinds: Sequence[Kind], temperature: float = 1.0
) -> Tensor:
    """The divergence of outputs from those of a reference, the mean over the images of a sum over the outputs.

    Of logits it is the KL divergence, of a class map its mean over the pixels, softened by the temperature and times
    its square, so that its gradient keeps its size (Hinton et al. 2015, section 2); of values the squared error over
    the variance of the reference. Zero where the outputs are equal.
    """
    found = outputs[0].new_zeros(())
    for own, other, kind in zip(outputs, reference, kinds, strict=True):
        if kind == "values":
            variance = other.var(unbiased=False).clamp(min=torch.finfo(other.dtype).tiny)
            found = found + (own - other).square().mean() / variance
            continue
        student, target = ((values / temperature).log_softmax(1) for values in (own, other))
        pixels = own[0, 0].numel()
        whole = functional.kl_div(student, target, reduction="batchmean", log_target=True)
        found = found + whole / pixels * temperature**2
    return found
