"""The embedded data: scikit-learn's scanned digits, 1,797 real images that need no network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
import torch
from torch import Tensor
from torch.utils.data import Dataset

SMALLEST_CROP = 120


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
        resized = torch.nn.functional.interpolate(crop, size=view.input[1:], mode="bilinear", antialias=True)
        crops.append(resized[0] if view.input[0] == 3 else resized[0].mean(0).expand(view.input[0], -1, -1))
    mean, std = torch.tensor(view.mean)[:, None, None], torch.tensor(view.std)[:, None, None]
    return (torch.stack(crops) - mean) / std


CPU = torch.device("cpu")


Image = tuple[Tensor, int]


Images = Dataset[Image]


@dataclass(frozen=True)
class View:
    """How an image becomes a tensor: its size (channels, height, width), and what it is normalized by. Sets that are
    held in memory whole lie on `device`, and are changed there."""

    input: tuple[int, int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    device: torch.device = CPU


@cache
def grey_digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's 1,797 scanned digits, N x 1 x 8 x 8 from 0 to 1, and their labels."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return torch.tensor(bunch.images, dtype=torch.float32)[:, None] / 16, torch.tensor(bunch.target)


def _shown(grey: Tensor, view: View) -> Tensor:
    images = torch.nn.functional.interpolate(grey, size=view.input[1:], mode="bilinear", antialias=False)
    mean, std = torch.tensor(view.mean)[:, None, None], torch.tensor(view.std)[:, None, None]
    return (images.expand(-1, view.input[0], -1, -1) - mean) / std


class DigitImages(Dataset[Image]):
    """Digits that are enlarged and normalized when they are asked for: 1,797 at 3x224x224 would take 1 GB."""

    def __init__(self, view: View, chosen: Sequence[int]) -> None:
        self.view, self.chosen = view, chosen
        self.grey, self.labels = grey_digits()

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> Image:
        place = self.chosen[index]
        return _shown(self.grey[place : place + 1], self.view)[0], int(self.labels[place])
