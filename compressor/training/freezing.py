"""Trainable layers of a step: all, the new factors, or them and all that runs after them."""

from __future__ import annotations

from collections.abc import Container, Sequence
from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn

from compressor.layers import evaluating


def frozen_modules(network: nn.Module, new: Sequence[str], choice: str, images: Tensor) -> tuple[nn.Module, ...]:
    """Modules with parameters or statistics of their own that a step, which factorized the layers `new`, leaves as
    they are.

    "downstream" goes by the order in which modules first run on `images`; one that never runs counts as upstream.
    Where nothing is factorized, all are trained.
    """
    if choice == "all" or not new:
        return ()
    holders = {
        name: module
        for name, module in network.named_modules()
        if next(module.parameters(recurse=False), None) is not None
        or next(module.buffers(recurse=False), None) is not None
    }
    fresh = {name for name in holders if any(name == layer or name.startswith(f"{layer}.") for layer in new)}
    if choice == "downstream":
        order = run_order(network, holders, images)
        first = min((order.index(name) for name in fresh if name in order), default=len(order))
        fresh |= set(order[first:])
    return tuple(module for name, module in holders.items() if name not in fresh)


def run_order(network: nn.Module, modules: dict[str, nn.Module], images: Tensor) -> list[str]:
    """The names of `modules` in the order in which they first run, those that never run left out."""
    order: dict[str, None] = {}

    def note(name: str, _module: nn.Module, _inputs: object) -> None:
        order.setdefault(name)

    with evaluating(network), torch.no_grad(), ExitStack() as hooks:
        for name, module in modules.items():
            hooks.callback(module.register_forward_pre_hook(partial(note, name)).remove)
        network(images)
    return list(order)


def trainable(network: nn.Module, frozen: Sequence[nn.Module], fixed: Container[int]) -> list[nn.Parameter]:
    """The parameters that are trained; those of the frozen modules no longer ask for gradients.

    `fixed` holds the ids of those that the network itself does not train.
    """
    held = {id(value) for module in frozen for value in module.parameters(recurse=False)}
    for value in network.parameters():
        value.requires_grad_(id(value) not in held and id(value) not in fixed)
    return [value for value in network.parameters() if value.requires_grad]


def hold_still(frozen: Sequence[nn.Module]) -> None:
    """Frozen modules run as in evaluation, so that their statistics stay too; modules inside them as they were."""
    for module in frozen:
        module.training = False
