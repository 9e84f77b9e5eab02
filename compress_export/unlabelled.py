"""Images without labels, from a folder: what a teacher's answers can be learned on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from compress_export.digits import Image, Images, View
from compress_export.errors import InputError
from compress_export.pictures import read_image, transform
from compressor.distillation import UNLABELLED

PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")


def unlabelled_images(folder: Path, view: View) -> Images:
    """Every image below a folder, whatever it shows, changed as for training. InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"--unlabelled {folder}: there is no such folder")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in PICTURES)
    if not paths:
        raise InputError(f"--unlabelled {folder} holds no images ({' '.join(PICTURES)})")
    return _Unlabelled(paths, transform(view, True, 256 / 224, True), view.device)


class _Unlabelled(Dataset[Image]):
    """Pictures of files, all with the label that stands for none."""

    def __init__(self, paths: Sequence[Path], change: Callable[[Any], Tensor], device: torch.device) -> None:
        self.paths, self.change, self.device = paths, change, device

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        return self.change(read_image(str(self.paths[index]))).to(self.device), UNLABELLED
