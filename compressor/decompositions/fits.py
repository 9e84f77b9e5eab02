"""Fits: the decompositions that a plan was made from, with what they hold for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from compressor.calibration import Moments
from compressor.decompositions.methods import Decompositions
from compressor.layers import find_layer, weight_digest
from compressor.plan import PlanFits


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
