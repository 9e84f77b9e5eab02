"""Holds networks against each other: an image against itself, factors against the weight that they reconstruct.

A network's forward pass is a user's code. Where it draws at random, mixes the images of a batch, or asks something of a
layer that factors answer differently, every later figure would be wrong without a word.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils._pytree import tree_leaves

from compressor.layer_shape import PlanError
from compressor.layers import evaluating, factors_in_place, fill, find_layer, like, put_factors
from compressor.outputs import tensors_of

IMAGES = 2
"""Images on which networks are compared."""
SAME = 1e-4
"""Outputs that differ by less than this fraction of the largest are one computation: float32 rounds by 1e-6 of it."""
SAME_FACTORS = 1e-2
"""The same for factors and their product, which round differently in every layer, in standard deviations."""
DIFFERS = "with factors in its place the network computes something else than with the weight that they reconstruct"


class FactorsDifferError(PlanError):
    """Factors that do something else in the network than the weights that they reconstruct; `layers` are theirs."""

    def __init__(self, text: str, layers: tuple[str, ...]) -> None:
        super().__init__(text)
        self.layers = layers


def check_deterministic(network: nn.Module, images: Tensor) -> None:
    """Raises PlanError unless the network gives an image the same outputs in every pass, batch and copy of itself."""
    images, modules = images[:IMAGES], dict(network.named_modules())
    with evaluating(network), torch.no_grad():
        try:
            first, seen = _traced(network, modules, images)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise PlanError(
                f"the network does not take {len(images)} images at once: {reason}; a batch of any size must pass "
                "through its forward"
            ) from error
        again, seen_again = _traced(network, modules, images)
        if not _same(first, again):
            # the innermost module that read the same and gave something else is the first to end
            found = (name for (name, *now), (_, *then) in zip(seen, seen_again, strict=False)
                     if now[0] == then[0] and now[1] != then[1])  # fmt: skip
            name = next(found, "")
            where = f"{name} ({type(modules[name]).__name__})" if name else f"its forward ({type(network).__name__})"
            raise PlanError(
                f"the network gives the same images other outputs in a second pass: {where} draws at random or changes "
                "itself in evaluation mode; functional.dropout drops unless it is called with training=self.training"
            )
        turned = images.flip(-1)  # other images: what was kept of these is in the copy too
        if not _same(_flat(copy.deepcopy(network)(turned)), _flat(network(turned))):
            raise PlanError(
                "a copy of the network gives other outputs than the network: a function in it, such as a hook, holds "
                "on to the object that it was made in; make it a method, or write to the layer that it is given"
            )
        singly = torch.cat([_flat(network(images[place : place + 1])) for place in range(len(images))])
    if len(images) > 1 and not _same(first, singly):
        norms = [name for name, own in modules.items() if isinstance(own, _BatchNorm) and own.running_mean is None]
        where = f" ({norms[0]} normalizes by its batch: track_running_stats=False)" if norms else ""
        raise PlanError(
            f"the network's outputs for an image depend on the other images of its batch{where}, and an exported file "
            "takes one image: it would have another accuracy than the one measured here; give BatchNorm running "
            "statistics, or take a norm that has none, such as GroupNorm"
        )


def layers_that_differ(network: nn.Module, images: Tensor, names: Collection[str]) -> dict[str, str]:
    """The layers among `names` whose factors the network would not run as it runs their weights, with the reason.

    Each is factored into one factor, its weight changed a little, and the original gets the same weights.
    """

    def differ(some: Collection[str]) -> bool:
        changed, weights = copy.deepcopy(network), dict[str, Tensor]()
        for name in some:
            layer = find_layer(changed, name)
            factor = like(layer)
            fill(factor, layer.weight.detach() + 0.1 * layer.weight.detach().roll(1, 0))
            put_factors(layer, nn.Sequential(factor))
            weights[f"{name}.weight"] = factor.weight
        try:
            return not _same(
                _flat(functional_call(network, weights, (images[:IMAGES],))), _flat(changed(images[:IMAGES]))
            )
        except Exception:  # the user's code may raise anything at a layer that is not as it expects
            return True

    with evaluating(network), torch.no_grad():
        if not names or not differ(names):
            return {}
        alone = [name for name in names if differ([name])]
        others = [name for name in names if name not in alone]
        if others and differ(others):
            alone = [*names]
    return dict.fromkeys(alone, DIFFERS)


def check_factors(before: nn.Module, after: nn.Module, names: Collection[str], images: Tensor) -> None:
    """Raises FactorsDifferError with the layers whose factors in `after`, a copy of `before` in which all of `names`
    are factored, do something else in the network than the weights that they reconstruct."""
    images = images[:IMAGES]
    weights: dict[str, dict[str, Tensor]] = {}
    for name in names:
        layer: Any = after.get_submodule(name)
        weights[name] = {f"{name}.weight": layer.weight.detach()}
        if layer.bias is not None:
            weights[name][f"{name}.bias"] = layer.bias.detach()

    def apart(factored: nn.Module, some: Mapping[str, Tensor]) -> float:
        """Largest difference of the outputs, in standard deviations."""
        wanted = _flat(functional_call(before, dict(some), (images,)))
        try:
            found = _flat(factored(images))
        except Exception:  # likewise
            return float("inf")
        if found.shape != wanted.shape:
            return float("inf")
        scale = max(float(wanted.std()), SAME * float(wanted.abs().max()), torch.finfo(wanted.dtype).tiny)
        return float((found - wanted).abs().max()) / scale

    with evaluating(before), evaluating(after), torch.no_grad():
        most = apart(after, {key: value for own in weights.values() for key, value in own.items()})
        if most <= SAME_FACTORS:
            return
        alone, single = [], copy.deepcopy(before)
        for name, own in weights.items():
            factors = nn.Sequential(*after.get_submodule(name).children())
            with factors_in_place(find_layer(single, name), factors):
                if not apart(single, own) <= SAME_FACTORS:
                    alone.append(name)
    layers = tuple(alone or names)
    found = ",".join(layers)
    raise FactorsDifferError(
        f"{found}: {DIFFERS}, by up to {most:.2g} standard deviations: its forward asks something of the layer that "
        f"factors answer differently; pass --keep-layers {found}",
        layers,
    )


def _traced(
    network: nn.Module, modules: Mapping[str, nn.Module], images: Tensor
) -> tuple[Tensor, list[tuple[str, float, float]]]:
    """The outputs, and for each module, in the order in which they end, sums over what it read and what it gave."""
    seen: list[tuple[str, float, float]] = []
    hooks = [
        module.register_forward_hook(
            lambda _module, inputs, outputs, name=name: seen.append((name, _sum(inputs), _sum(outputs)))
        )
        for name, module in modules.items()
    ]
    try:
        return _flat(network(images)), seen
    finally:
        for hook in hooks:
            hook.remove()


def _sum(values: object) -> float:
    return sum(float(value.double().sum()) for value in tree_leaves(values) if isinstance(value, Tensor))


def _flat(outputs: object) -> Tensor:
    """All numbers that a network gives, image by image; NaN, which equals nothing, as 0."""
    tensors = [value.detach().float().nan_to_num() for value in tensors_of(outputs)]
    if len({len(value) if value.dim() else -1 for value in tensors}) == 1 and tensors[0].dim():
        return torch.cat([value.flatten(1) if value.dim() > 1 else value[:, None] for value in tensors], 1).flatten()
    return torch.cat([value.flatten() for value in tensors])


def _same(one: Tensor, other: Tensor) -> bool:
    if one.shape != other.shape:
        return False
    return bool((one - other).abs().max() <= SAME * one.abs().max())
