"""What cutting a layer is predicted to lose: from the error of its fit, or from measurements on held-out images."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from compressor.distributed import SINGLE_PROCESS, ProcessGroup
from compressor.layers import find_layer
from compressor.planning.cost_model import LayerVariant
from compressor.surgery import replace

PROBE_ERRORS = (0.15, 0.3, 0.5, 0.7)
"""Relative errors at which each layer is cut alone: from hardly felt to nearly gone."""
LEAST_ENERGY = 1e-6
"""What at least survives a layer: a variant that loses everything has a loss, not an infinite one."""
SAME_ERROR = 1e-3
"""A probe of another error was measured on factors fitted otherwise, and is measured again."""
MOST_IMAGES = 512
"""Held-out images that losses are measured on: one of them is then a fifth of a point."""


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


def _gone(error: float) -> float:
    """-log of the energy that survives a relative error: its square where it is small, far more near 1."""
    return -math.log1p(-min(error**2, 1 - LEAST_ENERGY))


@dataclass(frozen=True)
class ErrorLosses:
    """Without data: the energy that survives a layer is 1 - error^2, what survives all of them is the product.

    So the loss is -log(1 - error^2): small errors count by their square, and no layer is given up for the others.
    """

    source: str = "-log(1 - error^2) of each layer's fit, added; nothing measured"

    def loss(self, layer: str, error: float) -> float:
        del layer  # all count the same
        return _gone(error)

    def drop(self, loss: float) -> None:
        """None: errors tell nothing of accuracy."""

    def loss_at(self, drop: float) -> None:
        """None, likewise."""


@dataclass(frozen=True)
class Probe:
    """One layer cut alone: its error, the mean KL divergence of the network's answers, points of top-1 lost."""

    layer: str
    method: str
    rank: tuple[int, ...]
    error: float
    divergence: float
    drop: float
    images: int


class MeasuredLosses:
    """A `LossModel` from probes: KL divergence by layer and error, between probe_points as a power of the error.

    Divergence from the original's answers needs no labels, is hardly noisy, and adds up over layers far better than
    accuracy does; what it means in points of top-1 is read from the same probes, as a rising curve. `excess` is how
    many times the sum of its layers' losses a whole network has lost when it was measured.
    """

    def __init__(self, probes: Sequence[Probe], excess: float = 1.0) -> None:
        self.probes, self.excess = tuple(probes), excess
        self._curves = {name: _curve([p for p in probes if p.layer == name]) for name in {p.layer for p in probes}}
        self._steepest = max((p.divergence / _gone(p.error) for p in probes if _gone(p.error)), default=0.0)
        self._drops = _rising([(p.divergence, p.drop) for p in probes])
        images = max((p.images for p in probes), default=0)
        self.source = (
            f"KL divergence of the answers, each layer cut alone at {len(PROBE_ERRORS)} errors, {images} images"
        )

    def loss(self, layer: str, error: float) -> float:
        """Power law through the two nearest probe_points; below the first the square of the error, above the last what
        `ErrorLosses` says, in proportion: there hardly anything survives, and no layer is to be given up for others.

        A layer that no probe could cut without losing nothing counts as the most sensitive of the others.
        """
        if error <= 0:
            return 0.0
        if layer not in self._curves:
            return self._steepest * _gone(error)
        errors, losses = self._curves[layer]
        place = int(np.searchsorted(errors, error))
        if place == 0:
            return float(losses[0] * (error / errors[0]) ** 2)
        if place == len(errors):
            return float(losses[-1] * _gone(error) / max(_gone(errors[-1]), LEAST_LOSS**2))
        (e0, e1), (l0, l1) = errors[place - 1 : place + 1], losses[place - 1 : place + 1]
        part = math.log(error / e0) / math.log(e1 / e0)
        return float(l0 * (l1 / l0) ** part)

    def drop(self, loss: float) -> float:
        """Beyond the worst probe, in proportion to it; no more than all."""
        losses, drops = self._drops
        loss *= self.excess
        if loss > losses[-1]:
            return min(100.0, float(drops[-1] * loss / losses[-1])) if losses[-1] else 0.0
        return float(np.interp(loss, losses, drops))

    def loss_at(self, drop: float) -> float:
        losses, drops = self._drops
        if not drops[-1]:
            return math.inf if self.excess == 1 else float(losses[-1]) / self.excess
        if drop >= drops[-1]:
            return float(losses[-1] * drop / drops[-1]) / self.excess
        # Where the curve is flat at `drop`, its right end: the largest loss that costs no more.
        place = int(np.searchsorted(drops, drop, side="right"))
        part = (drop - drops[place - 1]) / (drops[place] - drops[place - 1])
        return float(losses[place - 1] + part * (losses[place] - losses[place - 1])) / self.excess


class Evaluator:
    """Answers of the original network on held-out images, and how far a changed network's lie from them. Its own copy
    of the original runs on `device`; another network where it is."""

    def __init__(
        self,
        network: nn.Module,
        batches: Iterable[tuple[Tensor, Tensor]],
        most: int = MOST_IMAGES,
        device: torch.device = SINGLE_PROCESS.device,
    ) -> None:
        self._network, self._device = copy.deepcopy(network).eval().to(device), device
        self._batches = _first(batches, most)
        self._answers = [self._run(self._network, images) for images, _ in self._batches]
        self.images = sum(len(labels) for _, labels in self._batches)
        self._hits = self._count(self._answers)

    def compare(self, network: nn.Module) -> tuple[float, float]:
        """Mean KL divergence of the answers in nats, and points of top-1 lost (below 0: gained)."""
        network.eval()
        answers = [self._run(network, images) for images, _ in self._batches]
        divergence = sum(
            float(functional.kl_div(new.log_softmax(1), old.log_softmax(1), reduction="sum", log_target=True))
            for old, new in zip(self._answers, answers, strict=True)
        )
        return max(0.0, divergence / self.images), 100 * (self._hits - self._count(answers)) / self.images

    def alone(self, layer: str, factors: nn.Module) -> tuple[float, float]:
        """`compare` of the original with one layer replaced; the original is as before afterwards."""
        before = find_layer(self._network, layer)
        replace(self._network, layer, factors.to(self._device))
        try:
            return self.compare(self._network)
        finally:
            replace(self._network, layer, before)

    @staticmethod
    def _run(network: nn.Module, images: Tensor) -> Tensor:
        device = next(network.parameters()).device
        with torch.no_grad():
            answers: Tensor = network(images.to(device)).double().cpu()
        return answers

    def _count(self, answers: Sequence[Tensor]) -> int:
        pairs = zip(answers, self._batches, strict=True)
        return sum(int((answer.argmax(1) == labels).sum()) for answer, (_, labels) in pairs)


def probe_losses(
    evaluator: Evaluator,
    probe_points: Mapping[str, Sequence[tuple[LayerVariant, float]]],
    factors: Callable[[LayerVariant], nn.Module],
    known: Sequence[Probe] = (),
    found: Callable[[Probe], None] = lambda _probe: None,
    group: ProcessGroup = SINGLE_PROCESS,
) -> tuple[Probe, ...]:
    """A probe for each probe point (variant and error) of each layer; those in `known` are not measured again.

    `found` hears of each new one, so that an interrupted measurement can go on. They are dealt out to a `group`.
    """
    have = {(p.layer, p.method, p.rank): p for p in known}
    asked = [(variant, error) for variants in probe_points.values() for variant, error in variants]

    def measured(probe_point: tuple[LayerVariant, float]) -> Probe:
        variant, error = probe_point
        divergence, drop = evaluator.alone(variant.layer, factors(variant))
        return Probe(variant.layer, variant.method, variant.rank, error, divergence, drop, evaluator.images)

    def at_hand(variant: LayerVariant, error: float) -> Probe | None:
        probe = have.get((variant.layer, variant.method, variant.rank))
        return None if probe is None or abs(probe.error - error) > SAME_ERROR else probe

    for probe in group.map(measured, [(variant, error) for variant, error in asked if at_hand(variant, error) is None]):
        have[probe.layer, probe.method, probe.rank] = probe
        found(probe)
    return tuple(have[variant.layer, variant.method, variant.rank] for variant, _ in asked)


def probe_points_of(errors: Mapping[LayerVariant, float]) -> list[tuple[LayerVariant, float]]:
    """The variants of one layer whose errors lie nearest to PROBE_ERRORS, each once, by rising error."""
    useful = {variant: error for variant, error in errors.items() if error > 0}
    nearest = {min(useful, key=lambda variant: abs(useful[variant] - aim)): None for aim in PROBE_ERRORS if useful}
    return sorted(((variant, useful[variant]) for variant in nearest), key=lambda pair: pair[1])


def _first(batches: Iterable[tuple[Tensor, Tensor]], most: int) -> list[tuple[Tensor, Tensor]]:
    taken: list[tuple[Tensor, Tensor]] = []
    left = most
    for images, labels in batches:
        if left <= 0:
            break
        taken.append((images[:left], labels[:left]))
        left -= len(labels)
    return taken


LEAST_LOSS = 1e-9
"""Stands for a loss of nothing where logarithms are taken."""


def _curve(probes: Sequence[Probe]) -> tuple[list[float], list[float]]:
    """Errors and losses of one layer by rising error; a loss below that of a smaller error is noise and is raised."""
    points = sorted({p.error: p.divergence for p in probes}.items())
    losses = np.maximum.accumulate([max(loss, LEAST_LOSS) for _, loss in points])
    return [error for error, _ in points], losses.tolist()


def _rising(pairs: Sequence[tuple[float, float]]) -> tuple[np.ndarray, np.ndarray]:
    """The rising curve from (0, 0) that fits (loss, drop) pairs best in least squares: isotonic regression."""
    from sklearn.isotonic import IsotonicRegression

    losses = np.array([0.0, *(loss for loss, _ in pairs)])
    drops = np.array([0.0, *(drop for _, drop in pairs)])
    weights = np.array([float(max(1, len(pairs))), *np.ones(len(pairs))])
    fitted = IsotonicRegression(y_min=0.0).fit_transform(losses, drops, sample_weight=weights)
    order = np.argsort(losses, kind="stable")
    return losses[order], fitted[order]
