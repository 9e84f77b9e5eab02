"""Calibration images: moments of layers' inputs, which factors are fitted to, and statistics of BatchNorm.

collect() gives the moments; reestimate() and carry_over() set BatchNorm's statistics after factorization.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from compressor.layer_shape import PlanError
from compressor.layers import Layer, evaluating, find_layer

POSITIONS = 32
"""Output positions looked at in each image and call; of 512 images that gives 16,384 windows."""
EXACT_UP_TO = 1024
"""Layers with at most so many weights for each output are summed in float64; above, float32 halves time and memory."""
LEAST_VARIANCE = 1e-12
"""Below it a channel of a BatchNorm is constant, and the ratio of two such variances says nothing."""

Batch = Tensor | Sequence[Tensor]
"""Images, or a sequence that starts with them, as a loader of (images, labels) gives it."""


@dataclass(frozen=True)
class Moments:
    """Moments of one layer's inputs: windows of `width` = S * D numbers in each group, as the layer's im2col'ed input.

    `mean` is (groups, width). `second` is the uncentred second moment (groups, width, width), or None where fewer
    windows were seen than they have numbers: then `windows` (groups, count, width) holds them all, which is less.
    """

    count: int
    mean: Tensor
    second: Tensor | None
    windows: Tensor | None

    def matrix(self) -> Tensor:
        """The second moment (groups, width, width), however it is stored."""
        if self.second is not None:
            return self.second
        assert self.windows is not None  # one of the two is always there
        return self.windows.mT @ self.windows / self.count


class _Sums:
    """Moments in the making: keeps windows while they are few, their products after that."""

    def __init__(self) -> None:
        self.count = 0
        self._few: list[Tensor] = []
        self._sum: Tensor | None = None
        self._products: Tensor | None = None

    def add(self, windows: Tensor) -> None:
        """Takes (groups, more windows, width) in."""
        exact = windows.to(torch.float64 if windows.shape[2] <= EXACT_UP_TO else torch.float32)
        self.count += exact.shape[1]
        total = exact.sum(1)
        self._sum = total if self._sum is None else self._sum + total
        if self._products is None:
            self._few.append(exact)
            if self.count < exact.shape[2]:
                return
            exact = torch.cat(self._few, 1)
            self._few = []
            self._products = torch.zeros(len(exact), exact.shape[2], exact.shape[2], dtype=exact.dtype)
        self._products.baddbmm_(exact.mT, exact)

    def moments(self, name: str) -> Moments:
        assert self._sum is not None  # made by the first call
        mean = self._sum / self.count
        if not bool(torch.isfinite(mean).all()):
            raise PlanError(f"{name} reads NaN or infinity on the calibration images; take others, or mend the network")
        if self._products is None:
            return Moments(self.count, mean, None, torch.cat(self._few, 1))
        return Moments(self.count, mean, self._products.div_(self.count), None)


def collect(
    network: nn.Module,
    batches: Iterable[Batch],
    layers: Iterable[str],
    positions: int = POSITIONS,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _images: None,
) -> dict[str, Moments]:
    """Moments of the inputs of all `layers` (names) from one pass over `batches`; a layer that never ran has none.

    Each call of a layer gives at most `positions` windows of every image, drawn by `seed`, so that a layer used twice
    counts both. The network runs in evaluation mode and is left as it was. `progress` hears how many images are done.
    PlanError for a name that is no layer, no images at all, images that the network does not take, inputs that are not
    finite.
    """
    sums: dict[str, _Sums] = {}
    random = torch.Generator().manual_seed(seed)
    done = 0

    def note(name: str, layer: Layer, inputs: tuple[Tensor, ...]) -> None:
        sums.setdefault(name, _Sums()).add(windows(layer, inputs[0], positions, random))

    with evaluating(network), torch.no_grad(), ExitStack() as hooks:
        for name in dict.fromkeys(layers):
            hooks.callback(find_layer(network, name).register_forward_pre_hook(partial(note, name)).remove)
        for images in image_batches(network, batches):
            run_on(network, images)
            done += len(images)
            progress(done)
    if not done:
        raise PlanError("moments come from calibration images, and there are none; give at least one batch")
    return {name: own.moments(name) for name, own in sums.items()}


def windows(layer: Layer, inputs: Tensor, positions: int, random: torch.Generator) -> Tensor:
    """Inputs of `layer` at up to `positions` output positions of each image: (groups, windows, S * D), on the CPU."""
    if isinstance(layer, nn.Linear):
        rows = inputs.reshape(len(inputs) if inputs.dim() > 1 else 1, -1, layer.in_features)
        return rows[_drawn(len(rows), rows.shape[1], positions, random)].cpu().unsqueeze(0)
    images = inputs if inputs.dim() == 4 else inputs.unsqueeze(0)
    mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
    # torch's own forward pads by these numbers too, 'same' included.
    padded = functional.pad(images, layer._reversed_padding_repeated_twice, mode=mode)
    axes = zip(padded.shape[2:], layer.kernel_size, layer.dilation, layer.stride, strict=True)
    # Indices along an axis, (output positions, window): each window's start, and its reads from there.
    down, across = (
        (torch.arange(0, size - gap * (window - 1), stride)[:, None] + gap * torch.arange(window)).to(images.device)
        for size, window, gap, stride in axes
    )
    image, position = _drawn(len(images), len(down) * len(across), positions, random)
    row, column = down[position // len(across)], across[position % len(across)]
    found = padded[image[:, None, None], :, row[:, :, None], column[:, None, :]]  # windows, height, width, channels
    flat = found.permute(0, 3, 1, 2).reshape(len(found), layer.groups, -1)
    return flat.transpose(0, 1).cpu()


def _drawn(images: int, places: int, positions: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs (image, place): all places of every image, or so many of them, other ones in each."""
    if places <= positions:
        chosen = torch.arange(places).expand(images, -1)
    else:
        chosen = torch.rand(images, places, generator=random).topk(positions).indices
    return torch.arange(images).repeat_interleave(chosen.shape[1]), chosen.flatten()


def image_batches(network: nn.Module, batches: Iterable[Batch]) -> Iterator[Tensor]:
    """The images alone, where the network lives."""
    device = next((tensor.device for tensor in network.parameters()), torch.device("cpu"))
    for batch in batches:
        yield (batch if isinstance(batch, Tensor) else batch[0]).to(device)


def run_on(network: nn.Module, images: Tensor) -> None:
    """Runs the network for what its layers see. PlanError if it does not take these calibration images."""
    try:
        network(images)
    except (RuntimeError, ValueError) as error:  # BatchNorm has values to average, or says that it has not
        size = "x".join(map(str, images.shape[1:]))
        reason = str(error).splitlines()[0]
        raise PlanError(
            f"calibration images must be of the size that the network takes, and it does not take {size}: {reason}; "
            "prepare them as for measuring its accuracy, several in a batch"
        ) from error


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
    kept = [({name: value.clone() for name, value in norm.named_buffers()}, norm.momentum) for norm in norms]
    with evaluating(network), torch.no_grad():
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # torch's word for a plain average over batches
            norm.train()
        try:
            seen = 0
            for images in image_batches(network, batches):
                run_on(network, images)
                seen += len(images)
            if not seen:
                raise PlanError("BatchNorm statistics come from calibration images, and there are none; give a batch")
        except BaseException:
            for norm, (values, _) in zip(norms, kept, strict=True):
                for name, value in values.items():
                    norm.get_buffer(name).copy_(value)
            raise
        finally:
            for norm, (_, momentum) in zip(norms, kept, strict=True):
                norm.momentum = momentum
                norm.eval()  # the caller's modes come back with the network's
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
