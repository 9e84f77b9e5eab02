"""Quantization-aware tuning: trainable() gives an int8 program's weights to be trained, trained() puts them back."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, fx, nn

from exporters.quantization.noise import LAYERS, WEIGHT, parameter
from exporters.quantization.passes import BIAS, bias_steps
from exporters.quantization.post_training import QuantizedProgram, Source, finished

PREFIX = "steps_of_"
"""The beginning of the names of parameters to be trained."""
_ROUND, _MULTIPLY = torch.fake_quantize_per_tensor_affine, torch.ops.aten.mul.Tensor
_BIAS_GRAIN = 1 / 16
"""The step that files hold a bias in, the scale of its products, as a fraction of the step that it is trained in: an
optimizer moves a bias and a weight by like counts of steps, and a bias has far more of its own."""


@dataclass(frozen=True)
class _Constant:
    """The weight or the bias of an int8 layer: a name, the node that the layer reads, what is stored, its values in
    steps of `size`, and the multiple of a step that files hold, with the least and greatest count of those."""

    name: str
    node: fx.Node
    stored: Tensor
    steps: Tensor
    size: Tensor
    grain: float
    ends: tuple[int, int]


def trainable(source: Source) -> nn.Module | None:
    """A module that computes what the quantized program does, on batches, with the weights and biases of its int8
    layers to be trained; None where the program takes one image at a time (a reshape may fix the batch).

    Weights and activations are rounded in each pass, and gradients pass through the rounding where no range is exceeded
    (Jacob et al. 2018, "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference",
    section 3). Scales stay as they were calibrated. Parameters are in steps of their scales, so that one learning rate
    fits channels of any range.
    """
    if len(source.batches[0]) == 1:
        return None
    graph = copy.deepcopy(source.graph)
    for each in list(_constants(graph, source.floats)):
        if each.name not in graph._parameters:
            graph.register_parameter(each.name, nn.Parameter(each.steps.clone()))
            graph.register_buffer(f"{each.name}_step", each.size.clone())
        with graph.graph.inserting_before(each.node):
            rounded = graph.graph.call_function(_ROUND, (graph.graph.get_attr(each.name), each.grain, 0, *each.ends))
            value = graph.graph.call_function(_MULTIPLY, (rounded, graph.graph.get_attr(f"{each.name}_step")))
        each.node.replace_all_uses_with(value)
    for node in list(graph.graph.nodes):
        if str(node.target).startswith("quantized_decomposed.quantize_per_tensor"):
            with graph.graph.inserting_before(node):
                rounded = graph.graph.call_function(_ROUND, node.args[:5])
            for reader in list(node.users):
                reader.replace_all_uses_with(rounded)
                graph.graph.erase_node(reader)
            graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    # of a class of its own: torch's captured graphs refuse train() and eval()
    module = fx.GraphModule(graph, graph.graph)
    for name, weight in module.named_parameters():
        weight.requires_grad_(name.startswith(PREFIX))
    return module


def trained(found: QuantizedProgram, weights: Mapping[str, Tensor], note: str) -> QuantizedProgram:
    """The quantized program with the state dict of a module that `trainable` gave, in whole steps."""
    assert found.source is not None
    graph = copy.deepcopy(found.source.graph)
    with torch.no_grad():
        for each in list(_constants(graph, found.source.floats)):
            count = (weights[each.name] / each.grain).round().clamp(*each.ends)
            each.stored.copy_(count * each.grain * each.size if each.stored.is_floating_point() else count)
    return finished(replace(found.source, graph=graph), (*found.notes, note))


def _constants(graph: fx.GraphModule, floats: fx.GraphModule) -> Iterator[_Constant]:
    """The weights and biases of the int8 layers; what two layers share comes twice, under one name.

    Weights begin where they were before they were rounded: from whole steps all would turn over at once.
    """
    before = {node.name: parameter(floats, node.args[WEIGHT]) for node in floats.graph.nodes if node.target in LAYERS}
    for node in graph.graph.nodes:
        sizes = bias_steps(graph, node)
        if sizes is None:
            continue
        weight, bias = (*node.args, None)[WEIGHT : BIAS + 1]
        codes, scales, _, axis, low, high, _ = weight.args
        values = parameter(graph, codes)
        scale = parameter(graph, scales).view([-1 if each == axis else 1 for each in range(values.ndim)])
        steps = (before[node.name] / scale).clamp(low, high)
        yield _Constant(_name(codes), weight, values, steps, scale, 1.0, (low, high))
        if isinstance(bias, fx.Node) and bias.op == "get_attr":
            stored, size = parameter(graph, bias), sizes / _BIAS_GRAIN
            yield _Constant(_name(bias), bias, stored, stored / size, size, _BIAS_GRAIN, (-(2**30), 2**30))


def _name(constant: fx.Node) -> str:
    return PREFIX + str(constant.target).replace(".", "_")
