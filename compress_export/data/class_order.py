"""Check that a trained network's outputs stand in the order of the data's classes, before anything is tuned."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

from compress_export.data.in_memory import CPU
from compress_export.errors import InputError

IMAGES_OF_CLASS, MOST = 20, 512
"""Images looked at for each class, and in all."""
SURE = 2.5
"""Standard deviations by which another order must explain more images than the given one."""
FEW = 50
"""Below so many held-out images, one of them is two points of top-1 or more."""


def check_order(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: Sequence[str], data: str) -> str:
    """InputError if the network's outputs fit the classes far better in another order; else a note, empty where there
    is nothing to say.

    The other order is fitted to every second image and judged on the others, so that it cannot win by being free.
    Where there are too few images of each class, or the network's outputs follow no class at all, nothing is concluded.
    """
    predictions, labels = _predictions(network, batches, min(MOST, IMAGES_OF_CLASS * len(classes)))
    count = len(labels)
    order = _best_order(predictions[::2], labels[::2], len(classes))
    rest, own = predictions[1::2], labels[1::2]
    here, there = rest == own, rest == order[own]
    given, other = int((here & ~there).sum()), int((there & ~here).sum())
    right = int((predictions == labels).sum())
    if other - given > SURE * math.sqrt(given + other) and 2 * int(there.sum()) > len(rest):
        moved = int(torch.bincount(own[there & ~here]).argmax())
        raise InputError(
            f"{data}: the network's outputs seem to stand in another order than the classes: {right} of {count} "
            f"held-out images get the output of their class, and images of {classes[moved]} (output {moved}) mostly "
            f"get output {int(order[moved])}; name the folders so that, sorted, they are in the order of the outputs"
        )
    chance = count / len(classes)
    if count >= FEW and right <= chance + SURE * math.sqrt(chance):
        return (
            f"the network is right on {right} of {count} held-out images of {data}, no more than by chance: check its "
            "weights, source.mean and source.std, and that its outputs are these classes"
        )
    return ""


def few_images(held_out: int) -> str:
    """A note on a validation split too small to tell small losses, empty where it is not."""
    if held_out >= FEW:
        return ""
    share = f"each is {100 / held_out:.1f} points of top-1" if held_out > 1 else "it is all of top-1"
    return (
        f"{held_out} held-out image{'s' * (held_out > 1)} (15 % of the training images) decide on ranks, and "
        f"{share}: too few to judge by; add training images"
    )


def _predictions(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], most: int) -> tuple[Tensor, Tensor]:
    """The class that each of the first images gets, and that it has."""
    predictions, labels, seen = [], [], 0
    network.eval()
    device = next((value.device for value in network.parameters()), CPU)
    with torch.no_grad():
        for images, own in batches:
            predictions.append(network(images[: most - seen].to(device)).argmax(1).cpu())
            labels.append(own[: most - seen])
            seen += len(predictions[-1])
            if seen >= most:
                break
    return torch.cat(predictions), torch.cat(labels)


def _best_order(predictions: Tensor, labels: Tensor, classes: int) -> Tensor:
    """For each class an output of its own, so that as many of the images as possible get that of their class."""
    counts = torch.bincount(labels * classes + predictions, minlength=classes * classes).reshape(classes, classes)
    return torch.from_numpy(linear_sum_assignment(counts.numpy(), maximize=True)[1])
