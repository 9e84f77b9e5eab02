"""Networks small enough to export in a second, with statistics and logits that could be wrong."""

import torch
from torch import Tensor, nn

SIZE = 12


def images(count: int = 5, channels: int = 3) -> Tensor:
    """Images (count, channels, SIZE, SIZE) with structure: scikit-learn's real digits, one shifted in each channel."""
    from sklearn.datasets import load_digits

    digits = torch.tensor(load_digits().images[:count] / 8 - 1, dtype=torch.float32)[:, None]
    digits = nn.functional.interpolate(digits, size=(SIZE, SIZE), mode="bilinear")
    return torch.cat([digits.roll(channel, dims=2) for channel in range(channels)], dim=1)


def settled(module: nn.Module, channels: int = 3) -> nn.Module:
    """The module with its BatchNorm statistics taken from the images, in eval mode."""
    module.train()
    with torch.no_grad():
        for _ in range(3):
            module(images(16, channels))
    return module.eval()


def small_network(seed: int = 0) -> nn.Module:
    """Convolution, BatchNorm, a depthwise and a 1x1 factor, BatchNorm, pooling, a linear layer: 10 logits."""
    torch.manual_seed(seed)
    return settled(
        nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, bias=False),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.Sequential(nn.Conv2d(16, 16, 3, groups=16, bias=False), nn.Conv2d(16, 24, 1)),
            nn.BatchNorm2d(24),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Dropout(),
            nn.Linear(24, 10),
        )
    )
