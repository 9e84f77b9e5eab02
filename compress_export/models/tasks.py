"""Tasks: what the outputs of a network are for, by name, with the metric of each, or one of the user's own code."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from compress_export.errors import InputError, nearest
from compressor.layers import evaluating
from compressor.outputs import CLASSIFICATION, UNLABELLED, Batch, Kind, Objective, Score, tensors_of
from exporters.outputs import Output

VOID = 255
"""The value of a mask's pixels that belong to no class: borders, in Pascal VOC's masks."""


@dataclass(frozen=True)
class Task:
    """A task: the metric that labels give, the kind of an output of that many dimensions, and what the labels are."""

    metric: str
    kinds: Mapping[int, Kind]
    labels: str


TASKS: dict[str, Task] = {
    "classify": Task("top-1", {1: "logits"}, "a folder for each class"),
    "segment": Task("mean IoU", {3: "class map"}, "masks/ beside images/, a PNG for each picture"),
    "embed": Task("recall at 1", {}, "a folder for each class"),
    "outputs": Task("cosine to the original", {}, "none"),
}
"""By the name that source.task takes. `outputs` is any network: its outputs are held against the original's."""

COSINE = TASKS["outputs"].metric

DETECTION = (
    "source.task=detect is not there yet: a detector's boxes and scores are exported and compared like other outputs "
    "with source.task=outputs, and judged with source.evaluate=FILE.py:FUNCTION"
)


def choose_task(asked: str | None, shapes: Sequence[tuple[int, ...]], own: str = "") -> str:
    """The task asked for, else the network's `own`, else what its outputs' shapes tell: one row of numbers is a
    classifier's. InputError for a task that there is none of or that the outputs do not fit."""
    if asked == "detect":
        raise InputError(DETECTION)
    if asked is not None and asked not in TASKS:
        raise InputError(f"there is no task {asked!r}: {nearest(asked, TASKS)}")
    row = len(shapes) == 1 and len(shapes[0]) == 1
    task = asked or own or ("classify" if row else "outputs")
    given = ", ".join("x".join(map(str, shape)) or "one number" for shape in shapes)
    if task == "classify" and not row:
        raise InputError(
            f"source.task=classify: a classifier answers an image with one row of logits, and this network gives "
            f"{given}; pass source.task=segment or outputs"
        )
    if task == "segment" and not (len(shapes[0]) == 3 and shapes[0][0] > 1):
        raise InputError(
            "source.task=segment: the first output of a segmenter is a class map (classes, height, width) of 2 classes "
            f"or more, and this network gives {given}; pass source.task=outputs"
        )
    return task


def with_kinds(outputs: Sequence[Output], task: str) -> tuple[Output, ...]:
    """The outputs with what each of them holds in that task."""
    kinds = TASKS[task].kinds
    return tuple(Output(each.name, each.shape, kinds.get(len(each.shape), "values")) for each in outputs)


def objective_of(task: str, outputs: Sequence[Output], labelled: bool, original: nn.Module) -> Objective:
    """The objective of planning and tuning: the task's metric where there are labels, else the cosine of the outputs to
    those of the original network, of which a copy is kept."""
    if task == "classify":
        return CLASSIFICATION
    kinds = tuple(each.kind for each in outputs)
    if not labelled or task == "outputs":
        return Objective(kinds, COSINE, cosine_to(copy.deepcopy(original)))
    if task == "segment":
        return Objective(kinds, TASKS[task].metric, _mean_iou, _mask_loss)
    return Objective(kinds, TASKS[task].metric, _recall)


def run_on(network: nn.Module, batches: Iterable[Batch], device: torch.device | None) -> Iterable[tuple[Any, Tensor]]:
    """The tensors that a network gives for each batch, and the labels; both on the CPU."""
    home = next(network.parameters()).device
    network.to(device or home)
    try:
        with evaluating(network):
            for images, labels in batches:
                with torch.no_grad():  # not over the yield: two such generators in turns would leave it switched off
                    outputs = tensors_of(network(images.to(device or home)))
                yield tuple(each.cpu() for each in outputs), labels
    finally:
        network.to(home)


def _mean_iou(network: nn.Module, batches: Iterable[Batch], device: torch.device | None = None) -> float:
    """Mean intersection over union in percent over the classes that are in the masks or in the network's maps, from
    one confusion matrix of all pixels but those without a class."""
    counts: Tensor | None = None
    for (maps, *_), masks in run_on(network, batches, device):
        classes = maps.shape[1]
        counts = torch.zeros(classes, classes, dtype=torch.long) if counts is None else counts
        found, known = upright(maps, masks).argmax(1), masks != VOID
        pairs = masks[known] * classes + found[known]
        counts += torch.bincount(pairs, minlength=classes**2).view(classes, classes)
    assert counts is not None  # data have images
    right = counts.diagonal().double()
    union = counts.sum(0) + counts.sum(1) - right
    return 100 * float((right[union > 0] / union[union > 0]).mean())


def upright(maps: Tensor, masks: Tensor) -> Tensor:
    """Class maps (N, classes, height, width) enlarged to the size of the masks (N, height, width)."""
    if maps.shape[2:] == masks.shape[1:]:
        return maps
    return functional.interpolate(maps, size=masks.shape[1:], mode="bilinear", align_corners=False)


def _mask_loss(outputs: Sequence[Tensor], masks: Tensor) -> Tensor:
    return functional.cross_entropy(upright(outputs[0], masks), masks, ignore_index=VOID)


def _recall(network: nn.Module, batches: Iterable[Batch], device: torch.device | None = None) -> float:
    """Recall at 1 in percent: images whose nearest other one, by the cosine of their embeddings, is of their class."""
    rows, classes = list[Tensor](), list[Tensor]()
    for (embeddings, *_), labels in run_on(network, batches, device):
        rows.append(functional.normalize(embeddings.flatten(1), dim=1))
        classes.append(labels)
    whole, labels = torch.cat(rows), torch.cat(classes)
    alike = (whole @ whole.T).fill_diagonal_(-math.inf)
    return 100 * float((labels[alike.argmax(1)] == labels).double().mean())


def cosine_to(original: nn.Module) -> Score:
    """A score: the mean cosine, in percent, of each output of an image to that of the original network."""

    def score(network: nn.Module, batches: Iterable[Batch], device: torch.device | None = None) -> float:
        found, count = 0.0, 0
        images = [(images, labels) for images, labels in batches]
        pairs = zip(run_on(network, images, device), run_on(original, images, device), strict=True)
        for (own, _), (other, _) in pairs:
            for one, wanted in zip(own, other, strict=True):
                flat = [each.flatten(1).double() for each in (one, wanted)]
                found += float(functional.cosine_similarity(flat[0], flat[1], dim=1).sum())
                count += len(one)
        return 100 * found / max(1, count)

    return score


class Evaluation:
    """A metric of the user's own code, FILE.py:FUNCTION: FUNCTION(model, images) gives a number, or a dict of numbers
    of which the first one counts. `images` are those of the test set as the network takes them, N x C x H x W."""

    def __init__(self, name: str) -> None:
        from compress_export.models.own_code import function_of

        self.name = name
        self._function: Callable[[nn.Module, Tensor], object] = function_of(name)

    def measure(self, module: nn.Module, images: Tensor) -> dict[str, float]:
        """The figures by name; a number alone bears the function's name. InputError where the function raises, gives no
        finite number, or another one the second time."""
        first, second = (self._once(module, images) for _ in range(2))
        for name, value in first.items():
            if not math.isclose(value, second[name], rel_tol=1e-4, abs_tol=1e-6):
                raise InputError(
                    f"source.evaluate={self.name}: {name} of one network on the same images is {value:g} and then "
                    f"{second[name]:g}; an evaluation gives the same figure each time: seed what it draws"
                )
        return first

    def _once(self, module: nn.Module, images: Tensor) -> dict[str, float]:
        try:
            with evaluating(module), torch.no_grad():
                given = self._function(module, images)
        except Exception as error:  # the user's code may raise anything
            raise InputError(f"source.evaluate={self.name} raised {type(error).__name__}: {error}") from error
        named: Mapping[Any, Any] = given if isinstance(given, dict) else {self.name.rpartition(":")[2]: given}
        try:
            found = {str(name): float(value) for name, value in named.items()}
        except (TypeError, ValueError) as error:
            raise InputError(
                f"source.evaluate={self.name} gave {type(given).__name__}; it gives a number, or a dict of numbers by "
                "name"
            ) from error
        wrong = [name for name, value in found.items() if not math.isfinite(value)]
        if wrong or not found:
            what = f"{wrong[0]}={found[wrong[0]]}" if wrong else "no figure"
            raise InputError(f"source.evaluate={self.name} gave {what}; a figure that counts is a finite number")
        return found


def labelled(labels: Tensor) -> bool:
    """True where a batch has labels."""
    return labels.dim() > 1 or not bool((labels == UNLABELLED).any())
