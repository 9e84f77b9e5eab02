"""Errors of layers by variant, kept in the user's cache: a decomposition of a large layer takes longer than its timing.

Errors depend on the weight, the variant and the seed alone; a file is named by the hash of the first, so that nothing
of a network is stored but these figures. Errors of outputs depend on images too and are not kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path

import msgspec
from torch import nn

from compress_export.latency.cache import cache_folder
from compressor.layers import find_layer, weight_digest
from compressor.plan import LayerVariant
from compressor.planning.goal import Errors
from exporters.artifact import write_whole

SCHEMA = 2


def folder() -> Path:
    """The folder of the errors of variants."""
    return cache_folder() / "layer-errors"


class _Stored(msgspec.Struct):
    """A file: (kind of error, method, rank, value) of each variant of one layer."""

    schema: int
    errors: list[tuple[str, str, tuple[int, ...], float]]


def load(network: nn.Module, layers: Iterable[str], seed: int) -> tuple[Errors, Mapping[str, Path]]:
    """The known errors of these layers' variants, and the file of each layer."""
    errors: Errors = {}
    files: dict[str, Path] = {}
    for name in layers:
        text = f"{seed} {version('compress-export')}"
        own = hashlib.blake2b(weight_digest(find_layer(network, name)) + text.encode(), digest_size=16).hexdigest()
        files[name] = path = folder() / f"{own}.json"
        # none there, or not one of ours: it is worked out and written anew
        with suppress(OSError, ValueError, msgspec.MsgspecError):
            stored = msgspec.convert(json.loads(path.read_text(encoding="utf-8")), _Stored)
            if stored.schema == SCHEMA:
                errors |= {
                    (kind, LayerVariant(name, method, rank)): value for kind, method, rank, value in stored.errors
                }
    return errors, files


def save(errors: Errors, files: Mapping[str, Path]) -> None:
    """Writes the errors known of each layer to its file, whole or not at all.

    Where the folder cannot be written nothing is kept: the next plan takes longer, and is no worse.
    """
    with suppress(OSError):
        for name, path in files.items():
            rows = [
                [kind, variant.method, list(variant.rank), value]
                for (kind, variant), value in errors.items()
                if variant.layer == name
            ]
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, json.dumps({"schema": SCHEMA, "errors": rows}) + "\n")
