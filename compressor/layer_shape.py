"""Shape and cost of a layer, and its rank: values that every method shares."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import Literal

Rank = tuple[int, ...]
"""Rank of each mode that a method factors, for one group: (R,) for CP and SVD, () for a layer that is kept."""


class PlanError(ValueError):
    """A rank, a limit, a layer or a method that does not fit the network; the text names the cure."""


@dataclass(frozen=True)
class LayerShape:
    """The geometry of one convolution or fully connected layer as it really runs, for one image.

    `inputs` and `outputs` count the channels of the whole layer, all groups together. A fully connected layer has
    a 1x1 window, one group, and `in_size == out_size == (positions, 1)`: one position unless it runs over a sequence.
    """

    kind: Literal["conv", "linear"]
    inputs: int
    outputs: int
    groups: int
    window: tuple[int, int]
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    bias: bool

    @property
    def kernel(self) -> tuple[int, int, int]:
        """(T, S, D) of one group: output channels, input channels, positions of the window."""
        return self.outputs // self.groups, self.inputs // self.groups, prod(self.window)


@dataclass(frozen=True)
class Cost:
    """Parameters, multiply-accumulates for one image, and elements moved (inputs, outputs and weights)."""

    parameters: int
    macs: int
    traffic: int

    def __add__(self, other: Cost) -> Cost:
        return Cost(self.parameters + other.parameters, self.macs + other.macs, self.traffic + other.traffic)


def dense_cost(shape: LayerShape) -> Cost:
    """Cost of the layer as it is: groups * T * S * D weights and the biases, applied at every output position."""
    outputs, inputs, positions = shape.kernel
    weights = shape.groups * outputs * inputs * positions
    parameters = weights + (shape.outputs if shape.bias else 0)
    moved = shape.inputs * prod(shape.in_size) + shape.outputs * prod(shape.out_size)
    return Cost(parameters, weights * prod(shape.out_size), moved + parameters)
