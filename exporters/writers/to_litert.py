"""nn.Module -> LiteRT .tflite, with the names of what XNNPACK did not take.

The converter brings jax and transformers: it is imported where a file is written, in that format's own process.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.artifact import ExportError, Runner, Written, number_type
from exporters.toolkits import quiet, quiet_stderr, reason, versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import fx, nn
    from torch.export import ExportedProgram

    from exporters.lookup import Lookup

REQUIRES = ("ai-edge-litert", "ai-edge-quantizer", "litert-torch", "torch")
RUNTIME_MODULES, RUNTIME_PACKAGE = ("ai_edge_litert.interpreter",), "ai-edge-litert"

HALF_NOTE = "LiteRT computes float16 weights in float32, unless an app sets XNNPACK's FORCE_FP16: smaller, not faster"

OPERATOR_NAMES = ("aten.", "tfl.", "quantized_decomposed.", "litert_torch.")
"""Beginnings of names that are no layer's."""

LAYERS = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "BATCH_MATMUL")


def export(
    program: ExportedProgram,
    path: Path,
    lookups: Mapping[str, Lookup] | None = None,  # noqa: ARG001  # it has no look-up tables
) -> Written:
    """Writes `program` to `path` as .tflite: input "image" (1, C, H, W), outputs by their names, all float32.

    A float16 program stores the weights of its layers in float16, an int8 program keeps its scales. The file is written
    even when XNNPACK refuses a layer: `not_delegated` names it and the caller judges.
    """
    versions(REQUIRES)
    dtype = number_type(program)
    try:
        with quiet(), quiet_stderr(), redirect_stdout(StringIO()):
            import litert_torch
            import torch

            from exporters.capture import input_shape

            litert_torch.config.show_progress = False
            network = _network(program, dtype)
            with operators_named_by_layer(network), strict_quantization():
                image = torch.zeros(input_shape(program))
                model = litert_torch.convert(_named(network), sample_kwargs={"image": image})
            model.export(str(path))
            if dtype == "float16":
                _halve_weights(path)
    except Exception as error:  # the converter raises many kinds; the first line says which operator
        raise ExportError(
            f"LiteRT cannot express the network: {reason(error)}; leave the tflite format out or replace that operator"
        ) from error
    outside = outside_delegate(path)
    layers = dict.fromkeys(name for operator, name in outside if operator in LAYERS)
    fallbacks = dict.fromkeys(f"{operator} ({name})" for operator, name in outside)
    return Written(dtype, tuple(layers), tuple(fallbacks), notes=(HALF_NOTE,) if dtype == "float16" else ())


def load(path: Path, threads: int) -> Runner:
    """A function that runs the .tflite in this process by LiteRT's interpreter and XNNPACK, `threads` threads wide.

    Raises ExportError for a file whose image is not float32 of shape (1, C, H, W).
    """
    versions((RUNTIME_PACKAGE,))
    import numpy as np

    from exporters.outputs import row_of

    interpreter = _interpreter(path, threads)
    (image,), outputs = interpreter.get_input_details(), interpreter.get_output_details()
    shape, dtype = tuple(map(int, image["shape"])), np.dtype(image["dtype"]).name
    if len(shape) != 4 or dtype != "float32":
        raise ExportError(
            f"{path.name} takes {dtype} of shape {shape}, and images are float32 (1, C, H, W); write it with "
            "`compress-export`"
        )

    def run(given: NDArray[np.float32]) -> NDArray[np.float32]:
        if given.shape != shape:
            raise ExportError(
                f"{path.name} takes images of shape {shape}, and this one is {given.shape}; a file with channels last "
                "(1, H, W, C) is another converter's: write it with `compress-export`"
            )
        interpreter.set_tensor(image["index"], given)
        interpreter.invoke()
        return row_of([interpreter.get_tensor(output["index"]) for output in outputs])

    return run


def outside_delegate(path: Path) -> list[tuple[str, str]]:
    """The operators that the interpreter runs outside XNNPACK, and the layer or torch operator of each."""
    interpreter = _interpreter(path, 1)
    # Delegates stand behind the operators that they replace, which stay in the list.
    operators = interpreter._get_ops_details()
    made_by = {int(tensor): operator for operator in operators for tensor in operator["outputs"]}
    names = {int(tensor["index"]): str(tensor["name"]) for tensor in interpreter.get_tensor_details()}
    waiting, run = [int(output["index"]) for output in interpreter.get_output_details()], {}
    while waiting:
        operator = made_by.get(waiting.pop())
        if operator is not None and operator["index"] not in run:
            run[operator["index"]] = operator
            waiting += map(int, operator["inputs"])
    return [
        (str(operator["op_name"]), layer_of(name := names[int(operator["outputs"][0])]) or name.partition(";")[0])
        for _, operator in sorted(run.items())
        if operator["op_name"] != "DELEGATE"
    ]


def _interpreter(path: Path, threads: int) -> Any:
    with quiet_stderr():  # it tells of XNNPACK each time
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_path=str(path), num_threads=threads)
        interpreter.allocate_tensors()
    return interpreter


def layer_of(tensor: str) -> str:
    """The layer in a tensor's name, "features.3" of "aten.relu;features.3;1": the names of operators that were merged,
    and a number that tells equal names apart. "" where it names none."""
    names = tensor.rpartition(";")[0].split(";")
    return next((name for name in names if name and not name.startswith(OPERATOR_NAMES)), "")


def _network(program: ExportedProgram, dtype: str) -> fx.GraphModule:
    """The program as the converter takes it: a float16 one in float32, int8 weights with their quantization."""
    import torch

    from exporters.graph_passes import change_types, graph_of

    graph = graph_of(program)
    if dtype == "float16":
        change_types(graph, torch.float16, torch.float32)
    elif dtype == "int8":
        _quantize_in_graph(graph)
        _write_out_hardswishes(graph)
    _pad_before_pooling(graph)
    graph.recompile()
    return graph


def _named(network: nn.Module) -> nn.Module:
    """The network in a module whose input and output have the names that the file is to have."""
    import torch
    from torch import nn

    from exporters.outputs import LOGITS

    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
            answer = self.network(image)
            return answer if isinstance(answer, dict) else {LOGITS if answer.dim() == 2 else "output": answer}

    return Named().eval()


def _quantize_in_graph(graph: fx.GraphModule) -> None:
    """Writes each int8 weight as the float weight that it stands for, and its quantization: the converter takes no
    codes as constants, and computes the same codes again."""
    import torch
    import torch.ao.quantization.fx._decomposed

    operators = torch.ops.quantized_decomposed
    for node in graph.graph.find_nodes(op="call_function", target=operators.dequantize_per_channel.default):
        owners = [str(each.target).rpartition(".") for each in node.args[:3]]
        codes, scales, zero_points = (getattr(graph.get_submodule(owner), leaf) for owner, _, leaf in owners)
        owner, _, leaf = owners[0]
        graph.get_submodule(owner).register_buffer(
            f"{leaf}_of_{node.name}", node.target(codes, scales, zero_points, *node.args[3:])
        )
        with graph.graph.inserting_before(node):
            weight = graph.graph.get_attr(f"{owner}.{leaf}_of_{node.name}".removeprefix("."))
            quantize = operators.quantize_per_channel.default
            quantized = graph.graph.call_function(quantize, (weight, *node.args[1:]))
        node.update_arg(0, quantized)


def _write_out_hardswishes(graph: fx.GraphModule) -> None:
    """Writes each hardswish as x/6 * clamp(x + 3, 0, 6): between two quantized layers the converter makes one int8
    operator of it, which XNNPACK does not take and which rounds more coarsely than the program does."""
    import torch

    aten = torch.ops.aten
    for node in graph.graph.nodes:
        if node.target not in (aten.hardswish.default, aten.hardswish_.default):
            continue
        with graph.graph.inserting_before(node):
            sixth = graph.graph.call_function(aten.mul.Tensor, (node.args[0], 1 / 6))
            shifted = graph.graph.call_function(aten.add.Tensor, (node.args[0], 3.0))
            clamped = graph.graph.call_function(aten.hardtanh.default, (shifted, 0.0, 6.0))
            node.replace_all_uses_with(graph.graph.call_function(aten.mul.Tensor, (sixth, clamped)))
        graph.graph.erase_node(node)


def _pad_before_pooling(graph: fx.GraphModule) -> None:
    """Pads with zeros before a max pooling of values that are never below zero: LiteRT's own pooling pads by half a
    window or not at all, and XNNPACK does not take the padding by the lowest number that the converter writes.
    """
    import torch
    import torch.ao.quantization.fx._decomposed

    aten, quantized = torch.ops.aten, torch.ops.quantized_decomposed
    for node in graph.graph.find_nodes(op="call_function", target=aten.max_pool2d.default):
        source, kernel, stride, padding, *rest = (*node.args, [], 0)[: max(4, len(node.args))]
        sides = [padding, padding] if isinstance(padding, int) else list(padding) * (3 - len(padding))
        ceils = len(rest) > 1 and rest[1]
        codes = source.args if source.target is quantized.dequantize_per_tensor.default else None
        positive = codes[2] == codes[3] if codes else source.target in (aten.relu.default, aten.relu_.default)
        if not any(sides) or ceils or not positive:
            continue
        high, wide = sides
        with graph.graph.inserting_before(node):
            padded = graph.graph.call_function(aten.constant_pad_nd.default, (source, [wide, wide, high, high], 0.0))
            if codes:
                padded = graph.graph.call_function(quantized.quantize_per_tensor.default, (padded, *codes[1:]))
                padded = graph.graph.call_function(quantized.dequantize_per_tensor.default, (padded, *codes[1:]))
        node.args = (padded, kernel, stride, 0, *rest)


@contextmanager
def strict_quantization() -> Iterator[None]:
    """Has the converter quantize what the program quantizes, and nothing else.

    By default it moves scales on to operators and to the file's ends, which are then int8 as well.
    """
    from litert_converter.mlir._mlir_libs import converter_api_ext

    plain = converter_api_ext.ConvertToTFLConfig

    def strict() -> Any:
        config = plain()
        config.strict_qdq_mode = True
        return config

    converter_api_ext.ConvertToTFLConfig = strict
    try:
        yield
    finally:
        converter_api_ext.ConvertToTFLConfig = plain


@contextmanager
def operators_named_by_layer(network: nn.Module) -> Iterator[None]:
    """Has the converter call what an operator gives like the layer whose weight it reads, else like the operator.

    It names them by classes, which are those of a captured graph for all of them.
    """
    from litert_torch.backend import debuginfo

    # "p_network_3_0_weight" is how it calls the parameter "3.0.weight" of the module that it is given
    layers = {f"network.{name}".replace(".", "_"): name.rpartition(".")[0] for name in network.state_dict()}

    def layer(node: fx.Node) -> str:
        for source in node.all_input_nodes:
            while source.all_input_nodes:  # a weight may pass a permute, or its quantization, on its way
                source = source.all_input_nodes[0]
            if name := layers.get(source.name[2:]):
                return f"{name};"
        return f"{str(node.target).rpartition('.')[0]};"

    plain = debuginfo.build_mlir_debuginfo
    debuginfo.build_mlir_debuginfo = layer
    try:
        yield
    finally:
        debuginfo.build_mlir_debuginfo = plain


def _halve_weights(path: Path) -> None:
    """Stores the weights of layers in float16, each read through a cast that XNNPACK takes too."""
    from ai_edge_quantizer import qtyping, quantizer
    from ai_edge_quantizer.algorithm_manager import AlgorithmName

    halves = quantizer.Quantizer(str(path))
    weights = qtyping.TensorQuantizationConfig(num_bits=16, dtype=qtyping.TensorDataType.FLOAT)
    settings = qtyping.OpQuantizationConfig(
        weight_tensor_config=weights, compute_precision=qtyping.ComputePrecision.FLOAT, explicit_dequantize=True
    )
    names = qtyping.TFLOperationName
    for layer in (names.FULLY_CONNECTED, names.CONV_2D, names.DEPTHWISE_CONV_2D, names.CONV_2D_TRANSPOSE):
        halves.update_quantization_recipe(".*", layer, settings, AlgorithmName.FLOAT_CASTING)
    path.write_bytes(halves.quantize().quantized_model)
