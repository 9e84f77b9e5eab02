"""The packed file: shared weights as bit-packed indices and codebooks in one safetensors file, read as data alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from compressor.layer_shape import PlanError
from compressor.layers import Layer, find_layer
from compressor.surgery import WeightsError, check_fit, unique_state, write_tensors
from compressor.weight_sharing.layers import put, shared_weights
from compressor.weight_sharing.product_quantization import Shared, Sharing, bits, grid

VERSION = 1
KEY = "compress-export.shared"
"""In the file's metadata: the version, and how each shared layer is cut, as JSON."""


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
    about = {"version": VERSION, "layers": {name: _about(each) for name, each in shared.items()}}
    write_tensors(tensors, Path(path), {KEY: json.dumps(about)})


def load_shared(network: nn.Module, path: Path | str) -> None:
    """Makes `network`, as it was before its weights were shared, the one that `save_shared` wrote, bit for bit.

    Nothing in the file is run, and nothing in it decides how much memory is taken: the network's own shapes must
    agree. WeightsError, before anything is changed, if the file is none of ours, is cut short, or does not fit.
    """
    path = Path(path)
    try:
        with safe_open(path, "pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not iterable
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}; write it again") from error
    layers = _layers(metadata, path)
    found = {name: _shared(network, name, about, tensors, path) for name, about in layers.items()}
    check_fit(_others(network, found), tensors, path)
    for name, shared in found.items():
        put(find_layer(network, name), shared)
    with torch.no_grad():
        for name, tensor in unique_state(network).items():
            if name in tensors:
                tensor.copy_(tensors[name])


def _about(shared: Shared) -> dict[str, Any]:
    own = shared.sharing
    return {
        "weight": list(shared.weight),
        "length": own.length,
        "centroids": own.centroids,
        "split": own.split,
        "codebook": own.codebook,
    }


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
    network: nn.Module,
    name: str,
    about: tuple[tuple[int, ...], Sharing],
    tensors: Mapping[str, Tensor],
    path: Path,
) -> Shared:
    weight, sharing = about
    layer = _layer(network, name, weight, path)
    own, counted = grid(weight, sharing), bits(weight, sharing)
    sizes = {
        "indices": ((counted.indices + 7) // 8,),
        "codebook": _codebook_shape(weight, sharing),
    }
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
    return Shared(tuple(layer.weight.shape), sharing, places, tensors[f"{name}.weight.codebook"])


def _layer(network: nn.Module, name: str, weight: tuple[int, ...], path: Path) -> Layer:
    """The network's layer of that name, of that very shape: what is decoded is never larger than the network."""
    try:
        layer = find_layer(network, name)
    except PlanError as error:
        raise WeightsError(f"{path} does not fit the network: {error}") from error
    if tuple(layer.weight.shape) != weight:
        there, here = ("x".join(map(str, shape)) for shape in (weight, layer.weight.shape))
        raise WeightsError(
            f"{path} does not fit the network: {name} is {there} in the file and {here} in the network; load it with "
            "the network that it was written with"
        )
    return layer


def _others(network: nn.Module, shared: Mapping[str, Shared]) -> dict[str, Tensor]:
    """What the file must hold: the network's state, each shared weight in its two parts."""
    whole = {
        name: tensor for name, tensor in unique_state(network).items() if name.removesuffix(".weight") not in shared
    }
    for name, each in shared.items():
        counted = bits(each.weight, each.sharing)
        whole[f"{name}.weight.indices"] = torch.empty((counted.indices + 7) // 8, dtype=torch.uint8)
        whole[f"{name}.weight.codebook"] = each.codebook
    return whole
