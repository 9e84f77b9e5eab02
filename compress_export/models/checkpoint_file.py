"""Weights from a user's file, read as data: safetensors, or a torch file that holds nothing but tensors."""

from __future__ import annotations

import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress_export.errors import InputError

PICKLE, ZIP = b"\x80", b"PK"
"""First bytes of files that torch.save writes: a pickle before torch 1.6, a zip archive since."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state_dict in `path`. A wrapper {"state_dict": ...} or {"model": ...} and the prefix "module." are taken off.

    InputError if the file is missing, is no weights file, or is a pickle that holds more than tensors.
    """
    if not path.is_file():
        raise InputError(f"--weights {path}: there is no such file")
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"--weights {path} is not a safetensors file: {error}") from error
    try:
        content: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, KeyError) as error:
        # torch's own message advises to run whatever the file holds
        called = re.search(r"GLOBAL (\S+)", str(error))
        reason = f"it would call {called[1]}" if called else "it is cut short, or holds more than tensors"
        with path.open("rb") as file:
            if not file.read(2).startswith((PICKLE, ZIP)):
                reason = "it is no torch file"
        raise InputError(
            f"--weights {path} cannot be read as weights alone ({reason}); a pickle with code in it is never run: "
            "save `module.state_dict()` with torch.save or safetensors"
        ) from error
    for key in ("state_dict", "model"):
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not all(isinstance(value, Tensor) for value in content.values()):
        raise InputError(f"--weights {path} holds {type(content).__name__}, not a state_dict of named tensors")
    return {str(name).removeprefix("module."): value for name, value in content.items()}


def published_names(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights under the names that `network` uses, where torchvision's files differ from its modules.

    Auxiliary heads that the network goes without are left out, and DenseNet's "norm.1" becomes "norm1".
    """
    own = network.state_dict()
    named = {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", name): value for name, value in weights.items()}
    if not any(name in own for name in named.keys() - weights.keys()):
        named = dict(weights)
    return {name: value for name, value in named.items() if name in own or not name.startswith(SIDE_HEADS)}


SIDE_HEADS = ("aux1.", "aux2.", "AuxLogits.")


def outputs_of(weights: Mapping[str, Tensor], network: nn.Module) -> int | None:
    """Number of outputs that these weights of `network` have: rows of the last tensor, as the file holds it.

    Files do not keep the order of layers, so the network tells which one is last. None where the file lacks it.
    """
    last = next((name for name, value in reversed(network.state_dict().items()) if value.dim()), None)
    return weights[last].shape[0] if last is not None and last in weights and weights[last].dim() else None


def load_into(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Puts `weights` into `network`; InputError names the first key that is missing, foreign or of another shape."""
    own = network.state_dict()
    given = {own[name].data_ptr() for name in weights if name in own}
    for name, value in own.items():
        if name not in weights:
            if value.numel() and value.data_ptr() in given:
                continue  # tied to one that is there
            raise InputError(f"{where} is of another network: it has no {name} ({_size(value)})")
        if weights[name].shape != value.shape:
            raise InputError(
                f"{where} is of another network: {name} is {_size(weights[name])} there and {_size(value)} here"
            )
    foreign = next((name for name in weights if name not in own), None)
    if foreign is not None:
        raise InputError(f"{where} is of another network: its {foreign} ({_size(weights[foreign])}) has no place here")
    network.load_state_dict(dict(weights), strict=False)


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"
