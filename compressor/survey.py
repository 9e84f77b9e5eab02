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
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from compressor.equivalence import layers_that_differ
from compressor.layer_shape import Cost, LayerShape, PlanError, dense_cost
from compressor.layers import Layer, evaluating, is_factored, layer_shape, own_layers, refuse_own_forward, shapes_only

NEVER_RUN = "never called on the example image"
READ = "its weight is read directly, not through the layer"
FACTS = ("shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "layout", "size", "dim", "numel", "nelement",
         "element_size", "is_floating_point")  # fmt: skip
"""What may be asked of a weight without reading its numbers."""
MULTIPLYING = ("mv", "addmv", "dot", "vdot", "addbmm", "addr", "_cdist_forward", "_trilinear", "mkldnn_rnn_layer",
               "_fft_r2c", "_fft_c2c", "_fft_c2r", "_native_multi_head_attention")  # fmt: skip
"""Operators of torch that multiply and add, which its flop counter passes by."""
CPU_ATTENTION = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
"""Attention on a CPU, which torch's flop counter knows from 2.15 on."""
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

    `parameters` and `bytes` count every parameter once, those outside the listed layers too. `macs` are those of one
    image through the whole network, by torch's flop counter: what is no Conv2d or Linear layer included. `uncounted`
    are operators that multiply and add too, which that counter does not know.
    """

    layers: tuple[LayerCost, ...]
    parameters: int
    macs: int
    bytes: int
    uncounted: tuple[str, ...] = ()

    @property
    def macs_elsewhere(self) -> int:
        """MACs of one image outside the layers."""
        return self.macs - sum(layer.cost.macs for layer in self.layers)

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

    Attention hands `out_proj.weight` on; factors in the layer's place would be multiplied out for it in every pass.
    What is only asked for its shape, type or device costs nothing.
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
        if getattr(getattr(func, "__self__", func), "__name__", "") in FACTS:
            return func(*args, **(kwargs or {}))
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
    layers = own_layers(network)
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
        reasons.setdefault(name, READ)
    if not any(map(is_factored, network.modules())):
        reasons |= layers_that_differ(network, example, [name for name in traces if name not in reasons])
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
            reason = READ if name in reads.outside else NEVER_RUN
            rows.append(LayerCost(name, tuple(layer.weight.shape), shape, cost, stored, 0, reason))
    parameters = list(network.parameters())
    macs, uncounted = _whole_macs(network, example[:1])
    return Survey(
        layers=tuple(rows),
        parameters=sum(p.numel() for p in parameters),
        macs=max(macs, sum(row.cost.macs for row in rows)),
        bytes=sum(p.numel() * p.element_size() for p in parameters),
        uncounted=uncounted,
    )


class _Unknown(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch publishes no types for it
    """Collects operators that multiply and add and that the flop counter does not know, other libraries' too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # likewise
        self.found: dict[str, None] = {}

    def __torch_dispatch__(self, func: Any, types: Sequence[type], args: Any = (), kwargs: Any = None) -> Any:
        del types  # part of the protocol
        if func.namespace not in ("aten", "prim", "prims", "profiler") or func._opname in MULTIPLYING:
            self.found[f"{func.namespace}::{func._opname}"] = None
        return func(*args, **(kwargs or {}))


def _attention_flops(query: Any, key: Any, value: Any, *_others: Any, out_shape: Any = None, **_more: Any) -> int:
    """The products of an attention, as torch's counter has them; it hands shapes over."""
    del out_shape  # part of the protocol
    flops: int = sdpa_flop_count(query, key, value)  # type: ignore[no-untyped-call]  # torch publishes none
    return flops


def _whole_macs(network: nn.Module, image: Tensor) -> tuple[int, tuple[str, ...]]:
    """MACs of one image through the network by torch's flop counter, and the operators that it does not count."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one operator that the counter does not know
    try:
        with (
            evaluating(network),
            torch.no_grad(),
            shapes_only(),
            _Unknown() as unknown,
            FlopCounterMode(display=False, custom_mapping={CPU_ATTENTION: _attention_flops}) as counter,
        ):
            network(image)
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return counter.get_total_flops() // 2, tuple(unknown.found)


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
        if layer._state_dict_hooks or layer._load_state_dict_pre_hooks:
            reasons[name] = "it carries hooks on its weights"
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
            hooks.callback(layer.register_forward_hook(partial(leave, name), prepend=True).remove)
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
