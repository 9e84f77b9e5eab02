"""Pictures with masks, a PNG whose values are classes: a folder's train/images and train/masks, or Pascal VOC's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from compress_export.data.images import Image, View
from compress_export.data.picture_files import pictures_below, read_image, transform
from compress_export.errors import InputError
from compress_export.models.resize import whole
from compress_export.models.tasks import VOID


def masked_files(folder: Path, train: bool) -> list[tuple[Path, Path]]:
    """The pictures of one part with their masks. InputError for a picture without a mask, or none at all."""
    part = "train" if train else "val"
    names = folder / "ImageSets" / "Segmentation" / f"{part}.txt"
    if names.is_file():
        stems = names.read_text(encoding="utf-8").split()
        found = [
            (folder / "JPEGImages" / f"{each}.jpg", folder / "SegmentationClass" / f"{each}.png") for each in stems
        ]
    else:
        pictures = pictures_below(folder / part / "images")[0] if (folder / part / "images").is_dir() else []
        found = [(path, folder / part / "masks" / f"{path.stem}.png") for path in pictures]
    if not found:
        raise InputError(
            f"{folder} holds no pictures in {part}/images; a segmenter's data are train/images, train/masks, "
            "val/images and val/masks, or Pascal VOC's folders"
        )
    missing = [mask for _, mask in found if not mask.is_file()]
    if missing:
        raise InputError(f"{missing[0]} is missing: each picture has a mask, a PNG of the picture's name; add it")
    return found


class Masked(Dataset[Image]):
    """Pictures and masks (height, width) of classes, both resized to exactly what the network takes."""

    def __init__(self, files: Sequence[tuple[Path, Path]], view: View) -> None:
        self.files, self.view = files, view
        self.change = transform(View(view.input, view.mean, view.std, published=whole(view.input)))

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> Image:
        path, mask = self.files[index]
        picture = read_image(str(path))
        return self.change(picture), cast(int, self._mask(mask, (picture.height, picture.width)))

    def _mask(self, path: Path, size: tuple[int, int]) -> Tensor:
        from PIL import Image as Pillow

        try:
            with Pillow.open(path) as opened:
                values = np.asarray(opened)
                high, wide = self.view.input[1:]
                resized = np.asarray(opened.resize((wide, high), Pillow.Resampling.NEAREST))
        except OSError as error:
            raise InputError(f"{path} is not a whole image ({error}); remove it or replace it") from error
        if values.ndim != 2 or values.dtype != np.uint8:
            raise InputError(
                f"{path}: a mask has one number of 8 bits for each pixel, its class; this one is of mode {opened.mode}"
            )
        if values.shape != size:
            raise InputError(
                f"{path} is {values.shape[1]}x{values.shape[0]}, and its picture {size[1]}x{size[0]}: a mask has the "
                "size of its picture"
            )
        unknown = sorted({int(value) for value in np.unique(values)} - {VOID, *range(self.view.classes)})
        if unknown:
            raise InputError(
                f"{path} has pixels of class {unknown[0]}, and the network knows classes 0 to {self.view.classes - 1} "
                f"({VOID}: none); map the masks' values, or pass a network of that many classes"
            )
        return torch.from_numpy(resized.astype(np.int64))
