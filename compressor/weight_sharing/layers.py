"""Layers whose weight is shared: share() puts them in place, plain() makes ordinary ones of them again.

save_shared() writes them as bit-packed indices and codebooks in one safetensors file, read as data alone.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.nn.utils import parametrize

from compressor.calibration import Moments
from compressor.layer_shape import PlanError
from compressor.layers import Layer, fill, find_layer, like, no_such_layer, replace_module
from compressor.surgery import WeightsError, check_fit, unique_state, write_tensors
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

VERSION = 1
KEY = "compress-export.shared"
"""In the file's metadata: the version, and how each shared layer is cut, as JSON."""


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
        rows = []
        for layer in survey.layers:
            if layer.shape.kind == "linear":
                counted, served = bits(layer.weight, sharing), grid(layer.weight, sharing).served
                reason = layer.must_keep
                if reason is None and sharing.centroids > served:
                    reason = f"{sharing.centroids} centroids for {served} sub-vectors"
                if reason is None and counted.total >= counted.dense:
                    reason = f"{counted.total / 8:,.0f} bytes shared, {counted.dense / 8:,.0f} as it is"
                rows.append(SharedRow(layer.name, layer.weight, None if reason else counted, reason))
        if all(row.kept for row in rows):
            reasons = "; ".join(f"{row.name}: {row.kept}" for row in rows) or "the network has none"
            raise PlanError(
                f"no fully connected layer can share its weights as {sharing.text()} ({reasons}); take fewer "
                "centroids, or name layers with share.share_layers"
            )
        return tuple(rows)
    names = [layer.name for layer in survey.layers]
    named: dict[str, LayerCost] = {}
    for name in layers:
        own = [layer for layer in survey.layers if layer.name == name or layer.name.startswith(f"{name}.")]
        if not own:
            raise no_such_layer(name, names)
        named.update({layer.name: layer for layer in own})
    for layer in named.values():
        if layer.must_keep is not None:
            raise PlanError(
                f"{layer.name} cannot share its weight: {layer.must_keep}; leave it out of share.share_layers"
            )
        check_sharing(layer.name, layer.weight, sharing)
    return tuple(SharedRow(layer.name, layer.weight, bits(layer.weight, sharing)) for layer in named.values())


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
            layer, inputs = find_layer(module, row.name), (moments or {}).get(row.name)
            before = layer.weight.detach().clone()
            second = None if inputs is None else second_moment(inputs, centred=layer.bias is not None)
            shared = quantize(row.name, before, sharing, seed, second)
            if inputs is not None and layer.bias is not None:
                lost = (before.cpu() - shared.decoded()).reshape(len(inputs.mean), -1, inputs.mean.shape[1])
                shift = torch.einsum("goi,gi->go", lost.double(), inputs.mean.double()).flatten()
                with torch.no_grad():
                    layer.bias += shift.to(layer.bias)
            put(layer, shared)
            row = SharedRow(row.name, row.weight, row.bits, None, shared.error)
        done.append(row)
    return SharedModel(module, sharing, tuple(done))


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
        new = like(layer)  # parametrize's own removal edits the layer's class, which copies of a network have in common
        fill(new, shared.decoded())
        replace_module(module, name, new)
    return module


def pack(values: NDArray[np.integer[Any]], width: int) -> NDArray[np.uint8]:
    """Whole numbers below 2^width as bits, the lowest first, with no gap between them; zeros fill up the last byte."""
    places = np.arange(width, dtype=np.int64)
    return np.packbits(((values.reshape(-1, 1).astype(np.int64) >> places) & 1).astype(np.uint8), bitorder="little")


def unpack(packed: NDArray[np.uint8], count: int, width: int) -> NDArray[np.int64]:
    """The `count` numbers that `pack` wrote."""
    found = np.unpackbits(packed, count=count * width, bitorder="little").reshape(count, width)
    return found.astype(np.int64) @ (1 << np.arange(width, dtype=np.int64))


def save_shared(network: nn.Module, path: Path | str) -> None:
    """Writes a network whose layers share weights: its other weights and buffers as they are, those packed.

    A shared layer takes `LAYER.weight.indices`, ceil(log2 k) bits each, and `LAYER.weight.codebook`, float32
    (codebooks, centroids, length); the file is larger than `sharing.bits` counts by less than a byte for each layer,
    and by safetensors' header.
    """
    shared = shared_weights(network)
    own = tuple(f"{name}.parametrizations.weight." for name in shared)
    tensors = {name: value for name, value in unique_state(network).items() if not name.startswith(own)}
    for name, each in shared.items():
        packed = pack(each.indices.cpu().numpy(), each.sharing.index_bits)
        tensors[f"{name}.weight.indices"] = torch.from_numpy(packed)
        tensors[f"{name}.weight.codebook"] = each.codebook.reshape(_codebook_shape(each.weight, each.sharing))
    about = {
        "version": VERSION,
        "layers": {name: {"weight": each.weight} | asdict(each.sharing) for name, each in shared.items()},
    }
    write_tensors(tensors, Path(path), {KEY: json.dumps(about)})


def load_shared(network: nn.Module, path: Path | str) -> None:
    """Makes `network`, as it was before its weights were shared, the one that `save_shared` wrote, bit for bit.

    Nothing in the file is run, and nothing in it decides how much memory is taken: the network's own shapes must
    agree. WeightsError, before anything is changed, if the file is none of ours, is cut short, or does not fit.
    """
    path = Path(path)
    found, tensors = _read(network, path)
    for name, shared in found.items():
        put(find_layer(network, name), shared)
    with torch.no_grad():
        for name, tensor in unique_state(network).items():
            if name in tensors:
                tensor.copy_(tensors[name])


def read_shared(network: nn.Module, path: Path | str) -> dict[str, Shared]:
    """The shared weights in a file that `save_shared` wrote, by layer; `network`, which has ordinary layers there,
    stays as it is. WeightsError as in `load_shared`."""
    return _read(network, Path(path))[0]


def _read(network: nn.Module, path: Path) -> tuple[dict[str, Shared], dict[str, Tensor]]:
    """The shared weights of the file by layer, and all its tensors."""
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not iterable
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}; write it again") from error
    layers = _layers(metadata, path)
    found = {name: _shared(network, name, about, tensors, path) for name, about in layers.items()}
    # The file must hold the network's state, each shared weight in its two parts.
    wanted = {name: value for name, value in unique_state(network).items() if name.removesuffix(".weight") not in found}
    for name, shared in found.items():
        packed = (bits(shared.weight, shared.sharing).indices + 7) // 8
        wanted[f"{name}.weight.indices"] = torch.empty(packed, dtype=torch.uint8)
        wanted[f"{name}.weight.codebook"] = shared.codebook
    check_fit(wanted, tensors, path)
    return found, tensors


def _codebook_shape(weight: tuple[int, ...], sharing: Sharing) -> tuple[int, int, int]:
    return grid(weight, sharing).codebooks, sharing.centroids, sharing.length


def _layers(metadata: Mapping[str, str], path: Path) -> dict[str, tuple[tuple[int, ...], Sharing]]:
    """The weight's shape and the sharing of each layer, as the metadata tells them."""
    if KEY not in metadata:
        raise WeightsError(f"{path} holds no shared weights: it has no {KEY}; write it with save_shared")
    try:
        about = json.loads(metadata[KEY])
        if about["version"] != VERSION:
            raise WeightsError(
                f"{path} is of version {about['version']}, this tool reads version {VERSION}; write it again, or take "
                "the tool that wrote it"
            )
        return {
            str(name): (tuple(int(size) for size in row["weight"]), _sharing(row))
            for name, row in about["layers"].items()
        }
    except WeightsError:
        raise
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise WeightsError(
            f"{path} does not say how its weights are shared: {type(error).__name__}: {error}; write it again"
        ) from error


def _sharing(row: Mapping[str, Any]) -> Sharing:
    if row["split"] not in ("columns", "rows") or row["codebook"] not in ("layer", "block"):
        raise ValueError(f"split {row['split']!r} with a codebook for each {row['codebook']!r}")
    return Sharing(int(row["length"]), int(row["centroids"]), row["split"], row["codebook"])


def _shared(
    network: nn.Module, name: str, about: tuple[tuple[int, ...], Sharing], tensors: Mapping[str, Tensor], path: Path
) -> Shared:
    weight, sharing = about
    try:
        layer = find_layer(network, name)
    except PlanError as error:
        raise WeightsError(f"{path} does not fit the network: {error}") from error
    if tuple(layer.weight.shape) != weight:  # what is decoded is never larger than the network
        there, here = ("x".join(map(str, shape)) for shape in (weight, layer.weight.shape))
        raise WeightsError(
            f"{path} does not fit the network: {name} is {there} in the file and {here} in the network; load it with "
            "the network that it was written with"
        )
    own, counted = grid(weight, sharing), bits(weight, sharing)
    sizes = {"indices": ((counted.indices + 7) // 8,), "codebook": _codebook_shape(weight, sharing)}
    kinds = {"indices": torch.uint8, "codebook": torch.float32}
    for part, shape in sizes.items():
        key = f"{name}.weight.{part}"
        tensor = tensors.get(key)
        if tensor is None or tuple(tensor.shape) != shape or tensor.dtype != kinds[part]:
            there = "missing" if tensor is None else f"{tuple(tensor.shape)} of {tensor.dtype}"
            raise WeightsError(f"{path}: {key} is {there}, {shape} of {kinds[part]} were announced; write it again")
    indices = unpack(tensors[f"{name}.weight.indices"].numpy(), own.blocks * own.members, sharing.index_bits)
    if indices.max(initial=0) >= sharing.centroids:
        raise WeightsError(
            f"{path}: {name} points to centroid {indices.max()} of a codebook of {sharing.centroids}; the file is "
            "damaged, write it again"
        )
    places = torch.from_numpy(indices.astype(np.int32)).reshape(own.blocks, own.members)
    return Shared(weight, sharing, places, tensors[f"{name}.weight.codebook"])
