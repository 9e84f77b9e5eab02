"""accuracy(): how many images of a set a network names rightly, and which."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 in percent, with the predicted class of every image in the order of the data."""

    top1: float
    top5: float
    predictions: tuple[int, ...]
    correct: tuple[bool, ...]


def accuracy(network: nn.Module, batches: Iterable[Batch], device: torch.device | None = None) -> Accuracy:
    """Accuracy of `network` in evaluation mode on all of `batches`. It runs on `device`, by default where it is, and is
    back there afterwards."""
    home = next(network.parameters()).device
    device = device or home
    network.to(device)
    predictions: list[int] = []
    correct: list[bool] = []
    top5 = 0
    network.eval()
    with torch.no_grad():
        for images, labels in batches:
            logits = network(images.to(device))
            best = logits.topk(min(5, logits.shape[1]), dim=1).indices.cpu()
            hits = best == labels[:, None]
            predictions += best[:, 0].tolist()
            correct += hits[:, 0].tolist()
            top5 += int(hits.any(dim=1).sum())
    network.to(home)
    count = max(1, len(correct))
    return Accuracy(100 * sum(correct) / count, 100 * top5 / count, tuple(predictions), tuple(correct))
