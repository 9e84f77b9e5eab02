"""Real photographs without a network: crops of the two that scikit-learn ships."""

from __future__ import annotations

import torch
from torch import Tensor

from compress_export.digits import View

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
