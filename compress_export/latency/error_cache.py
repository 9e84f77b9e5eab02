"""Errors of layers by variant, kept in the user's cache: a decomposition of a large layer takes longer than its timing.

Errors depend on the weight, the variant and the seed alone; a file is named by the hash of the first, so that nothing
of a network is stored but these figures. Errors of outputs depend on images too and are not kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

from torch import nn

from compress_export.latency.cache import cache_folder
from compressor.layers import find_layer
from compressor.plan import LayerVariant
from compressor.planning.goal import Errors
from exporters.artifact import write_whole

SCHEMA = 1


def folder() -> Path:
    """Where errors of variants are kept."""
    return cache_folder() / "layer-errors"


def load(network: nn.Module, layers: Iterable[str], seed: int) -> tuple[Errors, Mapping[str, Path]]:
    """What is known of the errors of these layers' variants, and the file of each layer."""
    places = {name: folder() / _file_name(network, name, seed) for name in layers}
    return {key: value for name, path in places.items() for key, value in _read(path, name)}, places


def save(errors: Errors, places: Mapping[str, Path]) -> None:
    """Writes the errors known of each layer to its file, whole or not at all.

    Where the folder cannot be written nothing is kept: the next plan takes longer, and is no worse.
    """
    with suppress(OSError):
        _write(errors, places)


def _write(errors: Errors, places: Mapping[str, Path]) -> None:
    for name, path in places.items():
        rows = [
            [kind, variant.method, list(variant.rank), value]
            for (kind, variant), value in errors.items()
            if variant.layer == name
        ]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps({"schema": SCHEMA, "errors": rows}) + "\n")


def _file_name(network: nn.Module, name: str, seed: int) -> str:
    layer = find_layer(network, name)
    weight = layer.weight.detach().cpu().contiguous()
    told = f"{tuple(weight.shape)} {weight.dtype} {getattr(layer, 'groups', 1)} {seed} {version('compress-export')}"
    return hashlib.blake2b(weight.numpy().tobytes() + told.encode(), digest_size=16).hexdigest() + ".json"


def _read(path: Path, name: str) -> Iterator[tuple[tuple[str, LayerVariant], float]]:
    try:
        stored = json.loads(path.read_text(encoding="utf-8"))
        if stored["schema"] == SCHEMA:
            for kind, method, rank, value in stored["errors"]:
                yield (kind, LayerVariant(name, method, tuple(rank))), float(value)
    except (OSError, KeyError, TypeError, ValueError):
        return  # none there, or not one of ours: it is worked out and written anew
