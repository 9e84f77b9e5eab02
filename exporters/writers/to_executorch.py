"""nn.Module -> ExecuTorch .pte for XNNPACK, with the names of what XNNPACK did not take."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.artifact import ExportError, Runner, Written, number_type
from exporters.toolkits import quiet, reason, versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import fx
    from torch.export import ExportedProgram

    from exporters.lookup import Lookup

REQUIRES = ("executorch", "torch")
RUNTIME_MODULES, RUNTIME_PACKAGE = ("torch", "executorch.extension.pybindings._C"), "executorch"

# Bookkeeping between the delegates, not work.
_PLUMBING = ("executorch_call_delegate", "getitem")
_LAYERS = ("convolution", "conv1d", "conv2d", "linear", "addmm", "mm")
_CONVOLUTION = "aten.convolution.default"


def export(
    program: ExportedProgram,
    path: Path,
    lookups: Mapping[str, Lookup] | None = None,  # noqa: ARG001  # it has no look-up tables
) -> Written:
    """Writes `program` to `path` as .pte, in the number type of the program, lowered to XNNPACK.

    The file is written even when XNNPACK refuses a layer: `not_delegated` names it and the caller judges.
    """
    versions(REQUIRES)
    try:
        from exporters.graph_passes import merge_paddings, write_out_hardsigmoids

        with quiet(), half_convolutions(), patterns_of(program):
            from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
            from executorch.exir import to_edge_transform_and_lower

            whole = merge_paddings(write_out_hardsigmoids(program))
            edge = to_edge_transform_and_lower(whole, partitioner=[XnnpackPartitioner()])
            lowered, outside = edge.exported_program(), []
            for node in lowered.graph.nodes:
                if node.op == "call_function" and not any(name in str(node.target) for name in _PLUMBING):
                    schema: Any = getattr(node.target, "_schema", None)
                    name = str(node.target if schema is None else schema.name)
                    # "convolution" of aten.convolution.default
                    outside.append((name.rpartition("::")[2], _layer(lowered, node)))
            file = edge.to_executorch()
    except Exception as error:  # the lowering raises many kinds; the first line says which operator
        raise ExportError(
            f"ExecuTorch cannot lower the network: {reason(error)}; leave the pte format out or replace that operator"
        ) from error
    with path.open("wb") as out:
        file.write_to_file(out)
    layers = dict.fromkeys(name for operator, name in outside if operator in _LAYERS)
    fallbacks = dict.fromkeys(f"aten.{operator} ({name})" for operator, name in outside)
    return Written(number_type(program), tuple(layers), tuple(fallbacks))


@contextmanager
def half_convolutions() -> Iterator[None]:
    """Has convolutions in float16 keep their weights and biases so: ExecuTorch stores them in float32, which XNNPACK
    rounds when it loads them, and the file is twice as large for nothing. Only transposed ones need float32 there."""
    import torch
    from executorch.backends.xnnpack.operators import node_visitor

    # the decorator that registers the class hands none back, so its module has no name for it
    visitors: dict[str, Any] = node_visitor._node_visitor_dict
    conv2d = visitors[_CONVOLUTION]

    class HalfConv2d(conv2d):  # type: ignore[misc, valid-type]  # a class only while it runs
        def define_node(self, node: fx.Node, *args: Any) -> None:
            self.transposed = node.args[6]
            super().define_node(node, *args)

        def define_tensor(self, tensor: fx.Node, *args: Any, force_fp32: bool = False, **kwargs: Any) -> None:
            wide = force_fp32 and (self.transposed or tensor.meta["val"].dtype != torch.float16)
            super().define_tensor(tensor, *args, force_fp32=wide, **kwargs)

    visitors[_CONVOLUTION] = HalfConv2d
    try:
        yield
    finally:
        visitors[_CONVOLUTION] = conv2d


@contextmanager
def patterns_of(program: ExportedProgram) -> Iterator[None]:
    """Has XNNPACK look for bilinear upsampling and for attention only where the program's operators may be some.

    It exports networks of them first, to know their graphs: two thirds of the time of a process's first export, to find
    nothing in most CNNs.
    """
    from executorch.backends.xnnpack.partition.graphs import bilinear_2d, sdpa

    operators = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    upsampling, attention = bilinear_2d.get_graphs_dict, sdpa.get_graphs
    if not any(name in operator for operator in operators for name in ("upsample", "index")):
        bilinear_2d.get_graphs_dict = dict
    if not any(name in operator for operator in operators for name in ("softmax", "attention")):
        sdpa.get_graphs = list
    try:
        yield
    finally:
        bilinear_2d.get_graphs_dict, sdpa.get_graphs = upsampling, attention


def load(path: Path, threads: int) -> Runner:
    """A function that runs the .pte in this process, `threads` threads wide (ExecuTorch keeps one pool a process)."""
    versions(REQUIRES)
    import numpy as np
    import torch

    from exporters.outputs import row_of

    # Not executorch.runtime: for one warning class it imports the whole compiler, 10 s and 240 MB in every process
    # that only wants to run a file. This is the module it wraps; torch has to be there first.
    with quiet():
        from executorch.extension.pybindings import _C as runtime

    runtime._unsafe_reset_threadpool(threads)
    program = runtime._load_program(str(path))
    method = program.load_method("forward")
    if method is None:
        raise ExportError(f"{path} has no method 'forward'; write it with `compress-export`")

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        # copied: tensors lie in the program's own memory, which the next run overwrites
        return row_of([tensor.numpy() for tensor in method((torch.from_numpy(np.ascontiguousarray(image)),))])

    return run


def _layer(program: ExportedProgram, node: fx.Node) -> str:
    """The layer whose weight the operator reads, else the module it was called in."""
    parameters = program.graph_signature.inputs_to_parameters
    for source in node.all_input_nodes:
        # a weight may pass a permute on its way
        for weight in (source, *source.all_input_nodes):
            if weight.name in parameters:
                return str(parameters[weight.name]).rpartition(".")[0]
    stack = node.meta.get("nn_module_stack") or {}
    paths = [str(path) for path, _ in stack.values()]
    return (paths[-1] if paths else "") or "the network itself"
