"""nn.Module -> one .onnx file, checked by onnx.checker, run by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.artifact import ExportError, Runner, Written, number_type
from exporters.toolkits import quiet, reason, versions

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

    from exporters.lookup import Lookup

REQUIRES = ("onnx", "onnxruntime", "onnxscript", "torch")
RUNTIME_MODULES, RUNTIME_PACKAGE = ("onnxruntime",), "onnxruntime"

LARGEST = 2**31 - 1
"""Bytes that one protobuf message holds; beyond it ONNX needs a second file."""

HALF_NOTE = "ONNX Runtime computes float16 layers in float32 on x86 cores, between casts: smaller there, not faster"


def export(program: ExportedProgram, path: Path, lookups: Mapping[str, Lookup] | None = None) -> Written:
    """Writes `program` to `path` as one .onnx file: input "image", outputs by their names, all float32.

    A float16 program casts its image and its logits. An int8 program becomes QuantizeLinear and DequantizeLinear around
    float operators (QDQ, signed activations, weights by output channel), which a runtime fuses when it loads the file.
    Weights in `lookups` are stored as indices and codebook, with the operators that look them up before the layer: a
    runtime does that once, when it loads the file.

    Raises ExportError when the weights do not fit one file (2 GiB), or when an operator has no ONNX counterpart.
    """
    versions(REQUIRES)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in program.state_dict.values())
    if weights > LARGEST:
        raise ExportError(
            f"one ONNX file holds up to {LARGEST} bytes, the weights are {weights}; "
            "compress the network further or leave the onnx format out"
        )
    import onnx
    import torch

    from exporters.graph_passes import merge_paddings
    from exporters.outputs import outputs_of
    from exporters.writers.onnx_lookups import store_lookups

    outputs = [output.name for output in outputs_of(program)]
    names: dict[str, Any] = {"input_names": ["image"], "output_names": outputs}
    with quiet():
        try:
            whole = merge_paddings(program)
            exported = torch.onnx.export(whole, dynamo=True, external_data=False, verbose=False, **names)
        except Exception as error:  # onnxscript raises many kinds; the first line says which operator
            raise ExportError(
                f"ONNX cannot express the network: {reason(error)}; leave the onnx format out or replace that operator"
            ) from error
    assert exported is not None
    exported.save(path, external_data=False)
    dtype, model = number_type(program), onnx.load(path)
    if dtype == "int8":
        _own_zero_points(model)
        _name_scales(model)
        _quantize_biases(model)
    tables = store_lookups(model, lookups or {})
    _drop_history(model)
    onnx.save(model, path)
    onnx.checker.check_model(model, full_check=True)
    check_names(model, path, outputs)
    return Written(dtype, notes=(HALF_NOTE,) if dtype == "float16" else (), tables=tables)


def load(path: Path, threads: int) -> Runner:
    """A function that runs the .onnx in this process on the CPU, each operator `threads` threads wide."""
    versions(REQUIRES)
    import onnxruntime

    from exporters.outputs import row_of

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # threads that wait in a loop take the core from whatever else runs here
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # an x86 core without VNNI adds int8 products in 16 bits, which overflow; ARM cores have no such kernel
    options.add_session_config_entry("session.x64quantprecision", "1")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        return row_of(session.run(None, {"image": image}))

    return run


def check_names(model: onnx.ModelProto, path: Path, names: Sequence[str] = ("logits",)) -> None:
    """ExportError unless the file takes "image" and gives `names`."""
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    if inputs != ["image"] or outputs != [*names]:
        raise ExportError(
            f"{path} takes {inputs} and gives {outputs}, not image and {', '.join(names)}; report this as a bug"
        )


def _drop_history(model: onnx.ModelProto) -> None:
    """Removes what torch notes beside each node and value (where in Python it came from): no runtime reads it, and it
    is as large as the weights of a small network in int8. Names stay, by which profiles know the layers."""
    graph = model.graph
    for part in (*graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer, graph, model):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")


def _quantize_biases(model: onnx.ModelProto) -> None:
    """Stores the bias of each int8 layer in int32, at the scale of its products, as a runtime wants it to fuse them."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    made_by = {name: node for node in graph.node for name in node.output}
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    readers: dict[str, int] = {}
    for node in graph.node:
        for name in node.input:
            readers[name] = readers.get(name, 0) + 1
    for layer in [node for node in graph.node if node.op_type in ("Conv", "Gemm") and len(node.input) == 3]:
        sources = [made_by.get(name) for name in layer.input[:2]]
        bias = tensors.get(layer.input[2])
        if bias is None or readers[bias.name] > 1 or any(s is None or s.op_type != "DequantizeLinear" for s in sources):
            continue
        scales = [numpy_helper.to_array(tensors[source.input[1]]) for source in sources if source is not None]
        values = numpy_helper.to_array(bias)
        scale = np.broadcast_to(np.ravel(scales[0] * scales[1]), values.shape).astype(np.float32)
        codes = np.clip(np.rint(values / scale), -(2**31), 2**31 - 1).astype(np.int32)
        zeros = np.zeros_like(scale, dtype=np.int32)
        parts = {"": codes, "_scale": scale, "_zero_point": zeros}
        names = [f"{bias.name}_quantized{suffix}" for suffix in parts]
        graph.initializer.extend(map(numpy_helper.from_array, parts.values(), names))
        output = f"{bias.name}_dequantized"
        node = helper.make_node("DequantizeLinear", names, [output], axis=0)
        graph.node.insert(list(graph.node).index(layer), node)
        layer.input[2] = output
        graph.initializer.remove(bias)


def _own_zero_points(model: onnx.ModelProto) -> None:
    """Gives each quantized weight a zero point of its own: ONNX Runtime rewrites them one by one on x86, and fails at
    one that it has rewritten for another layer."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    taken: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in tensors:
            continue
        name = node.input[2]
        if name in taken:
            copied = model.graph.initializer.add()
            copied.CopyFrom(tensors[name])
            copied.name = node.input[2] = f"{node.output[0]}_zero_point"
        taken.add(name)


def _name_scales(model: onnx.ModelProto) -> None:
    """Names scales and zero points, which have numbers for names: a weight's after the weight, an activation's (whoever
    reads it first, for equal ones are stored once) after the operator that gives it."""
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    names: dict[str, str] = {}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            owner = node.input[0] if node.input[0] in tensors else f"activation_ranges.{node.input[0]}"
            for place, suffix in ((1, "scale"), (2, "zero_point")):
                names.setdefault(node.input[place], f"{owner}_{suffix}")
    for name in names.keys() & tensors.keys():
        tensors[name].name = names[name]
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) if name in tensors else name for name in node.input]
