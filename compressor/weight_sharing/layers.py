"""Layers whose weight is shared: share() puts them in place, plain() makes ordinary ones of them again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressor.calibration import Moments
from compressor.layer_shape import PlanError
from compressor.layers import Layer, conv_like, fill, find_layer, linear_like, no_such_layer, replace_module
from compressor.survey import LayerCost, Survey
from compressor.weight_sharing.product_quantization import (
    Bits,
    Shared,
    Sharing,
    bits,
    check_sharing,
    grid,
    joined,
    looked_up,
    quantize,
    second_moment,
)


@dataclass(frozen=True)
class SharedRow:
    """One layer: its bits when it is shared, or why it is `kept` as it is. `error` is known once it is shared."""

    name: str
    weight: tuple[int, ...]
    bits: Bits | None
    kept: str | None = None
    error: float | None = None


@dataclass(frozen=True)
class SharedModel:
    """A network whose layers share weights, with a row for each layer that was looked at."""

    module: nn.Module
    sharing: Sharing
    rows: tuple[SharedRow, ...]

    @property
    def shared(self) -> tuple[SharedRow, ...]:
        return tuple(row for row in self.rows if row.kept is None)


class SharedWeight(nn.Module):
    """Makes the weight of a codebook, as a parametrization: the codebook is what is trained."""

    indices: Tensor

    def __init__(self, shared: Shared) -> None:
        super().__init__()
        self.weight, self.sharing = shared.weight, shared.sharing
        self.register_buffer("indices", shared.indices)
        self._start = shared.codebook

    def forward(self, codebook: Tensor) -> Tensor:
        return joined(looked_up(codebook, self.indices), self.weight, self.sharing)

    def right_inverse(self, weight: Tensor) -> Tensor:
        """The codebook to begin with; asked for once, when the parametrization is put in place."""
        return self._start.to(weight)


def plan_sharing(survey: Survey, sharing: Sharing, layers: Sequence[str] = ()) -> tuple[SharedRow, ...]:
    """A row for each of `layers` (names, or names of modules that hold them), else for every fully connected layer.

    A layer that was not asked for by name is kept, with the reason, where it cannot be shared or nothing is won by it.
    PlanError for a name that there is none of, a layer asked for by name that cannot be shared, or when no layer is
    left.
    """
    if not layers:
        found = [layer for layer in survey.layers if layer.shape.kind == "linear"]
        rows = tuple(_row(layer, sharing) for layer in found)
        if all(row.kept for row in rows):
            reasons = "; ".join(f"{row.name}: {row.kept}" for row in rows) or "the network has none"
            raise PlanError(
                f"no fully connected layer can share its weights as {sharing.text()} ({reasons}); take fewer "
                "centroids, or name layers with share.share_layers"
            )
        return rows
    names = [layer.name for layer in survey.layers]
    asked: dict[str, LayerCost] = {}
    for name in layers:
        own = [layer for layer in survey.layers if layer.name == name or layer.name.startswith(f"{name}.")]
        if not own:
            raise no_such_layer(name, names)
        asked.update({layer.name: layer for layer in own})
    for layer in asked.values():
        if layer.must_keep is not None:
            raise PlanError(
                f"{layer.name} cannot share its weight: {layer.must_keep}; leave it out of share.share_layers"
            )
        check_sharing(layer.name, layer.weight, sharing)
    return tuple(SharedRow(layer.name, layer.weight, bits(layer.weight, sharing)) for layer in asked.values())


def _row(layer: LayerCost, sharing: Sharing) -> SharedRow:
    reason = layer.must_keep
    found = bits(layer.weight, sharing)
    served = grid(layer.weight, sharing).served
    if reason is None and sharing.centroids > served:
        reason = f"{sharing.centroids} centroids for {served} sub-vectors"
    if reason is None and found.total >= found.dense:
        reason = f"{found.total / 8:,.0f} bytes shared, {found.dense / 8:,.0f} as it is"
    return SharedRow(layer.name, layer.weight, None if reason else found, reason)


def share(
    network: nn.Module,
    rows: Iterable[SharedRow],
    sharing: Sharing,
    seed: int = 0,
    moments: Mapping[str, Moments] | None = None,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _name: None,
) -> SharedModel:
    """A copy of `network` in which the layers of `rows` (from `plan_sharing`) share weights, and train by centroid.

    With `moments` of a layer's inputs it is the outputs that are kept, and the layer's bias, if it has one, takes up
    what the inputs' mean changes. PlanError as from `quantize`.
    """
    module, done = copy.deepcopy(network), []
    rows = tuple(rows)
    for number, row in enumerate(rows):
        progress(number, len(rows), row.name)
        if row.kept is None:
            shared = _quantized(module, row.name, sharing, seed, (moments or {}).get(row.name))
            row = SharedRow(row.name, row.weight, row.bits, None, shared.error)
        done.append(row)
    return SharedModel(module, sharing, tuple(done))


def _quantized(module: nn.Module, name: str, sharing: Sharing, seed: int, moments: Moments | None) -> Shared:
    layer = find_layer(module, name)
    before = layer.weight.detach().clone()
    second = None if moments is None else second_moment(moments, centred=layer.bias is not None)
    shared = quantize(name, before, sharing, seed, second)
    if moments is not None and layer.bias is not None:
        lost = (before.cpu() - shared.decoded()).reshape(len(moments.mean), -1, moments.mean.shape[1])
        shift = torch.einsum("goi,gi->go", lost.double(), moments.mean.double()).flatten()
        with torch.no_grad():
            layer.bias += shift.to(layer.bias)
    put(layer, shared)
    return shared


def put(layer: Layer, shared: Shared) -> None:
    """Makes the layer's weight the shared one, trained by its codebook from then on. PlanError unless it is float32."""
    if layer.weight.dtype != torch.float32:
        kind = str(layer.weight.dtype).removeprefix("torch.")
        raise PlanError(f"codebooks hold float32, and this weight is {kind}; convert the network with .float() first")
    parametrize.register_parametrization(layer, "weight", SharedWeight(shared).to(layer.weight.device))


def put_empty(network: nn.Module, layers: Mapping[str, Sharing]) -> None:
    """Shares the weights of those layers of `network`, in place, as zeros: for centroids that are loaded next."""
    for name, sharing in layers.items():
        layer = find_layer(network, name)
        shape = tuple(layer.weight.shape)
        own = grid(shape, sharing)
        codebook = torch.zeros(own.codebooks, sharing.centroids, sharing.length)
        put(layer, Shared(shape, sharing, torch.zeros(own.blocks, own.members, dtype=torch.int32), codebook))


def shared_weights(network: nn.Module) -> dict[str, Shared]:
    """The shared weights of `network` by the name of their layer, as they are now."""
    found = {}
    for name, module in network.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear) and parametrize.is_parametrized(module, "weight"):
            own: Any = module.parametrizations
            first = own.weight[0]
            if isinstance(first, SharedWeight):
                found[name] = Shared(first.weight, first.sharing, first.indices, own.weight.original.detach())
    return found


def plain(network: nn.Module) -> nn.Module:
    """A copy of `network` with ordinary layers in place of those that share weights, for export."""
    module = copy.deepcopy(network)
    for name, shared in shared_weights(module).items():
        layer = find_layer(module, name)
        new: Layer
        # parametrize's own removal edits the layer's class, which copies of a network have in common.
        if isinstance(layer, nn.Linear):
            new = linear_like(layer, (layer.in_features, layer.out_features), bias=True)
        else:
            channels, window = (layer.in_channels, layer.out_channels), (layer.kernel_size[0], layer.kernel_size[1])
            new = conv_like(layer, channels, window=window, groups=layer.groups, owns=(True, True), bias=True)
        fill(new, shared.decoded())
        replace_module(module, name, new)
    return module
