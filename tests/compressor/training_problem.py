"""A classification problem that a small network learns in seconds: which quarter of the image is bright."""

import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from compressor.plan import LayerPlan, Plan

PLAN = Plan(
    (
        LayerPlan("0", (12, 3, 3, 3), "cp", (8,), "rank given"),
        LayerPlan("3", (12, 12, 3, 3), "cp", (16,), "rank given"),
        LayerPlan("7", (4, 192), "svd", (3,), "rank given"),
    ),
    "given",
    "ranks given",
)


def images(count, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, 4, (count,), generator=generator)
    pictures = 0.5 * torch.randn(count, 3, 8, 8, generator=generator)
    for picture, label in zip(pictures, labels.tolist(), strict=True):
        row, column = 4 * (label // 2), 4 * (label % 2)
        picture[:, row : row + 4, column : column + 4] += 0.6
    return TensorDataset(pictures, labels)


def loaders(train=160, validation=64):
    generator = torch.Generator()
    return (
        DataLoader(images(train, 1), batch_size=16, shuffle=True, generator=generator),
        DataLoader(images(validation, 2), batch_size=64),
    )


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, padding=1),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Conv2d(12, 12, 3, padding=1, stride=2),
        nn.ReLU(),
        nn.Dropout(0.1),
        nn.Flatten(),
        nn.Linear(192, 4),
    )
