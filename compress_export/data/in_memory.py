"""Sets of small images that lie in memory as bytes, CIFAR-10 and MNIST: changed when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from compress_export.data.builtin import Image
from compress_export.data.builtin import View
from compress_export.errors import InputError

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


class SmallImages(Dataset[Image]):
    """Images N x C x H x W of bytes as a network takes them; with `augment` shifted by up to an eighth, and where
    `flip` allows it mirrored, by torch's own random numbers. They are changed where the bytes lie, and stay there."""

    def __init__(self, pixels: Tensor, labels: Sequence[int], view: View, augment: bool = False, flip: bool = False):
        self.pixels, self.labels, self.view = pixels, labels, view
        self.augment, self.flip = augment, flip
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (view.mean, view.std))
        self._scale, self._shift = 1 / (255 * std), mean / std

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Image:
        (image,) = self.__getitems__([index])
        return image

    def __getitems__(self, indices: Sequence[int]) -> list[Image]:
        """A whole batch changed at once, which torch's loaders ask for: a third of the time of one by one."""
        images = self._coloured(self.pixels[list(indices)])
        if images.shape[2:] != self.view.input[1:]:
            images = functional.interpolate(images.float(), self.view.input[1:], mode="bilinear", antialias=True)
        images = self._moved(images) if self.augment else images
        images = images * self._scale - self._shift
        return [(image, self.labels[index]) for image, index in zip(images, indices, strict=True)]

    def _coloured(self, images: Tensor) -> Tensor:
        channels = self.view.input[0]
        if channels == images.shape[1]:
            return images
        return images.float().mean(1, keepdim=True) if channels == 1 else images.expand(-1, channels, -1, -1)

    def _moved(self, images: Tensor) -> Tensor:
        """Each image shifted, black where nothing was, and by chance mirrored."""
        count, channels, height, width = images.shape
        reach = max(1, height // 8)
        wide = functional.pad(images, (reach,) * 4)
        down, right = torch.randint(0, 2 * reach + 1, (2, count, 1))
        rows, columns = down + torch.arange(height), right + torch.arange(width)
        if self.flip:
            columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
        rows, columns = rows.to(images.device), columns.to(images.device)  # drawn on the CPU, alike for every device
        places = rows[:, None, :, None] * wide.shape[3] + columns[:, None, None, :]
        moved = wide.flatten(2).gather(2, places.expand(-1, channels, -1, -1).reshape(count, channels, -1))
        return moved.view(images.shape)


def read_torchvision(kind: str, root: Path, train: bool) -> tuple[Tensor, list[int]]:
    """Pixels and labels of torchvision's data set `kind` in `root`, downloaded where the network allows it."""
    from torchvision import datasets

    try:
        found: Any = getattr(datasets, kind)(root, train=train, download=True)
    except (OSError, RuntimeError) as error:
        raise InputError(
            f"{kind.lower()} is not in {root} and cannot be downloaded ({' '.join(str(error).split())}); "
            "put it there, name another place with --data-root, or take --data digits, which needs no network"
        ) from error
    pixels = torch.as_tensor(found.data)
    pixels = pixels[:, None] if pixels.dim() == 3 else pixels.permute(0, 3, 1, 2)
    return pixels.contiguous(), [int(label) for label in found.targets]


def sheets_of(root: Path, train: bool) -> list[Path]:
    """The ten sheets of CIFAR-10 in `root`, one image file for each class, or none: cifar10/train_0_airplane.webp."""
    part = "train" if train else "test"
    names = [f"{part}_{place}_{name}" for place, name in enumerate(CIFAR10_CLASSES)]
    found = [path for name in names for path in sorted((root / "cifar10").glob(f"{name}.*"))]
    return found if len(found) == len(CIFAR10_CLASSES) else []


def read_sheets(sheets: Sequence[Path], side: int = 32) -> tuple[Tensor, list[int]]:
    """Pixels and labels from a sheet for each class, on which its images lie in rows without gaps."""
    import numpy as np
    from PIL import Image as Picture

    classes = []
    for path in sheets:
        with Picture.open(path) as picture:
            sheet = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1)
        if sheet.shape[1] % side or sheet.shape[2] % side:
            raise InputError(f"{path} is {sheet.shape[2]}x{sheet.shape[1]}, no whole rows of {side}x{side} images")
        tiles = sheet.unfold(1, side, side).unfold(2, side, side)
        classes.append(tiles.permute(1, 2, 0, 3, 4).reshape(-1, 3, side, side))
    labels = [place for place, images in enumerate(classes) for _ in range(len(images))]
    return torch.cat(classes).contiguous(), labels
