"""quantize(): a captured program -> the same program with int8 weights and activations, calibrated on real images.

Post-training quantization by torchao's PT2E flow with ExecuTorch's XNNPACK quantizer: weights symmetric for each output
channel, activations affine for each tensor. One quantized graph serves every format, so that all files share scales.
What is added to the plain flow, each because it was measured to lose less:

- ranges are balanced between neighbouring layers that nothing but a ReLU separates (Nagel et al. 2019,
  "Data-Free Quantization Through Weight Equalization and Bias Correction", section 4.1): a layer's factors above all;
- the range of an activation is the one of least squared error on the calibration images, not the extremes;
- a ReLU6 is calibrated as a ReLU whose range ends at 6, for the clamp is what quantization does at its upper end;
- biases are corrected for the mean that quantization shifts, layer by layer (the same paper, section 4.2).
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from exporters.artifact import FEWEST_IMAGES, ExportError, LayerType
from exporters.graph_passes import drop_unused_weights, make_functional, write_out_silus
from exporters.quantization.noise import LAYERS, WEIGHT, OperatorNoise, decibels, layer_noise, operator_noise, parameter
from exporters.toolkits import quiet, versions

if TYPE_CHECKING:
    from numpy.typing import NDArray

REQUIRES = ("executorch", "torch", "torchao")

_ATEN = torch.ops.aten
_RELU = _ATEN.relu.default
_BIAS, _CONV_GROUPS = 2, 6  # argument positions


@dataclass(frozen=True)
class Calibration:
    """Settings of a quantization. Each of the three switches allows a step; a step is kept where it loses less.

    `batch` images go through the network at a time where it takes more than one. `least_error` tries ranges of least
    squared error beside the extremes; at most `samples` values of an activation in a batch are kept for that.
    """

    batch: int = 32
    balance: bool = True
    least_error: bool = True
    correct_bias: bool = True
    samples: int = 4096


PLAIN = Calibration(balance=False, least_error=False, correct_bias=False)
"""The flow as toolkits give it with one flag: extremes, nothing balanced, nothing corrected."""

JUDGED = 64
"""Calibration images on which two ways of quantizing are compared."""
EXAMINED = 16
"""Calibration images on which the noise of each operator is worked out."""


@dataclass(frozen=True)
class QuantizedProgram:
    """An int8 program for every format, and how far its logits are from those of the float program.

    `signal_to_noise` is 10 log10 of the logits' power over that of their error, in dB, on `images` calibration images.
    `operator_noise()` works out what each operator alone adds to that error, by its node in the float32 program.
    """

    program: ExportedProgram
    layers: tuple[LayerType, ...]
    images: int
    signal_to_noise: float
    notes: tuple[str, ...] = field(default=())
    operator_noise: Callable[[], dict[str, OperatorNoise]] = field(default=dict, compare=False)


def quantize(
    program: ExportedProgram,
    images: NDArray[Any],
    calibration: Calibration | None = None,
    floats: Mapping[str, str] | None = None,
) -> QuantizedProgram:
    """`program` (of `capture`) in int8, calibrated on `images`, float32 (N, C, H, W).

    Operators that are in `floats`, by their nodes' names, stay in float32 for the reason given there; an int8 operator
    next to them still gives or reads rounded numbers. Raises ExportError for fewer than FEWEST_IMAGES images, images
    that the program does not take, values that are not finite, or an operator that is not there.
    """
    versions(REQUIRES)
    settings, kept = calibration or Calibration(), dict(floats or {})
    batches = _batches(program, images, settings.batch)
    with quiet(), torch.no_grad():
        reference = _graph(program)
        graph = copy.deepcopy(reference)
        capped = _relu6_as_relu(graph)
        if settings.balance:
            _balance(graph, batches, capped)
        names = _layer_names(graph)
        unknown = sorted(kept.keys() - {node.name for node in graph.graph.nodes})
        if unknown:
            raise ExportError(f"there is no operator {unknown[0]!r} to keep in float32; layers are {_some(names)}")
        balanced = copy.deepcopy(graph)
        _restore_relu6(balanced, capped)
        prepared = _observed(graph, batches, settings, capped, kept)
        judge = _Judge(reference, batches)
        best, noise, ranges = None, -math.inf, ""
        for least_error in (False, True) if settings.least_error else (False,):
            candidate = _converted(copy.deepcopy(prepared), least_error, capped)
            _round_biases(candidate)
            found = judge.signal_to_noise(candidate)
            if found > noise:
                best, noise, ranges = candidate, found, "least squared error" if least_error else "extremes"
        assert best is not None
        uncorrected, examined = best, torch.cat(batches)[:EXAMINED] if len(batches[0]) > 1 else batches[0]
        notes = [f"ranges of activations: {ranges}"]
        if settings.correct_bias:
            corrected = copy.deepcopy(best)
            _correct_biases(balanced, corrected, batches)
            _round_biases(corrected)
            found = judge.signal_to_noise(corrected)
            if found > noise:
                best, noise = corrected, found
                notes.append("biases corrected")
        noise_of = layer_noise(balanced, best, batches[0])
        _drop_clamped_relus(best)
        _make_contiguous(best)
        drop_unused_weights(best)
        example = torch.zeros(1, *images.shape[1:])
        quantized = torch.export.export(best, (example,))
    types = tuple(
        replace(_layer_type(name, node, best, kept), signal_to_noise=noise_of.get(node)) for node, name in names.items()
    )
    return QuantizedProgram(
        quantized,
        types,
        len(images),
        noise,
        tuple(notes),
        operator_noise=lambda: operator_noise(balanced, uncorrected, examined),
    )


def _graph(program: ExportedProgram) -> fx.GraphModule:
    graph = program.module(check_guards=False)
    assert isinstance(graph, fx.GraphModule)
    graph._forward_pre_hooks.clear()  # the check that a batch is as captured: one image
    make_functional(graph)
    write_out_silus(graph)
    return graph


def _batches(program: ExportedProgram, images: NDArray[Any], size: int) -> list[Tensor]:
    """The images in batches, as large as the program takes: a captured reshape may fix the batch to one image."""
    if len(images) < FEWEST_IMAGES:
        raise ExportError(
            f"int8 is calibrated on {FEWEST_IMAGES} images at least, and there are {len(images)}; pass --data, or a "
            "folder of pictures"
        )
    given = torch.from_numpy(images)
    graph = _graph(program)
    with torch.no_grad():
        single = torch.cat([graph(image[None]) for image in given[:2]])
        if not torch.isfinite(single).all():
            raise ExportError(
                "the network gives logits that are not finite on calibration images; nothing is quantized"
            )
        try:
            together = graph(given[:2])
            whole = together.shape == single.shape and torch.allclose(together, single, rtol=1e-3, atol=1e-3)
        except RuntimeError:  # a shape that does not fit, in whatever operator it is met
            whole = False
    return list(torch.split(given, size if whole else 1))


# ---- passes before calibration ---------------------------------------------------------------------------------------


def _relu6_as_relu(graph: fx.GraphModule) -> dict[str, float]:
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


def _balance(graph: fx.GraphModule, batches: Sequence[Tensor], capped: Mapping[str, float]) -> int:
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
        bias = _bias(graph, first)
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


# ---- calibration -----------------------------------------------------------------------------------------------------


def _observed(
    graph: fx.GraphModule,
    batches: Sequence[Tensor],
    settings: Calibration,
    capped: Mapping[str, float],
    floats: Mapping[str, str],
) -> fx.GraphModule:
    from executorch.backends.xnnpack.quantizer.xnnpack_quantizer import (
        XNNPACKQuantizer,
        get_symmetric_quantization_config,
    )
    from torchao.quantization.pt2e.quantize_pt2e import prepare_pt2e

    from exporters.quantization.observers import RangeObserver

    config = get_symmetric_quantization_config(is_per_channel=True)
    observed = RangeObserver.with_args(eps=2**-12, samples=settings.samples, least_error=settings.least_error)
    activation = copy.copy(config.input_activation)
    object.__setattr__(activation, "observer_or_fake_quant_ctr", observed)
    config = type(config)(activation, activation, config.weight, config.bias, config.is_qat)
    quantizer = XNNPACKQuantizer().set_global(config)
    # BatchNorm is folded already, and to trace its patterns takes half of the time
    quantizer.SUPPORTED_PATTERNS = [each for each in quantizer.SUPPORTED_PATTERNS if "bn" not in each.name]
    quantizer.set_filter_function(lambda node: node.name not in floats)
    prepared = prepare_pt2e(graph, quantizer)
    for node in prepared.graph.nodes:
        if node.op == "call_module" and str(node.args[0]) in capped:
            prepared.get_submodule(str(node.target)).highest = capped[str(node.args[0])]
    for batch in batches:
        prepared(batch)
    assert isinstance(prepared, fx.GraphModule)
    return prepared


def _converted(prepared: fx.GraphModule, least_error: bool, capped: Mapping[str, float]) -> fx.GraphModule:
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e

    from exporters.quantization.observers import RangeObserver

    for observer in prepared.modules():
        if isinstance(observer, RangeObserver):
            observer.least_error = least_error
    converted = convert_pt2e(prepared)
    assert isinstance(converted, fx.GraphModule)
    _restore_relu6(converted, capped)
    return converted


# ---- passes after calibration ----------------------------------------------------------------------------------------

_QUANTIZE = "quantized_decomposed.quantize_per_tensor.default"


def _restore_relu6(graph: fx.GraphModule, capped: Mapping[str, float]) -> None:
    """Gives a capped ReLU its clamp back where it is not quantized at its output."""
    for node in graph.graph.nodes:
        if node.name in capped and any(str(user.target) != _QUANTIZE for user in node.users):
            node.target, node.args = _ATEN.hardtanh.default, (node.args[0], 0.0, capped[node.name])
    graph.recompile()


def _drop_clamped_relus(graph: fx.GraphModule) -> int:
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


def _correct_biases(floats: fx.GraphModule, quantized: fx.GraphModule, batches: Sequence[Tensor]) -> int:
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
            bias = _bias(quantized, n) if n.target in LAYERS and n.name in means else None
            if bias is not None:
                missing = means[n.name] - _channel_mean(value)
                bias.add_(missing)
                value = value + (missing if value.ndim == 2 else missing.view(1, -1, 1, 1))
                count += 1
            return value

    Corrected(quantized).run(batch)
    return count


def _round_biases(graph: fx.GraphModule) -> None:
    """Rounds the bias of each int8 layer to what a file holds: whole steps of the scale of its products.

    Else the program and the files differ by up to half a step in every channel, which a deep network carries on.
    """
    for node in graph.graph.nodes:
        bias = _bias(graph, node) if node.target in LAYERS else None
        sources = [str(getattr(source, "target", "")) for source in node.args[:2]]
        if bias is None or not all("dequantize" in source for source in sources):
            continue
        image, weight = node.args[:2]
        step = image.args[1] * parameter(graph, weight.args[1])
        bias.copy_((bias / step).round() * step)


def _channel_mean(value: Tensor) -> Tensor:
    return value.mean(0) if value.ndim == 2 else value.transpose(0, 1).flatten(1).mean(1)


def _make_contiguous(graph: fx.GraphModule) -> None:
    """Stores every constant row by row: Core ML's converter takes no other order."""
    for tensor in (*graph.parameters(), *graph.buffers()):
        tensor.data = tensor.data.contiguous()


class _Judge:
    """Signal-to-noise ratio of logits on calibration images, in dB, against those of the float program."""

    def __init__(self, reference: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        self._batches = batches[: max(1, JUDGED // len(batches[0]))]
        self._wanted = [reference(batch) for batch in self._batches]

    def signal_to_noise(self, quantized: fx.GraphModule) -> float:
        signal = noise = 0.0
        for batch, wanted in zip(self._batches, self._wanted, strict=True):
            signal += float(wanted.double().square().sum())
            noise += float((wanted - quantized(batch)).double().square().sum())
        return decibels(signal, noise)


# ---- nodes -----------------------------------------------------------------------------------------------------------


def _bias(graph: fx.GraphModule, layer: fx.Node) -> Tensor | None:
    """The bias of a layer, to be changed in place; None where it has none, or another layer reads it too."""
    node = (*layer.args, None, None, None)[_BIAS]
    if not isinstance(node, fx.Node) or node.op != "get_attr" or len(node.users) != 1:
        return None
    return parameter(graph, node)


def _groups(layer: fx.Node) -> int:
    groups = layer.args[_CONV_GROUPS] if len(layer.args) > _CONV_GROUPS else 1
    assert isinstance(groups, int)
    return groups


def _layer_names(graph: fx.GraphModule) -> dict[str, str]:
    """The name of the module whose weight each layer of the graph reads, by the node's name."""
    return {
        node.name: str(node.args[WEIGHT].target).rpartition(".")[0]
        for node in graph.graph.nodes
        if node.target in LAYERS and isinstance(node.args[WEIGHT], fx.Node)
    }


def _layer_type(name: str, node: str, graph: fx.GraphModule, kept: Mapping[str, str]) -> LayerType:
    (layer,) = [found for found in graph.graph.nodes if found.name == node]
    weight = layer.args[WEIGHT]
    if isinstance(weight, fx.Node) and "dequantize" in str(weight.target):
        return LayerType(name, "int8")
    return LayerType(name, "float32", kept.get(node, "XNNPACK's quantizer does not know how it is used"))


def _some(names: Mapping[str, str]) -> str:
    found = list(dict.fromkeys(names.values()))
    return ", ".join(found[:5]) + (", ..." if len(found) > 5 else "")
