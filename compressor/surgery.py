"""Puts the factors of a plan in place: apply(), compress(); and writes and reads the weights that come out."""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from compressor.calibration import Moments
from compressor.decompositions.methods import METHODS, Decompositions, Fits, check_rank, decomposition
from compressor.equivalence import check_factors
from compressor.layer_shape import PlanError
from compressor.layers import Layer, find_layer, layer_shape, put_factors
from compressor.plan import LayerPlan, Plan
from compressor.threads import in_threads


class WeightsError(ValueError):
    """A weights file that is not one, or that does not fit the network; the text names the first difference."""


@dataclass(frozen=True)
class Footprint:
    """Parameters, and bytes of parameters and buffers, each tensor counted once."""

    parameters: int
    bytes: int


@dataclass(frozen=True)
class CompressedModel:
    """A network with a plan's factors in place, and its footprint before and after."""

    module: nn.Module
    plan: Plan
    before: Footprint
    after: Footprint


def compress(
    network: nn.Module,
    plan: Plan,
    decompositions: Decompositions | None = None,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _name: None,
    moments: Mapping[str, Moments] | None = None,
    images: Tensor | None = None,
) -> CompressedModel:
    """A copy of `network` with the plan's factors in place; the original stays as it is.

    Without `decompositions` those that `make_plan` made the plan from are taken, where the layers are still the same
    with the same weights; else those given are, and new ones added, with the plan's seed. `progress` hears how many
    layers of how many are done, and the name of the last. With `moments` of a layer's inputs (see
    `calibration.collect`) new decompositions are fitted to its outputs. With `images` the whole network is then held
    against the original with the weights that the factors reconstruct. PlanError as from `apply`, or if these differ.
    """
    if decompositions is None and isinstance(plan.fits, Fits):
        decompositions = plan.fits.of(network, plan.seed, moments)
    module = copy.deepcopy(network)
    apply(module, plan.layers, decompositions, plan.seed, progress, moments)
    if images is not None:
        check_factors(network, module, [row.name for row in plan.factored], images)
    return describe(module, plan, network)


def describe(module: nn.Module, plan: Plan, original: nn.Module) -> CompressedModel:
    """`module`, which came from `original` by `plan`, as a CompressedModel with both footprints."""
    return CompressedModel(module, plan, footprint(original), footprint(module))


def footprint(module: nn.Module) -> Footprint:
    parameters = list(module.parameters())
    stored = sum(tensor.numel() * tensor.element_size() for tensor in [*parameters, *module.buffers()])
    return Footprint(sum(parameter.numel() for parameter in parameters), stored)


def apply(
    network: nn.Module,
    layers: Iterable[LayerPlan],
    decompositions: Decompositions | None = None,
    seed: int = 0,
    progress: Callable[[int, int, str], None] = lambda _done, _total, _name: None,
    moments: Mapping[str, Moments] | None = None,
) -> None:
    """Makes each layer of `network` that the plan factors compute its outputs by its factors, in place.

    All rows are checked before the first is replaced. PlanError, with the cure, for a name that the network lacks, a
    weight of another shape, a method that cannot express the layer, a rank that does not fit.
    """
    ready: Decompositions = {} if decompositions is None else decompositions
    rows = _checked(network, layers)

    def factors(row: LayerPlan) -> nn.Sequential:
        inputs = (moments or {}).get(row.name)
        return decomposition(ready, network, row.name, row.method, seed, inputs).factors(row.rank)

    # The large layers first, or one of them would keep a single thread busy at the end.
    largest_first = sorted((row for row, _ in rows), key=lambda row: -prod(row.weight))
    made: dict[str, nn.Sequential] = {}
    for done, (row, own) in enumerate(in_threads(factors, largest_first), 1):
        progress(done, len(rows), row.name)
        made[row.name] = own
    for row, layer in rows:
        put_factors(layer, made[row.name])


def skeleton(network: nn.Module, layers: Iterable[LayerPlan]) -> None:
    """Like `apply`, but computes nothing: the factors are zeros, for weights that are loaded next."""
    for row, layer in _checked(network, layers):
        put_factors(layer, METHODS[row.method].layers(layer, row.rank))


def save_weights(module: nn.Module, path: Path) -> None:
    """Writes all weights and buffers to a safetensors file, shared tensors once; a reader never sees half a file."""
    write_tensors(unique_state(module), path)


def write_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Writes tensors to a safetensors file under a temporary name, then under its own."""
    whole = {name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        save_file(whole, temporary, metadata)
        temporary.replace(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} cannot be written: {error}; free some room, or write to another place") from error
    finally:
        temporary.unlink(missing_ok=True)


def load_weights(module: nn.Module, path: Path) -> None:
    """Reads into `module` what `save_weights` wrote; names and shapes must agree, or nothing is changed.

    WeightsError names the first tensor that differs with both shapes. OSError where there is no file.
    """
    try:
        stored = load_file(path)
    except SafetensorError as error:
        raise WeightsError(f"{path} is not a safetensors file: {error}; write it again") from error
    own = unique_state(module)
    check_fit(own, stored, path)
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(stored[name])


def check_fit(own: Mapping[str, Tensor], stored: Mapping[str, Tensor], path: Path) -> None:
    """Raises WeightsError for the first tensor that differs in name, shape or type from the network's `own`."""
    for name in [*own, *(name for name in stored if name not in own)]:
        here, there = (_sizes(tensors.get(name)) for tensors in (own, stored))
        if here != there:
            raise WeightsError(
                f"{path} does not fit the network: {name} is {there} in the file and {here} in the network; "
                "load it with the plan and the network that it was written with"
            )


def _checked(network: nn.Module, layers: Iterable[LayerPlan]) -> list[tuple[LayerPlan, Layer]]:
    """The rows that factor a layer, with the layer, all of them checked; kept rows only have to name a layer."""
    found: dict[int, str] = {}
    rows = []
    for row in layers:
        layer = find_layer(network, row.name)
        own = tuple(layer.weight.shape)
        if row.weight != own:
            raise PlanError(
                f"the plan was made for {row.name} of {'x'.join(map(str, row.weight))}, this network has "
                f"{'x'.join(map(str, own))}; make a plan for this network"
            )
        if not row.kept:
            check_rank(row.name, own, layer_shape(layer), row.method, row.rank)
        twin = found.setdefault(id(layer), row.name)
        if twin != row.name:
            raise PlanError(f"{twin} and {row.name} are one module under two names; leave one of them in the plan")
        if not row.kept:
            rows.append((row, layer))
    return rows


def unique_state(module: nn.Module) -> dict[str, Tensor]:
    """State by name; of several names for the same memory seen the same way, the first."""
    seen: dict[tuple[object, ...], str] = {}
    state: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        key = tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride()
        if tensor.numel() == 0 or seen.setdefault(key, name) == name:
            state[name] = tensor
    return state


def _sizes(tensor: Tensor | None) -> str:
    if tensor is None:
        return "missing"
    return f"{'x'.join(map(str, tensor.shape)) or 'one number'} of {str(tensor.dtype).removeprefix('torch.')}"
