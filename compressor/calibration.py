"""collect(): first and second moments of the inputs of layers on calibration images, to fit data-aware factors to."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.layer_shape import PlanError
from compressor.layers import Layer, evaluating, find_layer

POSITIONS = 32
"""Output positions looked at in each image and call; of 512 images that gives 16,384 windows."""
EXACT_UP_TO = 1024
"""Layers with at most so many weights for each output are summed in float64; above, float32 halves time and memory."""

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
    with evaluating(network), torch.no_grad(), ExitStack() as hooks:
        for name in dict.fromkeys(layers):
            hook = _adder(sums, name, positions, random)
            hooks.callback(find_layer(network, name).register_forward_pre_hook(hook).remove)
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
    down, across = (_reads(*axis).to(images.device) for axis in axes)
    image, position = _drawn(len(images), len(down) * len(across), positions, random)
    row, column = down[position // len(across)], across[position % len(across)]
    found = padded[image[:, None, None], :, row[:, :, None], column[:, None, :]]  # windows, height, width, channels
    flat = found.permute(0, 3, 1, 2).reshape(len(found), layer.groups, -1)
    return flat.transpose(0, 1).cpu()


def _reads(size: int, window: int, dilation: int, stride: int) -> Tensor:
    """Indices along one axis: (output positions, window)."""
    starts = torch.arange(0, size - dilation * (window - 1), stride)
    return starts[:, None] + dilation * torch.arange(window)


def _drawn(images: int, places: int, positions: int, random: torch.Generator) -> tuple[Tensor, Tensor]:
    """Pairs (image, place): all places of every image, or so many of them, other ones in each."""
    if places <= positions:
        chosen = torch.arange(places).expand(images, -1)
    else:
        chosen = torch.rand(images, places, generator=random).topk(positions).indices
    return torch.arange(images).repeat_interleave(chosen.shape[1]), chosen.flatten()


def _adder(sums: dict[str, _Sums], name: str, positions: int, random: torch.Generator) -> Callable[..., None]:
    def note(layer: Layer, inputs: tuple[Any, ...]) -> None:
        sums.setdefault(name, _Sums()).add(windows(layer, inputs[0], positions, random))

    return note


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
