"""LossModel: predicted loss of a compressed layer, from the error of its fit or measured on images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from compressor.distributed import SINGLE_PROCESS, ProcessGroup
from compressor.layers import factors_in_place, find_layer
from compressor.outputs import CLASSIFICATION, Objective, divergence, tensors_of
from compressor.plan import LayerVariant
from compressor.planning.options import OPTIONS


class LossModel(Protocol):
    """Predicted loss of a layer at a relative error of its fit; losses of several layers are added.

    `source` says in a plan what the figures are.
    """

    @property
    def source(self) -> str: ...

    def loss(self, layer: str, error: float) -> float: ...

    def drop(self, loss: float) -> float | None:
        """Points of top-1 that a whole network's loss stands for, or None where none was measured."""
        ...

    def loss_at(self, drop: float) -> float | None:
        """The largest loss that stands for at most so many points, or None where none was measured."""
        ...


def _lost_energy(error: float) -> float:
    """-log of the energy that survives a relative error: its square where it is small, far more near 1."""
    return -math.log1p(-min(error**2, 1 - OPTIONS.least_energy))


@dataclass(frozen=True)
class ErrorLosses:
    """Without data: the energy that survives a layer is 1 - error^2, what survives all of them is the product.

    So the loss is -log(1 - error^2): small errors count by their square, and no layer is given up for the others.
    """

    source: str = "-log(1 - error^2) of each layer's fit, added; nothing measured"

    def loss(self, layer: str, error: float) -> float:
        del layer  # all count the same
        return _lost_energy(error)

    def drop(self, loss: float) -> None:
        """None: errors tell nothing of accuracy."""

    def loss_at(self, drop: float) -> None:
        """None, likewise."""


@dataclass(frozen=True)
class Probe:
    """One layer compressed alone: its error, mean KL divergence of the network's outputs, points of top-1 lost."""

    layer: str
    method: str
    rank: tuple[int, ...]
    error: float
    divergence: float
    drop: float
    images: int


class MeasuredLosses:
    """A `LossModel` from probes: KL divergence by layer and error, between probes as a power of the error.

    Divergence from the original's outputs needs no labels, is hardly noisy, and adds up over layers far better than
    accuracy does; what it means in points of top-1 is read from the same probes, as a rising curve. `loss_scale` is the
    measured loss of a whole network over the sum of its layers' losses.
    """

    def __init__(self, probes: Sequence[Probe], loss_scale: float = 1.0) -> None:
        self.probes, self.loss_scale = tuple(probes), loss_scale
        self._curves: dict[str, tuple[list[float], list[float]]] = {}
        for layer in {p.layer for p in probes}:
            points = sorted({p.error: p.divergence for p in probes if p.layer == layer}.items())
            # A loss below that of a smaller error is noise and is raised.
            losses = np.maximum.accumulate([max(loss, OPTIONS.least_loss) for _, loss in points])
            self._curves[layer] = [error for error, _ in points], losses.tolist()
        slopes = (p.divergence / _lost_energy(p.error) for p in probes if _lost_energy(p.error))
        self._steepest = max(slopes, default=0.0)
        self._drops = _rising([(p.divergence, p.drop) for p in probes])
        images = max((p.images for p in probes), default=0)
        self.source = (
            f"KL divergence of the outputs, each layer compressed alone at {len(OPTIONS.probe_errors)} errors, "
            f"{images} images"
        )

    def loss(self, layer: str, error: float) -> float:
        """Power law through the two nearest probes; below the first the square of the error, above the last what
        `ErrorLosses` says, in proportion: there hardly anything survives, and no layer is to be given up for others.

        A layer that no probe could compress without losing nothing counts as the most sensitive of the others.
        """
        if error <= 0:
            return 0.0
        if layer not in self._curves:
            return self._steepest * _lost_energy(error)
        errors, losses = self._curves[layer]
        index = int(np.searchsorted(errors, error))
        if index == 0:
            return float(losses[0] * (error / errors[0]) ** 2)
        if index == len(errors):
            return float(losses[-1] * _lost_energy(error) / max(_lost_energy(errors[-1]), OPTIONS.least_loss**2))
        (e0, e1), (l0, l1) = errors[index - 1 : index + 1], losses[index - 1 : index + 1]
        part = math.log(error / e0) / math.log(e1 / e0)
        return float(l0 * (l1 / l0) ** part)

    def drop(self, loss: float) -> float:
        """Beyond the worst probe, in proportion to it; no more than all."""
        losses, drops = self._drops
        loss *= self.loss_scale
        if loss > losses[-1]:
            return min(100.0, float(drops[-1] * loss / losses[-1])) if losses[-1] else 0.0
        return float(np.interp(loss, losses, drops))

    def loss_at(self, drop: float) -> float:
        losses, drops = self._drops
        if not drops[-1]:
            return math.inf if self.loss_scale == 1 else float(losses[-1]) / self.loss_scale
        if drop >= drops[-1]:
            return float(losses[-1] * drop / drops[-1]) / self.loss_scale
        # Where the curve is flat at `drop`, its right end: the largest loss that costs no more.
        index = int(np.searchsorted(drops, drop, side="right"))
        part = (drop - drops[index - 1]) / (drops[index] - drops[index - 1])
        return float(losses[index - 1] + part * (losses[index] - losses[index - 1])) / self.loss_scale


FEWEST_IMAGES, MOST_NUMBERS = 8, 1 << 25
"""Images that an Evaluator has at least, and numbers that the outputs of all of them are at most otherwise."""


class Evaluator:
    """Compares changed networks with the original on the first images of the validation split, by an objective.

    Its own copy of the original runs on `device`; another network where it is.
    """

    def __init__(
        self,
        network: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        most: int = OPTIONS.probe_images,
        device: torch.device = SINGLE_PROCESS.device,
        objective: Objective = CLASSIFICATION,
    ) -> None:
        self.objective = objective
        self._network, self._device = copy.deepcopy(network).eval().to(device), device
        self._batches: list[tuple[Tensor, Tensor]] = []
        for images, labels in batches:
            if not self._batches:  # class maps of all images would not fit the memory
                numbers = sum(own.numel() for own in self._run(self._network, images[:1]))
                most = min(most, max(FEWEST_IMAGES, MOST_NUMBERS // numbers))
            if most <= 0:
                break
            self._batches.append((images[:most], labels[:most]))
            most -= len(labels)
        self._outputs = [self._run(self._network, images) for images, _ in self._batches]
        self.images = sum(len(labels) for _, labels in self._batches)
        self._best = self._figure(self._network, self._outputs)

    def compare(self, network: nn.Module) -> tuple[float, float]:
        """Mean divergence of the outputs (of logits KL, in nats), and points of the metric lost (below 0: gained)."""
        network.eval()
        outputs = [self._run(network, images) for images, _ in self._batches]
        total = sum(
            len(new[0]) * float(divergence(new, old, self.objective.kinds))
            for old, new in zip(self._outputs, outputs, strict=True)
        )
        lost = self._best - self._figure(network, outputs)
        return max(0.0, total / self.images), 100 * lost / self.images if self.objective.score is None else lost

    def alone(self, layer: str, factors: nn.Sequential) -> tuple[float, float]:
        """`compare` of the original with one layer factored; the original is as before afterwards."""
        with factors_in_place(find_layer(self._network, layer), factors.to(self._device)):
            return self.compare(self._network)

    @staticmethod
    def _run(network: nn.Module, images: Tensor) -> tuple[Tensor, ...]:
        device = next(network.parameters()).device
        with torch.no_grad():
            return tuple(each.double().cpu() for each in tensors_of(network(images.to(device))))

    def _figure(self, network: nn.Module, outputs: Sequence[Sequence[Tensor]]) -> float:
        """The metric in percent; of a classifier the number of images that it has right."""
        if self.objective.score is not None:
            return self.objective.score(network, self._batches, None)
        pairs = zip(outputs, self._batches, strict=True)
        return sum(int((own[0].argmax(1) == labels).sum()) for own, (_, labels) in pairs)


def probe_losses(
    evaluator: Evaluator,
    probe_points: Mapping[str, Sequence[tuple[LayerVariant, float]]],
    factors: Callable[[LayerVariant], nn.Sequential],
    known: Sequence[Probe] = (),
    found: Callable[[Probe], None] = lambda _probe: None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[Probe, ...]:
    """A probe for each probe point (variant and error) of each layer; those in `known` are not measured again.

    `found` hears of each new one, so that an interrupted measurement can go on. They are sharded over the `group`.
    """
    probes = {LayerVariant(p.layer, p.method, p.rank): p for p in known}
    points = [point for own in probe_points.values() for point in own]

    def measured(point: tuple[LayerVariant, float]) -> Probe:
        variant, error = point
        divergence, drop = evaluator.alone(variant.layer, factors(variant))
        return Probe(variant.layer, variant.method, variant.rank, error, divergence, drop, evaluator.images)

    missing = [
        (variant, error)
        for variant, error in points
        if variant not in probes or abs(probes[variant].error - error) > OPTIONS.same_error
    ]
    for probe in group.map(measured, missing):
        probes[LayerVariant(probe.layer, probe.method, probe.rank)] = probe
        found(probe)
    return tuple(probes[variant] for variant, _ in points)


def probe_points_of(errors: Mapping[LayerVariant, float]) -> list[tuple[LayerVariant, float]]:
    """The variants of one layer whose errors lie nearest to the options' probe errors, each once, by rising error."""
    useful = {variant: error for variant, error in errors.items() if error > 0}
    aims = OPTIONS.probe_errors if useful else ()
    nearest = dict.fromkeys(min(useful, key=lambda variant: abs(useful[variant] - aim)) for aim in aims)
    return sorted(((variant, useful[variant]) for variant in nearest), key=lambda pair: pair[1])


def _rising(pairs: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """The rising curve from (0, 0) that fits (loss, drop) pairs best in least squares: isotonic regression."""
    from sklearn.isotonic import IsotonicRegression

    losses = np.array([0.0, *(loss for loss, _ in pairs)])
    drops = np.array([0.0, *(drop for _, drop in pairs)])
    weights = np.array([float(max(1, len(pairs))), *np.ones(len(pairs))])
    fitted = IsotonicRegression(y_min=0.0).fit_transform(losses, drops, sample_weight=weights)
    order = np.argsort(losses, kind="stable")
    return losses[order], fitted[order]
