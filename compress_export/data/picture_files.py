"""Picture files as a network takes them: found in folders, decoded to 8 bits, resized, cropped, normalized."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import Dataset

from compress_export.data.images import CPU, Changes, Image, Images, View
from compress_export.errors import InputError
from compress_export.models.resize import Resize
from compressor.outputs import UNLABELLED

PICTURES = (
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm", ".pgm", ".avif",
)  # fmt: skip
"""Endings of picture files; of those with several frames the first is the picture."""

LEFT_BY_SYSTEMS = ("Thumbs.db", "desktop.ini", "__MACOSX")
"""Files and folders that systems leave beside a user's own; others of that kind begin with a dot."""

MOST_PIXELS = 178_956_970
"""Pillow's own limit: what decodes to more than 0.5 GB may be a file made to fill the memory."""

LONGEST_TEXT = 64 << 20
"""Bytes of a PNG's text chunk (Pillow's own limit is 1 MB): a picture is not broken by a long description."""


class PictureFiles(Dataset[Image]):
    """Pictures of files with their labels, changed when they are asked for."""

    def __init__(
        self, paths: Sequence[Path], labels: Sequence[int], change: Callable[[Any], Tensor], device: Any = CPU
    ) -> None:
        self.paths, self.labels, self.change, self.device = paths, labels, change, device

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image:
        return self.change(read_image(str(self.paths[index]))).to(self.device), self.labels[index]


def class_folders(folder: Path, part: str) -> list[str]:
    """The names of the class folders of `folder`/`part`, sorted. InputError where there is none."""
    if not (folder / part).is_dir():
        raise InputError(
            f"{folder} has no {part}/ folder; it needs train/ and val/ with a folder for each class in both"
        )
    try:
        classes = sorted(entry.name for entry in os.scandir(folder / part) if entry.is_dir() and _own(entry.name))
    except PermissionError as error:
        raise InputError(f"{folder / part} cannot be read: {error.strerror}") from error
    if not classes:
        raise InputError(f"{folder / part} is empty; it needs a folder of images for each class")
    return classes


def loose_pictures(folder: Path, part: str) -> list[Path]:
    """The pictures in `folder`/`part` itself, sorted; none where it has folders, for these are classes, or cannot be
    read, which `class_folders` tells."""
    try:
        entries = [entry for entry in os.scandir(folder / part) if _own(entry.name)]
    except OSError:
        return []
    if any(entry.is_dir() for entry in entries):
        return []
    return sorted(Path(entry.path) for entry in entries if Path(entry.name).suffix.lower() in PICTURES)


def _own(name: str) -> bool:
    return not name.startswith(".") and name not in LEFT_BY_SYSTEMS


def pictures_below(folder: Path) -> tuple[list[Path], list[Path]]:
    """Picture files below a folder by their endings, sorted, and all other files that are the user's own."""
    found: tuple[list[Path], list[Path]] = ([], [])
    for place, folders, names in os.walk(folder, followlinks=True, onerror=_refuse):
        folders[:] = sorted(filter(_own, folders))
        for name in sorted(filter(_own, names)):
            path = Path(place) / name
            found[path.suffix.lower() not in PICTURES].append(path)
    return found


def _refuse(error: OSError) -> None:
    raise InputError(f"{error.filename} cannot be read: {error.strerror}") from error


def left_out(folder: Path, parts: Iterable[str]) -> str:
    """A note on files in class folders that are no pictures by their endings; "" where there are none."""
    others = [path for part in parts for path in pictures_below(folder / part)[1]]
    if not others:
        return ""
    kinds = Counter(path.suffix.lower() or "no ending" for path in others)
    counts = ", ".join(f"{kind} {count}" for kind, count in kinds.most_common())
    return (
        f"{folder}: files left out because their endings are not those of pictures: {len(others)} ({counts}); pictures "
        f"end in {' '.join(PICTURES)}"
    )


def labelled_pictures(part: Path, classes: Sequence[str], change: Callable[[Any], Tensor]) -> Images:
    """The pictures of every class folder of `part`. InputError for a class without any."""
    paths, labels = list[Path](), list[int]()
    for label, name in enumerate(classes):
        own = pictures_below(part / name)[0]
        if not own:
            raise InputError(
                f"{part / name} holds no pictures ({' '.join(PICTURES)}); put some there, or remove the class from "
                "train/ and val/"
            )
        paths += own
        labels += [label] * len(own)
    return PictureFiles(paths, labels, change)


def unlabelled_images(folder: Path, view: View, changes: Changes = ()) -> Images:
    """Every image below a folder, whatever it shows, changed like those with labels. InputError where there is none."""
    if not folder.is_dir():
        raise InputError(f"--set fine_tune.unlabelled={folder}: there is no such folder")
    paths = pictures_below(folder)[0]
    if not paths:
        raise InputError(f"--set fine_tune.unlabelled={folder} holds no images ({' '.join(PICTURES)})")
    return PictureFiles(paths, [UNLABELLED] * len(paths), transform(view, changes), view.device)


def pictures(files: Sequence[Path], view: View) -> Tensor:
    """Picture files as a validation set shows them: N x C x H x W, cut to size and normalized. InputError for a file
    that is no picture."""
    change = transform(view)
    return torch.stack([change(read_image(str(file))) for file in files])


def read_image(path: str) -> Any:
    """The picture in RGB, 8 bits a channel. InputError for a file that is none, or whose range is not known."""
    from PIL import Image, PngImagePlugin

    PngImagePlugin.MAX_TEXT_CHUNK = max(PngImagePlugin.MAX_TEXT_CHUNK, LONGEST_TEXT)
    try:
        with warnings.catch_warnings():
            # Pillow warns at half of its limit; what lies below the limit is decoded here like any other picture
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as image:
                image.load()
                return _eight_bits(image, path).convert("RGB")
    except InputError:
        raise
    except Image.DecompressionBombError as error:
        raise InputError(
            f"{path}: at most {MOST_PIXELS // 1_000_000} million pixels are decoded, and it has more; store it smaller"
        ) from error
    except Exception as error:  # Pillow's plugins raise what they like on a broken file
        raise InputError(f"{path} is not a whole image ({error}); remove it or replace it") from error


def _eight_bits(image: Any, path: str) -> Any:
    """The picture with 8 bits a channel, 16 scaled by their whole range. InputError for 32 bits and floats, of which no
    file says which value is white."""
    import numpy as np
    from PIL import Image

    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))
    if image.mode in ("I", "F"):
        kind = "32-bit whole numbers" if image.mode == "I" else "floating-point numbers"
        raise InputError(
            f"{path} holds {kind}, and which of them is white no such file says; save the pictures with 8 or 16 bits"
        )
    return image


@dataclass(frozen=True)
class _Resized:
    """A picture resized; no closure, which a loader's workers could not be sent."""

    resize: Resize

    def __call__(self, picture: Any) -> Any:
        from torchvision.transforms import InterpolationMode, functional

        sides = self.resize.size(picture.height, picture.width)
        return functional.resize(picture, list(sides), InterpolationMode(self.resize.interpolation))


def transform(view: View, changes: Changes = ()) -> Callable[[Any], Tensor]:
    """The change of a picture into an image of the network: what `view.resize` says, or with the change "crop" a random
    part of it, by chance mirrored with "flip". InputError for a number of channels that pictures do not have."""
    from torchvision import transforms

    channels, size = view.input[0], list(view.input[1:])
    if channels not in (1, 3):
        raise InputError(
            f"pictures have 3 channels, or 1 in grey, and the network takes {channels}; pass --input with 1 or 3, or "
            "leave --data out"
        )
    steps: list[Callable[[Any], Any]] = [transforms.Grayscale(1)] if channels == 1 else []
    if "crop" in changes:
        interpolation = transforms.InterpolationMode(view.resize.interpolation)
        steps.append(transforms.RandomResizedCrop(size, interpolation=interpolation))
    else:
        steps += [_Resized(view.resize), transforms.CenterCrop(size)]
    steps += [transforms.RandomHorizontalFlip()] if "flip" in changes else []
    steps += [transforms.ToTensor(), transforms.Normalize(view.mean, view.std)]
    return cast(Callable[[Any], Tensor], transforms.Compose(steps))
