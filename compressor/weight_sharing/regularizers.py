"""REGULARIZERS: terms of the loss that pull fully connected weights to few values, so that sharing them loses less."""

from __future__ import annotations

from collections.abc import Callable, Container
from dataclasses import dataclass, field

from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressor.layer_shape import PlanError
from compressor.layers import own_layers
from compressor.weight_sharing.product_quantization import ROUGH, Sharing, grid, quantize

RAMP = 0.5
"""The fraction of a step's epochs over which the term's weight grows from zero to its full size."""


@dataclass(frozen=True)
class Regularizer:
    """One kind of term for one weight matrix.

    `term` takes the weight, and where `follows` says so the weight as its centroids had it when the epoch began.
    `weight` is what the term is multiplied by unless another is asked for: terms differ in scale.
    """

    title: str
    weight: float
    term: Callable[[Tensor, Tensor], Tensor]
    follows: bool = False


def binarizing(weight: Tensor, _target: Tensor) -> Tensor:
    scale = weight.detach().abs().mean()
    return (weight.abs() / scale - 1).abs().mean()


def quartic(weight: Tensor, _target: Tensor) -> Tensor:
    scale = weight.detach().abs().mean()
    return ((1 - (weight / scale) ** 2) ** 2).mean() / 4


def centroid_distance(weight: Tensor, target: Tensor) -> Tensor:
    return (weight - target).square().mean()


REGULARIZERS: dict[str, Regularizer] = {
    "binarizing-l1": Regularizer("mean ||w|/s - 1|, s = mean |w|", 0.2, binarizing),
    "quartic": Regularizer("mean (1 - (w/s)^2)^2 / 4, s = mean |w|", 0.05, quartic),
    "centroid": Regularizer("mean |w - c|^2, c the centroid of its sub-vector", 60.0, centroid_distance, follows=True),
}


@dataclass(frozen=True)
class Regularization:
    """A regularizer by name and the weight of its term; `sharing` says which centroids the centroid term follows."""

    name: str
    weight: float
    sharing: Sharing = field(default_factory=lambda: Sharing(4, 256))

    def __post_init__(self) -> None:
        if self.name not in REGULARIZERS:
            raise PlanError(f"there is no regularizer {self.name!r}; choose among {', '.join(REGULARIZERS)}")
        if not self.weight > 0:
            raise PlanError(f"the weight of a regularizer is above 0, not {self.weight:g}; leave it out for none")


def penalty_of(
    network: nn.Module, regularization: Regularization, seed: int, running: Container[str] | None = None
) -> Callable[[float], Tensor]:
    """The term of one epoch as a function of how much of the step is done, from 0 to 1: the sum over all layers, or
    those among the names of `running` ones: several processes cannot train a layer whose output nobody reads.

    Centroids are found here, anew for each epoch, from the weights as they are; one seed for all epochs keeps them
    from jumping. PlanError where the network has no such fully connected layer (with enough sub-vectors for the
    centroids, if those are followed).
    """
    kind = REGULARIZERS[regularization.name]
    layers = [
        (name, module)
        for name, module in own_layers(network).items()
        if isinstance(module, nn.Linear) and not parametrize.is_parametrized(module)
        if running is None or name in running
    ]
    if kind.follows:
        layers = [
            (name, layer)
            for name, layer in layers
            if grid(tuple(layer.weight.shape), regularization.sharing).served >= regularization.sharing.centroids
        ]
    if not layers:
        sharing = regularization.sharing
        wanted = f" with {sharing.centroids} sub-vectors of length {sharing.length}" if kind.follows else ""
        wanted += "" if running is None else " that runs"
        raise PlanError(
            f"the regularizer {regularization.name} acts on fully connected layers, and the network has none{wanted}; "
            "leave fine_tune.regularizer out"
        )

    def target_of(name: str, weight: Tensor) -> Tensor:
        """The weight as its centroids have it now, for a term that follows them."""
        if not kind.follows:
            return weight
        return quantize(name, weight.cpu(), regularization.sharing, seed, effort=ROUGH).decoded().to(weight)

    pairs = [(layer.weight, target_of(name, layer.weight)) for name, layer in layers]

    def penalty(done: float) -> Tensor:
        strength = regularization.weight * min(1.0, done / RAMP)
        terms = [kind.term(weight, target) for weight, target in pairs]
        return strength * sum(terms[1:], terms[0])

    return penalty
