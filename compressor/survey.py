"""The survey: every convolution and fully connected layer that runs, its cost, and which layers must be kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from compressor.layer_shape import Cost, LayerShape, PlanError, dense_cost
from compressor.layers import Layer, evaluating, layer_shape, refuse_own_forward

NEVER_RUN = "never called on the example image"
FEWEST_IMAGES = 16
"""Images that tell a copied input from one that agrees by accident (overlapping pooling windows share maxima)."""


@dataclass(frozen=True)
class LayerCost:
    """One layer: its shape, the cost of one image through it (all calls together), and why it must stay, if it must.

    `distinct_inputs` counts the inputs of a fully connected layer that differ on real images, where copies make them
    fewer than its weights (an adaptive pooling that enlarges a smaller map): there compression is partly exact.
    A convolution over patches that the network folds into the batch has the shape of one patch and the cost of all.
    """

    name: str
    weight: tuple[int, ...]
    shape: LayerShape
    cost: Cost
    bytes: int
    calls: int
    must_keep: str | None = None
    distinct_inputs: int | None = None


@dataclass(frozen=True)
class Survey:
    """Layers in the order in which they run (those that never run come last), and totals of the whole network.

    `parameters` and `bytes` count every parameter once, those outside the listed layers too; `macs` is the sum over
    the layers, for one image.
    """

    layers: tuple[LayerCost, ...]
    parameters: int
    macs: int
    bytes: int

    def layer(self, name: str) -> LayerCost:
        return next(layer for layer in self.layers if layer.name == name)


@dataclass
class _Trace:
    """Sums over the calls of one layer that ran, over all images of the example."""

    shape: LayerShape
    calls: int = 0
    macs: int = 0
    traffic: int = 0
    distinct_inputs: int | None = None


class _WeightReads(TorchFunctionMode):
    """Collects the layers whose weight a function outside their own forward reads.

    Attention hands `out_proj.weight` on, others look up `.weight.dtype`: such a layer cannot become a Sequential.
    """

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        super().__init__()
        self.owners = {id(layer.weight): name for name, layer in layers.items() if "weight" in layer._parameters}
        self.running: list[str] = []
        self.outside: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: Any = None
    ) -> Any:
        del types  # part of the protocol
        for value in tree_leaves((args, kwargs)):
            owner = self.owners.get(id(value)) if isinstance(value, nn.Parameter) else None
            if owner is not None and owner not in self.running:
                self.outside.add(owner)
        return func(*args, **(kwargs or {}))


def survey(network: nn.Module, example: Tensor) -> Survey:
    """Layers and totals of `network` as one pass over `example` (images, N x C x H x W) shows them.

    A layer that cannot be exchanged for factors carries the reason: never called, weight tied to another layer, read
    directly or computed by a parametrization, a forward or hooks of its own. PlanError if the network refuses the
    example.
    """
    layers = {name: module for name, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)}
    reasons = _fixed_reasons(layers)
    reads = _WeightReads(layers)
    traces: dict[str, _Trace] = {}
    try:
        with evaluating(network), _watching(layers, traces, reads, len(example)), torch.no_grad(), reads:
            network(example)
    except RuntimeError as error:
        size = "x".join(map(str, example.shape[1:]))
        raise PlanError(f"the network does not take a {size} image: {error}; pass the size with --input") from error
    for name in reads.outside:
        reasons.setdefault(name, "its weight is read directly, not through the layer")
    rows = []
    for name, trace in traces.items():
        weight, dense = layers[name].weight, dense_cost(trace.shape)
        rows.append(
            LayerCost(
                name=name,
                weight=tuple(weight.shape),
                shape=trace.shape,
                cost=Cost(dense.parameters, trace.macs, trace.traffic),
                bytes=dense.parameters * weight.element_size(),
                calls=trace.calls,
                must_keep=reasons.get(name),
                distinct_inputs=trace.distinct_inputs,
            )
        )
    for name, layer in layers.items():
        if name not in traces:
            tensors = list(layer.parameters())
            cost = Cost(sum(p.numel() for p in tensors), 0, 0)
            stored = sum(p.numel() * p.element_size() for p in tensors)
            shape = layer_shape(layer, (0, 0))
            rows.append(LayerCost(name, tuple(layer.weight.shape), shape, cost, stored, 0, NEVER_RUN))
    parameters = list(network.parameters())
    return Survey(
        layers=tuple(rows),
        parameters=sum(p.numel() for p in parameters),
        macs=sum(row.cost.macs for row in rows),
        bytes=sum(p.numel() * p.element_size() for p in parameters),
    )


def _fixed_reasons(layers: Mapping[str, Layer]) -> dict[str, str]:
    """Reasons to keep a layer that show without running it."""
    first_owner: dict[int, str] = {}
    reasons: dict[str, str] = {}
    for name, layer in layers.items():
        if parametrize.is_parametrized(layer) or "weight" not in layer._parameters:
            reasons[name] = "its weight is computed by a parametrization"
            continue
        other = first_owner.setdefault(id(layer.weight), name)
        if other != name:
            reasons[name] = f"its weight is tied to {other}"
            reasons.setdefault(other, f"its weight is tied to {name}")
            continue
        try:
            refuse_own_forward(layer)
        except PlanError:
            reasons[name] = f"{type(layer).__name__} has a forward of its own"
            continue
        if layer._forward_hooks or layer._forward_pre_hooks:
            reasons[name] = "it carries hooks of its own"
    return reasons


@contextmanager
def _watching(
    layers: Mapping[str, Layer], traces: dict[str, _Trace], reads: _WeightReads, images: int
) -> Iterator[None]:
    """Hooks on every layer that fill `traces` in the order of the first calls, and tell `reads` which layer runs.

    The network runs on so many `images`.
    """

    def enter(name: str, _layer: Layer, _arguments: object) -> None:
        reads.running.append(name)

    def leave(name: str, layer: Layer, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        reads.running.pop()
        with torch._C.DisableTorchFunction():
            (inputs, *_), linear = arguments, isinstance(layer, nn.Linear)
            patches = 1 if linear else _for_one(inputs.shape[:-3], images)
            if linear:
                shape = layer_shape(layer, (_for_one(inputs.shape[:-1], images), 1))
            else:
                shape = layer_shape(layer, (inputs.shape[-2], inputs.shape[-1]), (output.shape[-2], output.shape[-1]))
            cost = dense_cost(shape)
            trace = traces.setdefault(name, _Trace(shape))
            trace.calls += 1
            trace.macs += patches * cost.macs
            trace.traffic += patches * cost.traffic
            if linear and inputs.dim() == 2 and len(inputs) >= FEWEST_IMAGES:
                trace.distinct_inputs = _distinct_inputs(inputs)

    with ExitStack() as hooks:
        for name, layer in layers.items():
            hooks.callback(layer.register_forward_pre_hook(partial(enter, name)).remove)
            hooks.callback(layer.register_forward_hook(partial(leave, name)).remove)
        yield


def _for_one(sizes: Sequence[int], images: int) -> int:
    """The part of a layer's leading `sizes` that is one image's, of so many that the network runs on.

    Networks fold patches or windows into the batch, or put positions before it. Where no size holds the images, what
    the layer reads does not come from them (a table of positions), and all of it is computed for one image too.
    """
    return prod(sizes) // images if any(size % images == 0 for size in sizes) else prod(sizes)


def _distinct_inputs(images: Tensor) -> int | None:
    """Number of columns of `images` (N x inputs) that differ, or None unless copies make up at least half of them.

    Inputs that are constant on these images (dead ReLUs) tell nothing about copies and count as one column.
    """
    varying = images[:, (images != images[0]).any(dim=0)]
    distinct = int(torch.unique(varying, dim=1).shape[1])
    if 2 * distinct > varying.shape[1]:
        return None
    return distinct + (varying.shape[1] < images.shape[1])
