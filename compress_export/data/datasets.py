"""Data by name: "digits", "mnist", "cifar10", "imagenet", a folder -> training, validation and test images."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal, cast

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Subset

from compress_export.data.images import (
    CIFAR10_CLASSES,
    CPU,
    Changes,
    DigitImages,
    Image,
    Images,
    SmallImages,
    View,
    grey_digits,
    read_sheets,
    read_torchvision,
    sheets_of,
)
from compress_export.errors import InputError, nearest
from compressor.mcnemar import CHANCE, mcnemar
from compressor.outputs import UNLABELLED

VALIDATION_FRACTION = 0.15
"""Share of the training images kept for the tool's own choices: ranks, early stopping, calibration."""
VALIDATION_MOST = 5000
CALIBRATION = 512
DIGITS_VALIDATION = 360
WNID = re.compile(r"n\d{8}")


@dataclass(frozen=True)
class Source:
    """A data set before any image is read: its classes, the size it suggests, and a way to open its parts.

    `open(view, train, changes)` gives one part as a dataset. `changes` are those that its training images get unless
    others are asked for; where the set is a folder, mirroring them still has to be judged. `wnids` says that the
    classes are named by ImageNet's wnids, which map onto a 1000-class network's own outputs. `folder` holds the
    pictures, where they are files. `labels` says what an image comes with: its class, a mask, or nothing.
    """

    name: str
    classes: tuple[str, ...]
    open: Callable[[View, bool, Changes], Images]
    changes: Changes = ()
    size: int | None = None
    wnids: bool = False
    folder: Path | None = None
    labels: Literal["classes", "masks", "none"] = "classes"

    @property
    def notes(self) -> list[str]:
        """Notes on the data itself, before a network sees it."""
        from compress_export.data.picture_files import left_out

        note = "" if self.folder is None else left_out(self.folder, ("train", "val"))
        return [note] if note else []

    def shown(self, view: View) -> str:
        """A sentence on what is done to an image of the set before the network sees it."""
        if self.folder is None:
            return f"each image of {self.name} is resized to {view.input[1]}x{view.input[2]} (bilinear), uncropped"
        return f"each picture is {view.resize.text(view.input)}"


@dataclass(frozen=True)
class Data:
    """Three disjoint parts as loaders: training, the validation split for choices, the test set for reported accuracy.
    Images of a set that lies on a GPU come from there, their labels and all else from the CPU.

    `calibration` is a small, unchanged part of the training images, always in the same order: what factors and
    statistics are fitted to. `changes` are the random changes of the training images, and `changed` gives those images
    with others. Where the data are not `labelled`, every label is UNLABELLED.
    """

    name: str
    classes: int
    train: DataLoader[tuple[Tensor, Tensor]]
    validation: DataLoader[tuple[Tensor, Tensor]]
    test: DataLoader[tuple[Tensor, Tensor]]
    calibration: DataLoader[tuple[Tensor, Tensor]]
    changed: Callable[[Changes], DataLoader[tuple[Tensor, Tensor]]]
    changes: Changes = ()
    labelled: bool = True

    def with_changes(self, changes: Changes) -> Data:
        """The same data with these random changes of the training images."""
        return replace(self, train=self.changed(changes), changes=changes)

    def images(self, count: int) -> Tensor:
        """`count` images of the validation split, N x C x H x W on the CPU, spread evenly over the set."""
        return spread_images(self.validation, count)


def spread_images(loader: DataLoader[tuple[Tensor, Tensor]], count: int) -> Tensor:
    """`count` images of the set at most, N x C x H x W on the CPU, spread evenly over it."""
    dataset = cast("Sequence[Image]", loader.dataset)
    return torch.stack([dataset[place][0] for place in spread_places(len(dataset), count)]).cpu()


def spread_places(total: int, count: int) -> list[int]:
    """`count` indices below `total` at most, spread evenly: folders lie class by class."""
    if count >= total:
        return list(range(total))
    places: list[int] = torch.linspace(0, total - 1, count).long().tolist()
    return places


def find_data(name: str, root: Path) -> Source:
    """The data that `name` means: a known name, or a folder with train/ and val/. InputError if it is neither."""
    if name in SOURCES:
        return SOURCES[name](root)
    folder = Path(name)
    if folder.is_dir():
        return _folder(folder)
    raise InputError(f"there is no data {name!r}: {nearest(name, SOURCES)}, or pass a folder with train/ and val/")


def load_data(
    source: Source,
    view: View,
    batch: int,
    outputs: int,
    seed: int = 0,
    most: int | None = None,
    task: str = "classify",
) -> Data:
    """Loaders of the three parts for a network of `outputs` outputs, with `most` training images at most.

    InputError if the classes do not fit the outputs: as many as there are outputs, or wnids for a 1000-output network;
    if the data have other labels than the task reads. Where they have none that it reads, pictures alone are left.
    """
    places: list[int] | None = None
    wanted = {"classify": "classes", "segment": "masks", "embed": "classes"}.get(task, "none")
    labelled = source.labels == wanted != "none"
    if task == "classify" and not labelled:
        raise InputError(
            f"{source.name} holds {'masks' if source.labels == 'masks' else 'pictures without labels'}, and a "
            "classifier is judged on a folder for each class; pass source.task=outputs to go by the pictures alone"
        )
    if source.labels == "masks" and not labelled:
        raise InputError(
            f"{source.name} holds masks, which source.task=segment reads and source.task={task} does not; pass a "
            "folder of pictures, or source.task=segment"
        )
    if not labelled:
        places = [UNLABELLED] * max(1, len(source.classes))
    elif task == "classify" and len(source.classes) != outputs:
        if not source.wnids or outputs != 1000:
            raise InputError(
                f"the labels do not fit: {source.name} has {len(source.classes)} classes and the network {outputs} "
                f"outputs; pass --train EPOCHS to train one with {len(source.classes)} outputs, or --weights FILE of "
                "such a network"
            )
        from timm.data.imagenet_info import ImageNetInfo

        names: list[str] = ImageNetInfo("imagenet-1k").label_names()  # type: ignore[no-untyped-call]  # timm's own gap
        index = {name: place for place, name in enumerate(names)}
        foreign = [name for name in source.classes if name not in index]
        if foreign:
            raise InputError(f"{source.name}: {foreign[0]} is none of ImageNet's 1000 classes")
        places = [index[name] for name in source.classes]
    masks = source.labels == "masks"

    def opened(train: bool, changes: Changes = ()) -> Images:
        part = source.open(replace(view, classes=outputs) if masks else view, train, changes)
        return part if masks else _Mapped(part, places)

    plain, test = cast("_Mapped", opened(True)), cast("_Mapped", opened(False))
    count = len(plain)
    if min(count, len(test)) < 2:
        raise InputError(f"{source.name} has {count} training and {len(test)} test images; both need some")
    if outputs == 1 and task == "classify":
        raise InputError(
            f"{source.name} has one class, {source.classes[0]}, so every answer is right and accuracy proves nothing; "
            "add the folders of other classes"
        )
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    split = max(1, min(int(VALIDATION_FRACTION * count), VALIDATION_MOST))
    calibration = min(count - split, CALIBRATION)
    if calibration >= 64:  # whole batches of 64, for a last batch of one would count like the others
        calibration -= calibration % 64

    def changed(changes: Changes) -> DataLoader[tuple[Tensor, Tensor]]:
        return _loader(Subset(opened(True, changes), order[split:][:most]), batch, True)

    return Data(
        source.name,
        outputs,
        changed(source.changes),
        _loader(Subset(plain, order[:split]), 64),
        _loader(test, 64),
        _loader(Subset(plain, order[split:][:calibration]), 64),
        changed,
        source.changes,
        labelled,
    )


def _loader(data: Images, batch: int, shuffle: bool = False) -> DataLoader[tuple[Tensor, Tensor]]:
    """Files are decoded by workers; what lies in memory is not. A last batch of one image would break BatchNorm."""
    count = len(cast("Sequence[Image]", data))
    in_memory = isinstance(_innermost(data), DigitImages | SmallImages)
    workers = 0 if in_memory else min(4, os.cpu_count() or 1)
    return DataLoader(
        cast("Dataset[tuple[Tensor, Tensor]]", data),
        batch_size=batch,
        shuffle=shuffle,
        drop_last=shuffle and count > batch and count % batch == 1,
        num_workers=workers,
        generator=torch.Generator() if shuffle else None,
    )


def device_of(data: Dataset[Any]) -> torch.device:
    """The device that holds the set, or the CPU, which reads its files."""
    inner = _innermost(data)
    return inner.pixels.device if isinstance(inner, SmallImages) else CPU


def _innermost(data: Any) -> Any:
    """The data set itself, which Subset and _Mapped wrap."""
    while hasattr(data, "dataset"):
        data = data.dataset
    return data


class _Mapped(Dataset[Image]):
    """A dataset whose labels are mapped onto a network's outputs."""

    def __init__(self, dataset: Images, places: Sequence[int] | None) -> None:
        self.dataset, self.places = dataset, places

    def __len__(self) -> int:
        return len(cast("Sequence[Image]", self.dataset))

    def __getitem__(self, index: int) -> Image:
        (image,) = self.__getitems__([index])
        return image

    def __getitems__(self, indices: Sequence[int]) -> list[Image]:
        """All at once where the dataset can."""
        whole = getattr(self.dataset, "__getitems__", None)
        images = [self.dataset[index] for index in indices] if whole is None else whole(indices)
        return [(image, int(label) if self.places is None else self.places[int(label)]) for image, label in images]


def _digits(root: Path) -> Source:
    del root  # the images come with scikit-learn

    def opened(view: View, train: bool, changes: Changes) -> Images:
        from sklearn.model_selection import train_test_split

        if changes:
            raise InputError(
                f"fine_tune.augment={','.join(changes)}: a mirrored or cropped digit is another one, and digits are "
                "trained on as they are; leave it out"
            )
        labels = grey_digits()[1]
        parts = train_test_split(range(len(labels)), test_size=DIGITS_VALIDATION, stratify=labels, random_state=0)
        return DigitImages(view, parts[0 if train else 1])

    return Source("digits", tuple("0123456789"), opened, size=64)


def _small(name: str, root: Path, classes: tuple[str, ...], changes: Changes) -> Source:
    def opened(view: View, train: bool, changes: Changes) -> Images:
        pixels, labels = _small_part(name, root, train, str(root.resolve()), view.device)
        return SmallImages(pixels, labels, view, "crop" in changes, "flip" in changes)

    return Source(name, classes, opened, changes, size=64)


@lru_cache(maxsize=4)
def _small_part(name: str, root: Path, train: bool, _where: str, device: torch.device) -> tuple[Tensor, list[int]]:
    """Pixels and labels, read once for each place: CIFAR-10 from sheets where they lie, else torchvision's."""
    sheets = sheets_of(root, train) if name == "cifar10" else []
    pixels, labels = read_sheets(sheets) if sheets else read_torchvision(name.upper(), root, train)
    return pixels.to(device), labels


def _folder(folder: Path) -> Source:
    """A folder with train/ and val/: in both a subfolder for each class, images/ and masks/, or pictures alone; or one
    as Pascal VOC is laid out."""
    from compress_export.data.masks import Masked, masked_files
    from compress_export.data.picture_files import (
        PictureFiles,
        class_folders,
        labelled_pictures,
        loose_pictures,
        transform,
    )

    if (folder / "train" / "masks").is_dir() or (folder / "SegmentationClass").is_dir():
        return Source(
            str(folder),
            (),
            lambda view, train, _changes: Masked(masked_files(folder, train), view),
            labels="masks",
        )
    parts = [loose_pictures(folder, part) for part in ("train", "val")]
    if all(parts):

        def pictures(view: View, train: bool, changes: Changes) -> Images:
            found = parts[0 if train else 1]
            return PictureFiles(found, [0] * len(found), transform(view, changes))

        return Source(str(folder), (), pictures, ("crop",), folder=folder, labels="none")
    classes = class_folders(folder, "train")
    tested = class_folders(folder, "val")
    for part, missing in (("val", set(classes) - set(tested)), ("train", set(tested) - set(classes))):
        if missing:
            raise InputError(f"{folder}: train/ and val/ must hold the same classes; {part}/ lacks {min(missing)}")

    def opened(view: View, train: bool, changes: Changes) -> Images:
        return labelled_pictures(folder / ("train" if train else "val"), classes, transform(view, changes))

    wnids = all(WNID.fullmatch(name) for name in classes)
    return Source(str(folder), tuple(classes), opened, ("crop",), wnids=wnids, folder=folder)


SOURCES: dict[str, Callable[[Path], Source]] = {
    "digits": _digits,
    "mnist": lambda root: _small("mnist", root, tuple("0123456789"), ("crop",)),
    "cifar10": lambda root: _small("cifar10", root, CIFAR10_CLASSES, ("crop", "flip")),
    "imagenet": lambda root: _folder(root / "imagenet" if (root / "imagenet").is_dir() else root),
}


IMAGES_OF_CLASS, MOST = 20, 512
"""Images looked at for each class, and in all."""
SURE = 2.5
"""Standard deviations by which another order must explain more images than the given one."""
FEWEST_HITS = 4
"""Images of a class that the network has right, from which on the class can decide against mirroring."""
FEW = 50
"""Below so many validation images, one of them is two points of top-1 or more."""


def check_order(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], classes: Sequence[str], data: str) -> str:
    """InputError if the network's outputs fit the classes far better in another order; else a note, empty where there
    is nothing to say.

    The other order is fitted to every second image and judged on the others, so that it cannot win by being free.
    Where there are too few images of each class, or the network's outputs follow no class at all, nothing is concluded.
    """
    parts, most, count = [], min(MOST, IMAGES_OF_CLASS * len(classes)), 0
    network.eval()
    device = next((value.device for value in network.parameters()), CPU)
    with torch.no_grad():
        for images, own in batches:
            parts.append((network(images[: most - count].to(device)).argmax(1).cpu(), own[: most - count]))
            count += len(parts[-1][0])
            if count >= most:
                break
    predictions, labels = (torch.cat(part) for part in zip(*parts, strict=True))
    pairs = labels[::2] * len(classes) + predictions[::2]
    counts = torch.bincount(pairs, minlength=len(classes) ** 2).reshape(len(classes), len(classes))
    # for each class an output of its own, so that as many of the images as possible get that of their class
    order = torch.from_numpy(linear_sum_assignment(counts.numpy(), maximize=True)[1])
    rest, own = predictions[1::2], labels[1::2]
    here, there = rest == own, rest == order[own]
    given, other = int((here & ~there).sum()), int((there & ~here).sum())
    right = int((predictions == labels).sum())
    if other - given > SURE * math.sqrt(given + other) and 2 * int(there.sum()) > len(rest):
        moved = int(torch.bincount(own[there & ~here]).argmax())
        raise InputError(
            f"{data}: the network's outputs seem to stand in another order than the classes: {right} of {count} "
            f"validation images get the output of their class, and images of {classes[moved]} (output {moved}) mostly "
            f"get output {int(order[moved])}; name the folders so that, sorted, they are in the order of the outputs"
        )
    chance = count / len(classes)
    if count >= FEW and right <= chance + SURE * math.sqrt(chance):
        return (
            f"the network is right on {right} of {count} validation images of {data}, no more than by chance: check "
            "its weights, source.mean and source.std, and that its outputs are these classes"
        )
    return ""


def alike_mirrored(network: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[bool, str]:
    """True if the network is as right on mirrored images as on the images themselves, and a note that says so.

    McNemar's test judges all images together, and a class of which most hits are lost decides alone: of a hundred
    classes perhaps two, left and right, are each other's mirror image.
    """
    device = next((value.device for value in network.parameters()), CPU)
    plain, turned, labels, count = list[Tensor](), list[Tensor](), list[Tensor](), 0
    network.eval()
    with torch.no_grad():
        for images, own in batches:
            given = images[: MOST - count].to(device)
            labels.append(own[: len(given)])
            plain.append(network(given).argmax(1).cpu() == labels[-1])
            turned.append(network(given.flip(3)).argmax(1).cpu() == labels[-1])
            count += len(given)
            if count >= MOST:
                break
    before, after, classes = torch.cat(plain), torch.cat(turned), torch.cat(labels)
    worse = mcnemar(before.tolist(), after.tolist(), "greater").p < CHANCE
    hits, kept = (torch.bincount(classes[right], minlength=int(classes.max()) + 1) for right in (before, after))
    alike = not worse and not bool(((hits >= FEWEST_HITS) & (2 * kept <= hits)).any())
    return alike, (
        f"pictures are {'' if alike else 'not '}mirrored by chance in training: the network is right on "
        f"{int(before.sum())} of {count} validation images, mirrored on {int(after.sum())} (fine_tune.augment)"
    )


def few_images(images: int) -> str:
    """A note on a validation split too small to tell small losses, empty where it is not."""
    if images >= FEW:
        return ""
    share = f"each is {100 / images:.1f} points of top-1" if images > 1 else "it is all of top-1"
    return (
        f"{images} validation image{'s' * (images > 1)} (15 % of the training images) decide on ranks, and "
        f"{share}: too few to judge by; add training images"
    )
