"""The table of factorizations. A new one is a file in `compressor.decompositions` and a line here."""

from __future__ import annotations

from math import prod

from torch import nn

from compressor.calibration import Moments
from compressor.decompositions import cp, svd, tucker
from compressor.decompositions.base import Decomposition, Method
from compressor.layer_shape import LayerShape, PlanError, Rank
from compressor.layers import find_layer

__all__ = ["METHODS", "Decomposition", "Decompositions", "Method", "check_rank", "decomposition", "default_method"]

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
