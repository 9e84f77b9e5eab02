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
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from exporters.artifact import FEWEST_IMAGES, ExportError, LayerType
from exporters.graph_passes import drop_unused_weights, graph_of, make_functional, write_out_silus
from exporters.quantization.noise import (
    JUDGED,
    LAYERS,
    WEIGHT,
    OperatorNoise,
    decibels,
    layer_noise,
    operator_noise,
    scaled_row,
)
from exporters.quantization.passes import (
    balance,
    correct_biases,
    drop_clamped_relus,
    keep_ranges_of_paddings,
    make_contiguous,
    name_weights,
    relu6_as_relu,
    restore_relu6,
    round_biases,
)
from exporters.toolkits import quiet, versions

if TYPE_CHECKING:
    from numpy.typing import NDArray

REQUIRES = ("executorch", "torch", "torchao")


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

EXAMINED = 16
"""Calibration images on which the noise of each operator is worked out."""


@dataclass(frozen=True)
class QuantizedProgram:
    """An int8 program for every format, and how far its logits are from those of the float program.

    `signal_to_noise` is 10 log10 of the logits' power over that of their error, in dB, on `images` calibration images.
    `source` is None for a program that is not in int8.
    """

    program: ExportedProgram
    layers: tuple[LayerType, ...]
    images: int
    signal_to_noise: float
    notes: tuple[str, ...] = field(default=())
    source: Source | None = field(default=None, compare=False, repr=False)

    def operator_noise(self) -> dict[str, OperatorNoise]:
        """Noise that each operator alone adds to the logits' error, by its node in the float32 program."""
        if self.source is None:
            return {}
        batches = self.source.batches
        examined = torch.cat(batches)[:EXAMINED] if len(batches[0]) > 1 else batches[0]
        return operator_noise(self.source.floats, self.source.uncorrected, examined)


@dataclass(frozen=True)
class Source:
    """The origin of a quantized program: the float network that its layers are held against, balanced, the
    quantized one before its biases were corrected and after, the calibration images, and what judges."""

    floats: fx.GraphModule
    uncorrected: fx.GraphModule
    graph: fx.GraphModule
    batches: list[Tensor]
    judge: _Judge
    reasons: Mapping[str, str]


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
        capped = relu6_as_relu(graph)
        if settings.balance:
            balance(graph, batches, capped)
        unknown = sorted(kept.keys() - {node.name for node in graph.graph.nodes})
        if unknown:
            known = ", ".join(list(_layer_names(graph))[:5])
            raise ExportError(f"there is no operator {unknown[0]!r} to keep in float32; layers are {known}, ...")
        balanced = copy.deepcopy(graph)
        restore_relu6(balanced, capped)
        prepared = _observed(graph, batches, settings, capped, kept)
        judge = _Judge(reference, batches)
        best, noise, ranges = None, -math.inf, ""
        for least_error in (False, True) if settings.least_error else (False,):
            candidate = _converted(copy.deepcopy(prepared), least_error, capped)
            round_biases(candidate)
            found = judge.signal_to_noise(candidate)
            if found > noise:
                best, noise, ranges = candidate, found, "least squared error" if least_error else "extremes"
        assert best is not None
        uncorrected, notes = best, [f"ranges of activations: {ranges}"]
        if settings.correct_bias:
            corrected = copy.deepcopy(best)
            correct_biases(balanced, corrected, batches)
            round_biases(corrected)
            if judge.signal_to_noise(corrected) > noise:
                best = corrected
                notes.append("biases corrected")
    return finished(Source(balanced, uncorrected, best, batches, judge, kept), notes)


def finished(source: Source, notes: Sequence[str]) -> QuantizedProgram:
    """The program of `source.graph`, captured for one image."""
    graph = copy.deepcopy(source.graph)
    with quiet(), torch.no_grad():
        ratio, noises = source.judge.signal_to_noise(graph), layer_noise(source.floats, graph, source.batches[0])
        types = tuple(
            replace(_layer_type(name, node, graph, source.reasons), signal_to_noise=noises.get(node))
            for node, name in _layer_names(source.floats).items()
        )
        drop_clamped_relus(graph)
        make_contiguous(graph)
        drop_unused_weights(graph)
        name_weights(graph, _layer_names(source.floats))
        drop_unused_weights(graph)
        program = torch.export.export(graph, (torch.zeros_like(source.batches[0][:1]),))
    return QuantizedProgram(program, types, sum(map(len, source.batches)), ratio, tuple(notes), source)


def in_one_type(
    program: ExportedProgram, made: ExportedProgram, images: NDArray[Any], dtype: str, reason: str, note: str
) -> QuantizedProgram:
    """`made`, which is the float32 `program` in float16 or itself, with what is known of a quantized one."""
    layers = tuple(LayerType(name, dtype, reason) for name in _layer_names(graph_of(program)).values())
    judge = _Judge(graph_of(program), [torch.from_numpy(image[None]) for image in images])
    with torch.no_grad():
        return QuantizedProgram(made, layers, len(images), judge.signal_to_noise(graph_of(made)), (note,))


def _graph(program: ExportedProgram) -> fx.GraphModule:
    graph = graph_of(program)
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
        single = torch.cat([scaled_row(graph(image[None])) for image in given[:2]])
        if not torch.isfinite(single).all():
            raise ExportError(
                "the network gives logits that are not finite on calibration images; nothing is quantized"
            )
        try:
            together = scaled_row(graph(given[:2]))
            whole = together.shape == single.shape and torch.allclose(together, single, rtol=1e-3, atol=1e-3)
        except RuntimeError:  # a shape that does not fit, in whatever operator it is met
            whole = False
    return list(torch.split(given, size if whole else 1))


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
    restore_relu6(converted, capped)
    keep_ranges_of_paddings(converted)
    return converted


class _Judge:
    """Signal-to-noise ratio of logits on calibration images, in dB, against those of the float program."""

    def __init__(self, reference: fx.GraphModule, batches: Sequence[Tensor]) -> None:
        self._batches = batches[: max(1, JUDGED // len(batches[0]))]
        self._wanted = [reference(batch) for batch in self._batches]

    def signal_to_noise(self, quantized: fx.GraphModule) -> float:
        signal = noise = 0.0
        for batch, wanted in zip(self._batches, self._wanted, strict=True):
            clean = scaled_row(wanted, wanted).double()
            signal += float(clean.square().sum())
            noise += float((clean - scaled_row(quantized(batch), wanted).double()).square().sum())
        return decibels(signal, noise)


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
