"""The table of factorizations. A new one is a file in `compressor.decompositions` and a line here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod

from torch import nn

from compressor.calibration import Moments
from compressor.decompositions import cp, svd, tucker
from compressor.decompositions.base import Decomposition, Method
from compressor.layer_shape import LayerShape, PlanError, Rank
from compressor.layers import find_layer, weight_digest
from compressor.plan import PlanFits

__all__ = [
    "METHODS",
    "Decomposition",
    "Decompositions",
    "Fits",
    "Method",
    "check_rank",
    "decomposition",
    "default_method",
]

METHODS: dict[str, Method] = {
    "cp": cp.CP,
    "cp-polished": cp.CP_POLISHED,
    "cp-als": cp.CP_ALS,
    "tucker": tucker.METHOD,
    "spatial": svd.SPATIAL,
    "channel": svd.CHANNEL,
    "svd": svd.SVD,
}

Decompositions = dict[tuple[str, str], Decomposition]
"""Decompositions by layer name and method, kept so that none is computed twice. See `decomposition`."""


def default_method(shape: LayerShape) -> str:
    """The form that Astrid & Lee 2018 give a layer: "cp" for a window larger than 1x1, "svd" for all others."""
    return "cp" if prod(shape.window) > 1 else "svd"


def decomposition(
    ready: Decompositions, network: nn.Module, name: str, method: str, seed: int, moments: Moments | None = None
) -> Decomposition:
    """The decomposition of a layer of `network`: the one in `ready`, or a new one, which is put there.

    A new one is fitted to the layer's outputs if there are `moments` of its inputs, else to its weight. With moments,
    one in `ready` that was fitted to the weight (for a probe, say) is not taken but replaced.
    """
    key = name, method
    if key not in ready or (moments is not None and ready[key].measure == "weights"):
        try:
            ready[key] = METHODS[method].decompose(find_layer(network, name), seed, moments)
        except PlanError as error:
            raise PlanError(f"{name} cannot be factored: {error}") from error
    return ready[key]


def check_rank(name: str, weight: tuple[int, ...], shape: LayerShape, method: str, rank: Rank) -> None:
    """Raises PlanError for a method that is unknown or cannot express the layer, or a rank that does not fit it."""
    if method not in METHODS:
        raise PlanError(f"{name} asks for the method {method!r}; choose one of {', '.join(METHODS)}, or keep")
    reason = METHODS[method].supports(shape)
    if reason:
        raise PlanError(f"{method} does not fit {name}: {reason}, or pass --keep-layers {name}")
    METHODS[method].check_rank(rank, shape, weight, name)


class Fits(PlanFits):
    """Decompositions of a network's layers as they are now, by one seed. Each holds for the same layer with the same
    weight and the same moments of its inputs: `of` gives those that still do."""

    def __init__(
        self,
        network: nn.Module,
        chosen: Iterable[tuple[str, str]],
        decompositions: Decompositions,
        seed: int,
        moments: Mapping[str, Moments] | None,
    ) -> None:
        self._seed, self._moments = seed, dict(moments or {})
        self._known = {key: decompositions[key] for key in chosen if key in decompositions}
        self._layers = {name: find_layer(network, name) for name, _ in self._known}
        self._weights = {name: weight_digest(layer) for name, layer in self._layers.items()}

    def of(self, network: nn.Module, seed: int, moments: Mapping[str, Moments] | None) -> Decompositions:
        """Decompositions by layer name and method that hold for the layers of `network` as they are now."""
        if seed != self._seed:
            return {}
        modules, given = dict(network.named_modules(remove_duplicate=False)), moments or {}
        unchanged = {
            name
            for name, layer in self._layers.items()
            if modules.get(name) is layer
            and given.get(name) is self._moments.get(name)
            and weight_digest(layer) == self._weights[name]
        }
        return {key: known for key, known in self._known.items() if key[0] in unchanged}
