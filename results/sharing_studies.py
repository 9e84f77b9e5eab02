"""The study of shared weights: its networks, data, and weights of each regularizer."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, SequentialSampler, TensorDataset

from compress_export.data.images import read_sheets, read_torchvision, sheets_of
from compressor.training.loop import Loader
from compressor.weight_sharing.product_quantization import Sharing

HELD_OUT = 5000
CALIBRATION, CALIBRATION_BATCH = 5000, 1000


def lenet_300_100() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(), nn.Linear(784, 300), nn.ReLU(), nn.Linear(300, 100), nn.ReLU(), nn.Linear(100, 10)
    )


def small_cnn() -> nn.Module:
    """Three convolutions and the fully connected layers of an AlexNet, an eighth as wide."""
    convolutions = [nn.Conv2d(3, 32, 5, 2, 2), nn.Conv2d(32, 64, 3, padding=1), nn.Conv2d(64, 64, 3, padding=1)]
    layers = [layer for own in convolutions for layer in (own, nn.BatchNorm2d(own.out_channels), nn.ReLU())]
    fully = [nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10)]
    return nn.Sequential(*layers[:6], nn.MaxPool2d(2), *layers[6:], nn.MaxPool2d(2), nn.Flatten(), *fully)


def alexnet() -> nn.Module:
    """torchvision's AlexNet, which sees the images at twice their size, 64x64."""
    from torchvision.models import alexnet as named

    return nn.Sequential(nn.Upsample(scale_factor=2, mode="bilinear"), named(num_classes=10))


@dataclass(frozen=True)
class Study:
    """A network and its data, the weights of each regularizer, None among them, and how it is shared."""

    data: str
    network: Callable[[], nn.Module]
    epochs: int
    seeds: tuple[int, ...]
    weights: dict[str | None, tuple[float, ...]]
    sharings: tuple[Sharing, ...]
    once: tuple[Sharing, ...] = ()
    batch: int = 100
    rate: float = 1e-3
    tuning: int = 1
    calibration: int = 5000
    probe: Sharing = field(default_factory=lambda: Sharing(8, 16))


SHARINGS = (Sharing(4, 16), Sharing(8, 16), Sharing(16, 16))
BEST: dict[str | None, tuple[float, ...]] = {
    None: (0.0,),
    "binarizing-l1": (0.5,),
    "quartic": (0.15,),
    "centroid": (200.0,),
}
"""The best weights of those tried on MNIST."""

STUDIES = {
    "mnist": Study(
        "mnist",
        lenet_300_100,
        epochs=10,
        seeds=(0, 1, 2),
        weights={None: (0.0,), "binarizing-l1": (0.2, 0.5), "quartic": (0.05, 0.15), "centroid": (60.0, 200.0, 2000.0)},
        sharings=SHARINGS,
        once=(
            Sharing(4, 256),
            Sharing(8, 64),
            Sharing(16, 64),
            Sharing(8, 16, "rows"),
            Sharing(8, 16, codebook="block"),
        ),
    ),
    "cifar10": Study(
        "cifar10",
        small_cnn,
        epochs=6,
        seeds=(0,),
        weights=BEST,
        sharings=SHARINGS,
    ),
    "alexnet": Study(
        "cifar10",
        alexnet,
        epochs=8,
        seeds=(0,),
        weights=BEST,
        sharings=SHARINGS,
        rate=3e-4,
        calibration=1000,
    ),
}


@dataclass(frozen=True)
class Parts:
    """The loaders of one data set, and batches of images to calibrate on."""

    train: Loader
    validation: Loader
    test: Loader
    calibration: list[Tensor]


def mnist(root: Path, batch: int) -> Parts:
    sets = [read_torchvision("MNIST", root, train) for train in (True, False)]
    found = [((pixels.float() / 255 - 0.1307) / 0.3081, torch.tensor(labels)) for pixels, labels in sets]
    return parts(*found[0], *found[1], batch)


def cifar10(root: Path, batch: int) -> Parts:
    found: list[Tensor] = []
    centre, spread = (torch.tensor(each)[:, None, None] for each in ((0.491, 0.482, 0.447), (0.247, 0.244, 0.262)))
    for train in (True, False):
        sheets = sheets_of(root, train)
        pixels, labels = read_sheets(sheets) if sheets else read_torchvision("CIFAR10", root, train)
        found += [(pixels.float() / 255 - centre) / spread, torch.tensor(labels)]
    return parts(*found, batch)


def parts(images: Tensor, labels: Tensor, test: Tensor, test_labels: Tensor, batch: int) -> Parts:
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    held, kept = order[:HELD_OUT], order[HELD_OUT:]
    return Parts(
        loader(images[kept], labels[kept], batch, shuffled=True),
        loader(images[held], labels[held], 1000, shuffled=False),
        loader(test, test_labels, 1000, shuffled=False),
        list(images[kept[:CALIBRATION]].split(CALIBRATION_BATCH)),
    )


def loader(images: Tensor, labels: Tensor, batch: int, shuffled: bool) -> Loader:
    """Whole batches by index, which saves the collating of single images."""
    data, generator = TensorDataset(images, labels), torch.Generator()
    order = RandomSampler(data, generator=generator) if shuffled else SequentialSampler(data)
    return DataLoader(data, batch_size=None, sampler=BatchSampler(order, batch, drop_last=False), generator=generator)


DATA = {"mnist": mnist, "cifar10": cifar10}
