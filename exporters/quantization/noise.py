"""Noise of quantization, layer by layer: how far each layer's outputs are from the float network's."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from torch import Tensor, fx

LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding, torch.ops.aten.linear.default)
WEIGHT = 1
"""The position of the weight among a layer's arguments."""


def parameter(graph: fx.GraphModule, node: object) -> Tensor:
    assert isinstance(node, fx.Node)
    owner, _, leaf = str(node.target).rpartition(".")
    return cast(Tensor, getattr(graph.get_submodule(owner), leaf).data)


def layer_noise(floats: fx.GraphModule, quantized: fx.GraphModule, batch: Tensor) -> dict[str, float]:
    """The signal-to-noise ratio of each layer's outputs in dB, by the node's name."""
    outputs: dict[str, Tensor] = {}
    found: dict[str, float] = {}

    class Outputs(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.target in LAYERS:
                outputs[n.name] = value
            return value

    class Noise(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            wanted = outputs.pop(n.name, None)
            if wanted is not None:
                found[n.name] = decibels(float(wanted.square().sum()), float((wanted - value).square().sum()))
            return value

    Outputs(floats).run(batch)
    Noise(quantized).run(batch)
    return found


def decibels(signal: float, noise: float) -> float:
    return 10 * math.log10(max(signal, 1e-30) / max(noise, 1e-30))
