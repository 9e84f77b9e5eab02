"""Picture files as a network takes them: read whole, cut to size, normalized, and changed by chance for training."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from compress_export.data.in_memory import Image, Images, View
from compress_export.errors import InputError
from compressor.training.options import UNLABELLED

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def unlabelled_images(folder: Path, view: View) -> Images:
    """Every image below a folder, whatever it shows, changed as for training. InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"--set fine_tune.unlabelled={folder}: there is no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not paths:
        raise InputError(f"--set fine_tune.unlabelled={folder} holds no images ({' '.join(PICTURES)})")
    return _Unlabelled(paths, transform(view, True, 256 / 224, True), view.device)


class _Unlabelled(Dataset[Image]):
    """Pictures of files, all with the label that stands for none."""

    def __init__(self, paths: Sequence[Path], change: Callable[[Any], Tensor], device: torch.device) -> None:
        self.paths, self.change, self.device = paths, change, device

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        return self.change(read_image(str(self.paths[index]))).to(self.device), UNLABELLED


def pictures(files: Sequence[Path], view: View) -> Tensor:
    """Picture files as a validation set shows them: N x C x H x W, cut to size and normalized. InputError for a file
    that is no picture."""
    change = transform(view, False, 256 / 224, False)
    return torch.stack([change(read_image(str(file))) for file in files])


def read_image(path: str) -> Any:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(path) as image:
            return image.convert("RGB")
    except (OSError, UnidentifiedImageError, SyntaxError) as error:
        raise InputError(f"{path} is not a whole image ({error}); remove it or replace it") from error


def transform(view: View, augment: bool, resize: float, flip: bool) -> Callable[[Any], Tensor]:
    from torchvision import transforms

    size = list(view.input[1:])
    steps: list[Callable[[Any], Any]] = [transforms.Grayscale(view.input[0])] if view.input[0] == 1 else []
    if augment and resize > 1:
        steps.append(transforms.RandomResizedCrop(size))
    elif augment:
        steps += [transforms.Resize(size), transforms.RandomCrop(size, padding=max(1, size[0] // 8))]
    else:
        steps += [transforms.Resize([round(side * resize) for side in size]), transforms.CenterCrop(size)]
    if augment and flip:
        steps.append(transforms.RandomHorizontalFlip())
    steps += [transforms.ToTensor(), transforms.Normalize(view.mean, view.std)]
    return cast(Callable[[Any], Tensor], transforms.Compose(steps))
