"""halve(): a captured float32 program -> the same program computing in float16, float32 image in and outputs out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx
from torch.export import ExportedProgram

from exporters.artifact import ExportError
from exporters.graph_passes import change_types, graph_of, program_of, write_out_silus
from exporters.toolkits import quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

LARGEST = torch.finfo(torch.float16).max
"""65504; beyond it float16 knows only infinity."""


def halve(program: ExportedProgram, images: NDArray[Any] | None = None) -> ExportedProgram:
    """`program` (of `capture`) with weights and activations in float16: the image is cast first, the outputs last.

    Raises ExportError when a weight is too large for float16, or an activation is on one of `images`, float32
    (N, C, H, W): the text names the first layer. Without images activations are not looked at.
    """
    graph = graph_of(program)
    write_out_silus(graph)  # ExecuTorch's own decomposition casts to float32 and back, outside the delegate
    with quiet(), torch.no_grad():
        _check_range(graph, images)
        change_types(graph, torch.float32, torch.float16)
        _cast_ends(graph)
        return program_of(graph)


def _check_range(graph: fx.GraphModule, images: NDArray[Any] | None) -> None:
    found = [(name, _reach(tensor)) for name, tensor in (*graph.named_parameters(), *graph.named_buffers())]
    place = ""
    for index, image in enumerate(() if images is None else images):
        if _beyond(found):
            break
        found, place = _reach_of_activations(graph, torch.from_numpy(image[None])), f" on image {index}"
    for name, reach in _beyond(found)[:1]:
        raise ExportError(
            f"float16 holds numbers up to {LARGEST:.0f}, and {name} reaches {reach:.3g}{place}; "
            "export it in float32 or int8"
        )


def _beyond(found: list[tuple[str, float]]) -> list[tuple[str, float]]:
    # a NaN compares false
    return [(name, reach) for name, reach in found if not reach <= LARGEST]


def _reach(value: Tensor) -> float:
    return float(value.detach().abs().max()) if value.is_floating_point() and value.numel() else 0.0


def _reach_of_activations(graph: fx.GraphModule, image: Tensor) -> list[tuple[str, float]]:
    """The largest magnitude that each operator gives, in the order in which they run."""
    found = []

    class Reach(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            value = super().run_node(n)
            if isinstance(value, Tensor):
                weights = [str(source.target) for source in n.all_input_nodes if source.op == "get_attr"]
                layer = weights[0].rpartition(".")[0] or weights[0] if weights else n.name
                found.append(("the image" if n.op == "placeholder" else layer, _reach(value)))
            return value

    Reach(graph).run(image)
    return found


def _cast_ends(graph: fx.GraphModule) -> None:
    (image,) = graph.graph.find_nodes(op="placeholder")
    (output,) = graph.graph.find_nodes(op="output")
    to = torch.ops.aten.to.dtype
    with graph.graph.inserting_after(image):
        cast = graph.graph.call_function(to, (image, torch.float16))
    image.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast)
    with graph.graph.inserting_before(output):
        for given in output.all_input_nodes:
            output.replace_input_with(given, graph.graph.call_function(to, (given, torch.float32)))
