"""Images as a network takes them: photographs and digits that need no network, MNIST and CIFAR-10."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from compress_export.errors import InputError
from compress_export.models.resize import Resize, whole

if TYPE_CHECKING:
    from compress_export.models.networks import Network

CIFAR10_CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
SMALLEST_CROP = 120
CPU = torch.device("cpu")

Image = tuple[Tensor, int]
Images = Dataset[Image]
Changes = tuple[str, ...]
"""Random changes of training images: "crop" and "flip", which mirrors them left to right."""


@dataclass(frozen=True)
class View:
    """The size (channels, height, width) and normalization of images as a network takes them. Sets that are held in
    memory whole lie on `device`, and are changed there. Pictures of files are resized by `resize` and cropped to the
    size; without it they are resized to exactly that. Masks have values below `classes`."""

    input: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device = CPU
    published: Resize | None = None
    classes: int = 0

    @staticmethod
    def of(network: Network, device: torch.device = CPU) -> View:
        """The images of a network."""
        return View(network.input, network.mean, network.std, device, network.resize)

    @property
    def resize(self) -> Resize:
        return self.published or whole(self.input)


def photograph_crops(view: View, count: int) -> Tensor:
    """`count` square crops, the same every time, as N x C x H x W and normalized as the network takes them.

    Digits enlarged from 8x8 would be too much alike: BatchNorm statistics of an untrained network that come from them
    amplify rounding errors twentyfold, and comparing files proves less.
    """
    from sklearn.datasets import load_sample_images

    photographs = [torch.tensor(pixels).permute(2, 0, 1).float() / 255 for pixels in load_sample_images().images]
    random = torch.Generator().manual_seed(0)
    crops = []
    for number in range(count):
        photograph = photographs[number % len(photographs)]
        height, width = photograph.shape[1:]
        side = int(torch.randint(SMALLEST_CROP, height + 1, (1,), generator=random))
        top = int(torch.randint(height - side + 1, (1,), generator=random))
        left = int(torch.randint(width - side + 1, (1,), generator=random))
        crop = photograph[None, :, top : top + side, left : left + side]
        resized = functional.interpolate(crop, size=view.input[1:], mode="bilinear", antialias=True)
        crops.append(resized[0] if view.input[0] == 3 else resized[0].mean(0).expand(view.input[0], -1, -1))
    mean, std = torch.tensor(view.mean)[:, None, None], torch.tensor(view.std)[:, None, None]
    return (torch.stack(crops) - mean) / std


@cache
def grey_digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 scanned digits, N x 1 x 8 x 8 from 0 to 1, and their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16, torch.tensor(bunch.target)


class DigitImages(Dataset[Image]):
    """Digits that are enlarged and normalized when they are asked for: 1,797 at 3x224x224 would take 1 GB."""

    def __init__(self, view: View, chosen: Sequence[int]) -> None:
        self.view, self.chosen = view, chosen
        self.grey, self.labels = grey_digits()

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Image:
        place, view = self.chosen[index], self.view
        digit = self.grey[place : place + 1]
        image = functional.interpolate(digit, size=view.input[1:], mode="bilinear", antialias=False)
        mean, std = torch.tensor(view.mean)[:, None, None], torch.tensor(view.std)[:, None, None]
        return ((image.expand(-1, view.input[0], -1, -1) - mean) / std)[0], int(self.labels[place])


class SmallImages(Dataset[Image]):
    """Images N x C x H x W of bytes as a network takes them; with `crop` shifted by up to an eighth, with `flip`
    mirrored by chance, by torch's own random numbers. They are changed where the bytes lie, and stay there."""

    def __init__(self, pixels: Tensor, labels: Sequence[int], view: View, crop: bool = False, flip: bool = False):
        if pixels.shape[1] != 1 and view.input[0] not in (1, pixels.shape[1]):
            raise InputError(
                f"these images have {pixels.shape[1]} channels, or 1 in grey, and the network takes {view.input[0]}; "
                "pass --input with as many, or leave --data out"
            )
        self.pixels, self.labels, self.view = pixels, labels, view
        self.crop, self.flip = crop, flip
        mean, std = (torch.tensor(values, device=pixels.device)[:, None, None] for values in (view.mean, view.std))
        self._scale, self._shift = 1 / (255 * std), mean / std

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> Image:
        (image,) = self.__getitems__([index])
        return image

    def __getitems__(self, indices: Sequence[int]) -> list[Image]:
        """A whole batch changed at once, which torch's loaders ask for: a third of the time of one by one."""
        images, channels = self.pixels[list(indices)], self.view.input[0]
        if channels != images.shape[1]:
            images = images.float().mean(1, keepdim=True) if channels == 1 else images.expand(-1, channels, -1, -1)
        if images.shape[2:] != self.view.input[1:]:
            images = functional.interpolate(images.float(), self.view.input[1:], mode="bilinear", antialias=True)
        if self.crop or self.flip:  # each is shifted, black where nothing was, and by chance mirrored
            count, depth, height, width = images.shape
            reach = max(1, height // 8) if self.crop else 0
            wide = functional.pad(images, (reach,) * 4)
            down, right = torch.randint(0, 2 * reach + 1, (2, count, 1))
            rows, columns = down + torch.arange(height), right + torch.arange(width)
            if self.flip:
                columns = torch.where(torch.rand(count, 1) < 0.5, columns.flip(1), columns)
            # drawn on the CPU, alike for every device
            rows, columns = rows.to(images.device), columns.to(images.device)
            places = rows[:, None, :, None] * wide.shape[3] + columns[:, None, None, :]
            moved = wide.flatten(2).gather(2, places.expand(-1, depth, -1, -1).reshape(count, depth, -1))
            images = moved.view(images.shape)
        images = images * self._scale - self._shift
        return [(image, self.labels[index]) for image, index in zip(images, indices, strict=True)]


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
