"""A factored layer: a convolution or fully connected layer of the network that computes its outputs by its factors.

It stays the object that it was, of the same class and with the same attributes and hooks, so that a forward pass that
asks `isinstance(layer, nn.Conv2d)` or reads `layer.kernel_size` goes on as before. Only what it holds is exchanged: the
factors are its submodules "0", "1", ..., and `weight` and `bias` are worked out of theirs wherever they are read.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

Factored = dict[str, nn.Module]
"""A layer's submodules: its factors in order. Held by the layer, its forward pass and its parameters alike, so that
they stay one where the network is copied."""


class _Forward:
    """A layer's forward pass: one factor after the other."""

    def __init__(self, factors: Factored) -> None:
        self.factors = factors

    def __call__(self, inputs: Tensor) -> Tensor:
        for factor in self.factors.values():
            inputs = factor(inputs)
        return inputs


class _Parameters(dict[str, Any]):
    """A layer's own parameters: none to train, to move or to store, but its factors' product where one is read."""

    factors: Factored
    shape: torch.Size
    shapes_only = False

    def __contains__(self, name: object) -> bool:
        return name in ("weight", "bias")

    def __getitem__(self, name: str) -> Tensor | None:
        last: Any = [*self.factors.values()][-1]
        if name == "bias":
            bias: Tensor | None = last.bias
            return bias
        if _Parameters.shapes_only:
            weight: Tensor = last.weight
            return weight.detach().new_zeros(()).expand(self.shape)
        return _product(self.factors)

    def __setitem__(self, name: str, value: object) -> None:
        raise TypeError(
            f"the {name} of a factored layer is worked out of its factors, and cannot be set; set those of the factors"
        )


def put_factors(layer: nn.Module, factors: nn.Sequential) -> None:
    """Makes `layer` compute its outputs by these factors from now on."""
    own: Factored = dict(factors.named_children())
    parameters = _Parameters()
    parameters.factors, parameters.shape = own, layer.get_parameter("weight").shape
    vars(layer).update(forward=_Forward(own), _modules=own, _parameters=parameters)


@contextmanager
def factors_in_place(layer: nn.Module, factors: nn.Sequential) -> Iterator[None]:
    """`layer` computes its outputs by these factors, and as before afterwards."""
    before = dict(vars(layer))
    put_factors(layer, factors)
    try:
        yield
    finally:
        vars(layer).clear()
        vars(layer).update(before)


def is_factored(module: nn.Module) -> bool:
    """True for a layer whose outputs are computed by factors."""
    return isinstance(vars(module).get("forward"), _Forward)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Weights of factored layers have their shape, type and device, and no values: nothing is computed to read them."""
    _Parameters.shapes_only = True
    try:
        yield
    finally:
        _Parameters.shapes_only = False


def _product(factors: Factored) -> Tensor:
    """The weight that the factors reconstruct; gradients flow through it.

    Along each axis at most one factor has a window, stride, padding and dilation, so the whole window is the full
    convolution of theirs.
    """
    chain: list[Any] = [*factors.values()]
    first, *others = chain
    product: Tensor = first.weight
    if product.dim() == 2:
        for factor in others:
            product = factor.weight @ product
        return product
    product = product.transpose(0, 1)  # each input channel of a group is an image of the first factor's outputs
    for factor in others:
        weight: Tensor = factor.weight
        margins = [size - 1 for size in weight.shape[2:]]
        product = functional.conv2d(product, weight.flip(2, 3), padding=margins, groups=factor.groups)
    return product.transpose(0, 1)
