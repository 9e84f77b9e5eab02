"""Noise of quantization: how far each layer's outputs are from the float network's, and what each operator adds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, fx

from exporters.outputs import named_tensors

LAYERS = (torch.ops.aten.conv2d.default, torch.ops.aten.conv2d.padding, torch.ops.aten.linear.default)
WEIGHT = 1
"""The position of the weight among a layer's arguments."""
JUDGED = 64
"""Calibration images on which two ways of quantizing are compared."""


def parameter(graph: fx.GraphModule, node: object) -> Tensor:
    assert isinstance(node, fx.Node)
    owner, _, leaf = str(node.target).rpartition(".")
    return cast(Tensor, getattr(graph.get_submodule(owner), leaf).data)


def scaled_row(answer: object, reference: object | None = None) -> Tensor:
    """The outputs of a network as rows (N, numbers); where there are several, each divided by its deviation in
    `reference`, so that an output of small numbers counts as much as one of large ones."""
    tensors = list(named_tensors(answer).values())
    likes = tensors if reference is None else list(named_tensors(reference).values())
    if len(tensors) == 1 or reference is None:
        return torch.cat([tensor.flatten(1) for tensor in tensors], 1)
    return torch.cat(
        [one.flatten(1) / float(like.std().clamp(min=1e-30)) for one, like in zip(tensors, likes, strict=True)], 1
    )


@dataclass(frozen=True)
class OperatorNoise:
    """Noise power over signal power of the logits with an operator's weights alone in int8, and its output."""

    weights: float = 0.0
    output: float = 0.0


def operator_noise(floats: fx.GraphModule, quantized: fx.GraphModule, batch: Tensor) -> dict[str, OperatorNoise]:
    """The noise of each operator of `floats`, by the node's name, with the scales that `quantized` has for it.

    Each is quantized alone, in a network that is float32 otherwise, and only what reads it is computed anew.
    """
    with torch.no_grad():
        values: dict[fx.Node, Any] = {}

        class Values(fx.Interpreter):
            def run_node(self, n: fx.Node) -> Any:
                values[n] = super().run_node(n)
                return values[n]

        answer = Values(floats, garbage_collect_values=False).run(batch)
        wanted = scaled_row(answer, answer)
        signal = float(wanted.double().square().sum())
        order = list(floats.graph.nodes)

        def noise(node: fx.Node, value: Tensor) -> float:
            changed = {node}
            for each in order:
                if changed.intersection(each.all_input_nodes):
                    changed.add(each)
            kept = {each: known for each, known in values.items() if each not in changed} | {node: value}
            found = fx.Interpreter(floats).run(batch, initial_env=kept)
            return float((wanted - scaled_row(found, answer)).double().square().sum()) / max(signal, 1e-30)

        outputs, weights = _rounding(quantized)
        found = {}
        for node in order:
            if node.name not in outputs and node.name not in weights:
                continue
            weight, rounded = weights.get(node.name), outputs.get(node.name)
            found[node.name] = OperatorNoise(
                0.0 if weight is None else noise(cast(fx.Node, node.args[WEIGHT]), weight),
                0.0 if rounded is None else noise(node, rounded(values[node])),
            )
        return found


def _rounding(quantized: fx.GraphModule) -> tuple[Mapping[str, Callable[[Tensor], Tensor]], Mapping[str, Tensor]]:
    """Each operator's output as quantization makes it, and each layer's weights as they are in int8, by node."""
    outputs: dict[str, Callable[[Tensor], Tensor]] = {}
    weights: dict[str, Tensor] = {}
    for node in quantized.graph.nodes:
        target = str(node.target)
        if "quantize_per_tensor" in target and "dequantize" not in target:
            outputs.setdefault(node.args[0].name, partial(_rounded, node.target, node.args[1:]))
        elif node.target in LAYERS and "dequantize" in str(getattr(node.args[WEIGHT], "target", "")):
            source: Any = node.args[WEIGHT]
            constants = [parameter(quantized, each) if isinstance(each, fx.Node) else each for each in source.args]
            weights[node.name] = source.target(*constants)
    return outputs, weights


def _rounded(quantize: Any, arguments: tuple[Any, ...], value: Tensor) -> Tensor:
    dequantize: Any = torch.ops.quantized_decomposed.dequantize_per_tensor.default
    return cast(Tensor, dequantize(quantize(value, *arguments), *arguments))


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
