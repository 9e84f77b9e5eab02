"""capture(): a module -> the program that every format is written from, BatchNorm folded away, saved as .pt2."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.fx.graph import _PyTreeCodeGen
from torch.utils._pytree import tree_structure

from exporters.artifact import ExportError, write_whole
from exporters.graph_passes import (
    drop_identities,
    drop_unused_weights,
    fold_batch_norms,
    fold_computed_weights,
    unroll_circular_padding,
)
from exporters.outputs import LOGITS, leaf_names
from exporters.toolkits import reason


def capture(module: nn.Module, example: Tensor, name: str = "") -> ExportedProgram:
    """The module in eval mode as a program for one image, a BatchNorm that follows a convolution folded into it.

    `example` is a float32 batch (N, C, H, W), of which the first image sets the shape. The module itself is left as it
    was. Weights that eval mode never reads (auxiliary heads) are left out, and circular padding becomes slices that
    every format knows. The program gives one tensor, or a dict of them by name; with `name` one tensor is such a dict
    too, unless it is the name that files have for it anyway.

    Raises ExportError when the module does not lie on the CPU, when torch.export cannot follow it, or when it gives
    anything but float32 tensors.
    """
    if example.ndim != 4 or example.dtype != torch.float32 or not len(example):
        raise ExportError(
            f"an example input is a float32 batch of images (N, C, H, W), not {example.dtype} "
            f"{tuple(example.shape)}; pass one image as torch.randn(1, 3, 224, 224)"
        )
    away = {str(own.device) for own in (*module.parameters(), *module.buffers()) if own.device.type != "cpu"}
    if away:
        raise ExportError(
            f"a network is captured on the CPU, and {type(module).__name__} lies on {', '.join(sorted(away))}; "
            "move it to the CPU with module.cpu()"
        )
    # its values are never looked at, and a .pt2 keeps its example: no user's image goes into it
    image = torch.zeros(1, *example.shape[1:])
    with eval_mode(module), torch.no_grad(), ExitStack() as settings:
        # Attention in its plain operators: the fast path is one fused operator that no phone format knows.
        settings.callback(torch.backends.mha.set_fastpath_enabled, torch.backends.mha.get_fastpath_enabled())
        torch.backends.mha.set_fastpath_enabled(False)
        try:
            # decomposed only by the writers: the folding below wants batch_norm whole
            program = torch.export.export(module, (image,))
        except Exception as error:  # torch.export raises whatever the module's code runs into
            raise ExportError(
                f"torch.export cannot follow {type(module).__name__}: {reason(error)}; "
                "its forward must not branch on the values of tensors"
            ) from error
        graph = program.module(check_guards=False)
        assert isinstance(graph, fx.GraphModule)
        _name_outputs(graph, type(module).__name__, name)
        fold_computed_weights(graph)
        fold_batch_norms(graph)
        unroll_circular_padding(graph)
        drop_identities(graph)
        drop_unused_weights(graph)
        graph.recompile()
        return torch.export.export(graph, (image,))


def save(program: ExportedProgram, path: Path) -> None:
    """Writes the program as .pt2, complete or not at all. OSError where it cannot be written."""
    content = io.BytesIO()  # not straight to the file: torch's own writer aborts the process on a full disk
    torch.export.save(program, content)
    write_whole(path, content.getbuffer())


def load(path: Path) -> ExportedProgram:
    """The program that `save` wrote. ExportError when the file is missing or is none."""
    if not path.is_file():
        raise ExportError(f"there is no program at {path}; `exporters.capture.save` writes one")
    # defines the operators of a quantized program, which its file names
    import torch.ao.quantization.fx._decomposed

    try:
        return torch.export.load(path)
    except Exception as error:  # whatever the zip reader or the schema check meets
        raise ExportError(
            f"{path} is not a captured program (.pt2): {reason(error)}; write it again with this version of torch"
        ) from error


def input_shape(program: ExportedProgram) -> tuple[int, ...]:
    """Shape (1, C, H, W) of the image that the program takes."""
    (name,) = program.graph_signature.user_inputs
    node = next(node for node in program.graph.nodes if node.name == name)
    return tuple(int(size) for size in node.meta["val"].shape)


def _name_outputs(graph: fx.GraphModule, network: str, lone: str) -> None:
    """Has the graph give a dict of its tensors by name, where it gives more than one row or tensor."""
    codegen = graph.graph._codegen
    assert isinstance(codegen, _PyTreeCodeGen)  # what torch.export makes
    info, (output,) = codegen.pytree_info, graph.graph.find_nodes(op="output")
    assert info.out_spec is not None  # likewise
    given = output.args[0] if isinstance(output.args[0], tuple | list) else (output.args[0],)
    found: dict[str, fx.Node] = {}
    for name, node in zip(leaf_names(info.out_spec, lone), given, strict=True):
        if node is None:  # an output that is left out, such as an auxiliary head's
            continue
        value = node.meta.get("val") if isinstance(node, fx.Node) else None
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            what = type(node).__name__ if value is None else str(getattr(value, "dtype", type(value).__name__))
            raise ExportError(
                f"outputs are float32 tensors, and {network} gives {what.removeprefix('torch.')} as "
                f"{name or 'its output'}; return tensors that the caller turns into what it needs"
            )
        found[name] = node
    if not found:
        raise ExportError(f"{network} gives no tensor; a network gives at least one")
    rows = all(node.meta["val"].dim() == 2 for node in found.values())
    if info.out_spec.is_leaf() and lone in ("", LOGITS if rows else "output"):
        return
    output.args = (tuple(found.values()),)
    codegen.pytree_info = info._replace(out_spec=tree_structure(dict.fromkeys(found, 0)))


@contextmanager
def eval_mode(module: nn.Module) -> Iterator[None]:
    """Every submodule in eval mode, and afterwards each as it was (they need not agree)."""
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for part, training in modes:
            part.training = training
