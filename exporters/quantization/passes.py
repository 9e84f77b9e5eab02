"""Passes over the graph of a network that is quantized: before it is calibrated, and after."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

from exporters.graph_passes import zero_paddings
from exporters.quantization.noise import JUDGED, LAYERS, WEIGHT, parameter

_ATEN = torch.ops.aten
_RELU = _ATEN.relu.default
BIAS, _CONV_GROUPS = 2, 6  # argument positions
_QUANTIZE = "quantized_decomposed.quantize_per_tensor.default"


def relu6_as_relu(graph: fx.GraphModule) -> dict[str, float]:
    """Turns every ReLU6 into a ReLU; the upper ends by the node's name, for the observers."""
    capped = {}
    for node in graph.graph.nodes:
        if node.target in (_ATEN.hardtanh.default, _ATEN.clamp.default):
            low, high = (*node.args[1:3], None, None)[:2]
            if low != 0 or not isinstance(high, int | float) or high <= 0:
                continue
            capped[node.name] = float(high)
        elif node.target is _ATEN.relu6.default:
            capped[node.name] = 6.0
        else:
            continue
        node.target, node.args = _RELU, (node.args[0],)
    graph.recompile()
    return capped


def balance(graph: fx.GraphModule, batches: Sequence[Tensor], capped: Mapping[str, float]) -> int:
    """Scales the channels between neighbouring layers so that all have a like range; gives the count of pairs.

    A channel scaled by s in the first layer is divided by s in the second: the network computes the same. After the
    scaling the largest activation of a channel is the geometric mean of what it was and of the largest weight that
    reads it; where the second layer is depthwise its weights have a scale for each channel anyway, and all channels
    get the same range.
    """
    pairs = [(node, after) for node in graph.graph.nodes if (after := _next_layer(node, capped)) is not None]
    ranges = _channel_ranges(graph, [first for first, _ in pairs], batches)
    for first, second in pairs:
        reach = ranges[first.name].clamp_min(1e-8)
        one, two = parameter(graph, first.args[WEIGHT]), parameter(graph, second.args[WEIGHT])
        if _groups(second) == 1:
            reads = two.abs().transpose(0, 1).flatten(1).amax(1).clamp_min(1e-8)
            scale = (reach * reads).sqrt() / reach
        else:
            scale = reach.mean() / reach
        scale = scale.clamp(1e-3, 1e3)
        one.mul_(scale.view(-1, *[1] * (one.ndim - 1)))
        bias = bias_of(graph, first)
        if bias is not None:
            bias.mul_(scale)
        two.div_(scale.view(1, -1, *[1] * (two.ndim - 2)) if _groups(second) == 1 else scale.view(-1, 1, 1, 1))
    return len(pairs)


def _next_layer(node: fx.Node, capped: Mapping[str, float]) -> fx.Node | None:
    """The layer that alone reads this one, directly or through a ReLU, and can take its channels' scales."""
    if node.target not in LAYERS or len(node.users) != 1:
        return None
    (reader,) = node.users
    if reader.target is _RELU:
        if reader.name in capped or len(reader.users) != 1:
            return None
        (reader,) = reader.users
    if reader.target not in LAYERS or reader.args[0] not in (node, *node.users):
        return None
    if reader.target is _ATEN.linear.default and (node.target is not reader.target or node.meta["val"].ndim != 2):
        return None
    constants = [layer.args[WEIGHT] for layer in (node, reader)]
    if not all(isinstance(c, fx.Node) and c.op == "get_attr" and len(c.users) == 1 for c in constants):
        return None
    channels = node.meta["val"].shape[1]
    return reader if _groups(reader) in (1, channels) else None


def _channel_ranges(graph: fx.GraphModule, nodes: Sequence[fx.Node], batches: Sequence[Tensor]) -> dict[str, Tensor]:
    wanted = {node.name for node in nodes}
    ranges: dict[str, Tensor] = {}

    class Ranges(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.name in wanted:
                reach = value.abs().transpose(0, 1).flatten(1).amax(1)
                ranges[n.name] = torch.maximum(ranges.get(n.name, reach), reach)
            return value

    for batch in batches:
        Ranges(graph).run(batch)
    return ranges


def restore_relu6(graph: fx.GraphModule, capped: Mapping[str, float]) -> None:
    """Gives a capped ReLU its clamp back where it is not quantized at its output."""
    for node in graph.graph.nodes:
        if node.name in capped and any(str(user.target) != _QUANTIZE for user in node.users):
            node.target, node.args = _ATEN.hardtanh.default, (node.args[0], 0.0, capped[node.name])
    graph.recompile()


def keep_ranges_of_paddings(graph: fx.GraphModule) -> None:
    """Quantizes what is padded with zeros by the range of what it was before: zero is in every range, so that int8
    numbers are padded and none is computed anew."""
    for pad in zero_paddings(graph.graph):
        source = pad.args[0]
        if not isinstance(source, fx.Node) or "dequantize_per_tensor" not in str(source.target):
            continue
        for quantized in [user for user in pad.users if str(user.target) == _QUANTIZE]:
            for node in (quantized, *quantized.users):
                node.args = (node.args[0], *source.args[1:])
    graph.recompile()


def drop_clamped_relus(graph: fx.GraphModule) -> int:
    """Removes every ReLU whose readers quantize to a range that begins at zero; gives the count.

    Quantization clamps there itself, and a runtime fuses a layer with what quantizes it more often than through a ReLU.
    """
    count = 0
    for node in graph.graph.nodes:
        if (
            node.target is _RELU
            and node.users
            and all(str(user.target) == _QUANTIZE and user.args[2] == user.args[3] for user in node.users)
        ):
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
            count += 1
    graph.recompile()
    return count


def correct_biases(floats: fx.GraphModule, quantized: fx.GraphModule, batches: Sequence[Tensor]) -> int:
    """Adds to each bias what quantization takes from the mean of its channel, in the order in which layers run; gives
    the count of layers. Each layer sees the inputs that the corrected layers before it give."""
    if len(batches[0]) == 1:  # the mean of one image is not that of the channel
        return 0
    batch = torch.cat(list(batches))[:JUDGED]
    means: dict[str, Tensor] = {}

    class Means(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if n.target in LAYERS:
                means[n.name] = _channel_mean(value)
            return value

    Means(floats).run(batch)
    count = 0

    class Corrected(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            nonlocal count
            value = super().run_node(n)
            bias = bias_of(quantized, n) if n.target in LAYERS and n.name in means else None
            if bias is not None:
                missing = means[n.name] - _channel_mean(value)
                bias.add_(missing)
                value = value + (missing if value.ndim == 2 else missing.view(1, -1, 1, 1))
                count += 1
            return value

    Corrected(quantized).run(batch)
    return count


def round_biases(graph: fx.GraphModule) -> None:
    """Rounds the bias of each int8 layer to what a file holds: whole steps of the scale of its products.

    Else the program and the files differ by up to half a step in every channel, which a deep network carries on.
    """
    for node in graph.graph.nodes:
        bias, step = bias_of(graph, node) if node.target in LAYERS else None, bias_steps(graph, node)
        if bias is not None and step is not None:
            bias.copy_((bias / step).round() * step)


def bias_steps(graph: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """The scale of the products of an int8 layer, by output channel; None for any other operator."""
    sources = node.args[:2] if node.target in LAYERS else ()
    if not sources or not all("dequantize" in str(getattr(source, "target", "")) for source in sources):
        return None
    arguments: list[Any] = [source.args[1] for source in sources if isinstance(source, fx.Node)]
    return parameter(graph, arguments[1]) * float(arguments[0])


def _channel_mean(value: Tensor) -> Tensor:
    return value.mean(0) if value.ndim == 2 else value.transpose(0, 1).flatten(1).mean(1)


def make_contiguous(graph: fx.GraphModule) -> None:
    """Stores every constant row by row: Core ML's converter takes no other order."""
    for tensor in (*graph.parameters(), *graph.buffers()):
        tensor.data = tensor.data.contiguous()


def name_weights(graph: fx.GraphModule, layers: Mapping[str, str]) -> None:
    """Gives the weights of int8 layers, and their scales, the names of the layers (`layers`: by their nodes).

    Quantization leaves numbered ones, by which nobody finds a layer in a file.
    """
    renamed: dict[str, str] = {}
    for node in graph.graph.nodes:
        weight = node.args[WEIGHT] if node.name in layers else None
        if not isinstance(weight, fx.Node) or "dequantize" not in str(weight.target):
            continue
        for constant, leaf in zip(weight.args, ("weight", "weight_scale", "weight_zero_point"), strict=False):
            if not isinstance(constant, fx.Node) or constant.op != "get_attr":
                continue
            before, name = str(constant.target), f"{layers[node.name]}.{leaf}".lstrip(".")
            owner: nn.Module = graph
            for part in name.split(".")[:-1]:
                if part not in dict(owner.named_children()):
                    owner.add_module(part, nn.Module())
                owner = owner.get_submodule(part)
            if before not in renamed and leaf not in {each for each, _ in owner.named_buffers(recurse=False)}:
                owner.register_buffer(leaf, parameter(graph, constant))
                renamed[before] = name
            constant.target = renamed.get(before, before)
    graph.recompile()


def bias_of(graph: fx.GraphModule, layer: fx.Node) -> Tensor | None:
    """The bias of a layer, to be changed in place; None where it has none, or another layer reads it too."""
    node = (*layer.args, None, None, None)[BIAS]
    if not isinstance(node, fx.Node) or node.op != "get_attr" or len(node.users) != 1:
        return None
    return parameter(graph, node)


def _groups(layer: fx.Node) -> int:
    groups = layer.args[_CONV_GROUPS] if len(layer.args) > _CONV_GROUPS else 1
    assert isinstance(groups, int)
    return groups
