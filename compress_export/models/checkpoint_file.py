"""Weights from a user's file, read as data: safetensors, or a torch file that holds nothing but tensors and numbers."""

from __future__ import annotations

import pickle
import re
import zipfile
from argparse import Namespace
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from compress_export.errors import InputError, nearest
from compress_export.settings import weights_file

PICKLE, ZIP = b"\x80", b"PK"
"""First bytes of files that torch.save writes: a pickle before torch 1.6, a zip archive since."""

USUAL = ("state_dict", "model_state_dict", "model", "net", "network", "weights", "params")
"""Names under which training scripts store a network's weights, beside its optimizer and whatever else."""

WRAPPERS = ("module", "_orig_mod", "model", "net", "network", "backbone")
"""Parts that wrappers put before the names of weights: DataParallel and AveragedModel, torch.compile, Lightning."""

INSIDE = re.compile(r"(?<=\.)(?:module|_orig_mod)\.")
"""The same within a name, where a part of the network was wrapped: "features.module.0.weight"."""

COUNTERS = ("num_batches_tracked", "n_averaged", "total_ops", "total_params")
"""Last parts of names that hold counts of batches, of averaged models, and of a profiler, and no weights."""

SIDE_HEADS = ("aux1.", "aux2.", "AuxLogits.")


@dataclass(frozen=True)
class Checkpoint:
    """A state dict as the file has it; `name` is its own within the file, `others` those that were not taken."""

    weights: dict[str, Tensor]
    name: str = ""
    others: tuple[str, ...] = ()


def read_checkpoint(text: str) -> Checkpoint:
    """The state dict that --weights `text` means: the only one in a file, one under a usual name, or FILE#NAME's.

    InputError if the file is missing, is no weights file, is a pickle that holds more than tensors and numbers, or has
    no such state dict.
    """
    path, asked = weights_file(text)
    if not path.is_file():
        raise InputError(f"--weights {path}: there is no such file")
    content = _read(path)
    found = dict(_state_dicts(content))
    if not found:
        raise InputError(f"--weights {path} holds {type(content).__name__}, not a state_dict of named tensors")
    if asked and asked not in found:
        raise InputError(f"--weights {path} has no state dict {asked!r}: {nearest(asked, filter(None, found))}")
    usual = [name for word in USUAL for name in found if name.rpartition(".")[2] == word]
    name = asked or ("" if "" in found else usual[0] if usual else next(iter(found)))
    if not asked and not usual and len(found) > 1:
        named = ", ".join(found)
        raise InputError(f"--weights {path} holds several state dicts ({named}); name one: --weights {path}#{name}")
    return Checkpoint(dict(found[name]), name, tuple(each for each in found if each != name))


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            return load_file(path)
        except SafetensorError as error:
            raise InputError(f"--weights {path} is not a safetensors file: {error}") from error
    if zipfile.is_zipfile(path) and any(name.endswith("/constants.pkl") for name in zipfile.ZipFile(path).namelist()):
        raise InputError(
            f"--weights {path} is a TorchScript archive, code with weights; save the weights alone: "
            f"torch.save(torch.jit.load({path.name!r}).state_dict(), FILE)"
        )
    try:
        with torch.serialization.safe_globals(_harmless()):
            return torch.load(path, map_location="cpu", weights_only=True)
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


def _harmless() -> list[Any]:
    """Types that training scripts store beside the weights and that run no code: their arguments, and numpy's numbers,
    which numpy 1 wrote under another name."""
    import numpy as np
    from numpy._core.multiarray import scalar

    numbers = [type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.int32, np.bool_)]
    return [Namespace, np.dtype, scalar, (scalar, "numpy.core.multiarray.scalar"), *numbers]


def _state_dicts(content: Any, name: str = "") -> Iterator[tuple[str, Mapping[str, Tensor]]]:
    """Mappings of names to tensors within the content, by their dotted names; "" for the content itself."""
    if not isinstance(content, Mapping) or not content or not all(isinstance(key, str) for key in content):
        return
    if all(isinstance(value, Tensor) for value in content.values()):
        yield name, content
        return
    for key, value in content.items():
        yield from _state_dicts(value, f"{name}.{key}".lstrip("."))


@dataclass(frozen=True)
class Fitted:
    """Weights under the names of a network, and the names of counters that it has no place for."""

    weights: dict[str, Tensor]
    left_out: tuple[str, ...] = ()


def fitted(weights: Mapping[str, Tensor], network: nn.Module) -> Fitted:
    """The weights under the names that `network` uses: a wrapper's part of a name is taken off where more names then
    fit, and nowhere else; counters that the network has no place for are left out."""
    own = network.state_dict().keys()
    prefixes = {"": None}
    for name in weights:
        parts = name.split(".")
        for count, part in enumerate(parts):
            if part not in WRAPPERS:
                break
            prefixes[f"{'.'.join(parts[: count + 1])}."] = None
    best = published_names(weights, network)
    for prefix in sorted(prefixes, key=len):
        for inside in (False, True):
            cut = {name.removeprefix(prefix): value for name, value in weights.items()}
            named = {INSIDE.sub("", name) if inside else name: value for name, value in cut.items()}
            named = published_names(named, network) if len(named) == len(weights) else {}
            if len(named.keys() & own) > len(best.keys() & own):
                best = named
    foreign = [name for name in best if name not in own and name.rpartition(".")[2] in COUNTERS]
    return Fitted({name: value for name, value in best.items() if name not in foreign}, tuple(foreign))


def published_names(weights: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Weights under the names that `network` uses, where torchvision's files differ from its modules.

    Auxiliary heads that the network goes without are left out, and DenseNet's "norm.1" becomes "norm1".
    """
    own = network.state_dict()
    named = {re.sub(r"\.(norm|conv)\.([12])\.", r".\1\2.", name): value for name, value in weights.items()}
    if not any(name in own for name in named.keys() - weights.keys()):
        named = dict(weights)
    return {name: value for name, value in named.items() if name in own or not name.startswith(SIDE_HEADS)}


def load_checkpoint(network: nn.Module, checkpoint: Checkpoint, where: str) -> tuple[str, ...]:
    """Puts the weights into `network`; notes on what the file holds beside them. InputError where they do not fit."""
    found, notes = fitted(checkpoint.weights, network), []
    load_into(network, found.weights, where)
    if found.left_out:
        kinds = dict.fromkeys(name.rpartition(".")[2] for name in found.left_out)
        notes.append(f"{where}: {len(found.left_out)} counters that are no weights are left out ({', '.join(kinds)})")
    if checkpoint.others:
        path = where.partition("#")[0]
        others = ", ".join(f"{path}#{name}" for name in checkpoint.others)
        notes.append(f"{path} holds several state dicts, and {checkpoint.name} is taken; for another pass {others}")
    return tuple(notes)


def outputs_of(weights: Mapping[str, Tensor], network: nn.Module) -> int | None:
    """Number of outputs that these weights of `network` have: rows of the last tensor, as the file holds it.

    Files do not keep the order of layers, so the network tells which one is last. None where the file lacks it.
    """
    last = next((name for name, value in reversed(network.state_dict().items()) if value.dim()), None)
    return weights[last].shape[0] if last is not None and last in weights and weights[last].dim() else None


def load_into(network: nn.Module, weights: Mapping[str, Tensor], where: str) -> None:
    """Puts `weights` into `network`; InputError names the first key that is missing, foreign or of another shape, or
    both numbers of classes where they differ. Counts of batches may be missing: files before torch 0.4.1 have none."""
    own = network.state_dict()
    classes, outputs = outputs_of(weights, network), outputs_of(own, network)
    given = {own[name].data_ptr() for name in weights if name in own}
    for name, value in own.items():
        if name not in weights:
            if name.rpartition(".")[2] == "num_batches_tracked":
                continue
            if value.numel() and value.data_ptr() in given:
                continue  # tied to one that is there
            raise InputError(f"{where} is of another network: it has no {name} ({_size(value)})")
        if weights[name].shape != value.shape:
            if classes != outputs and weights[name].shape == (classes, *value.shape[1:]):
                raise InputError(
                    f"{where} has {classes} classes and the network {outputs}: build it with {classes} outputs "
                    f"and pass --data of {classes} classes, or --train EPOCHS for those of another --data"
                )
            raise InputError(
                f"{where} is of another network: {name} is {_size(weights[name])} there and {_size(value)} here"
            )
    foreign = next((name for name in weights if name not in own), None)
    if foreign is not None:
        raise InputError(f"{where} is of another network: its {foreign} ({_size(weights[foreign])}) has no place here")
    network.load_state_dict(dict(weights), strict=False)


def _size(value: Tensor) -> str:
    return "x".join(map(str, value.shape)) or "one number"
