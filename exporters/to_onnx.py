"""nn.Module -> one .onnx file, checked by onnx.checker, run by ONNX Runtime."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from exporters.artifact import ExportError, Runner, Written
from exporters.toolkits import quiet, reason, versions

if TYPE_CHECKING:
    import numpy as np
    import onnx
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

REQUIRES = ("onnx", "onnxruntime", "onnxscript", "torch")
RUNTIME_MODULES, RUNTIME_PACKAGE = ("onnxruntime",), "onnxruntime"

LARGEST = 2**31 - 1
"""Bytes that one protobuf message holds; beyond it ONNX needs a second file."""


def export(program: ExportedProgram, path: Path) -> Written:
    """Writes `program` to `path` as one float32 .onnx file: input "image", output "logits".

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

    with quiet():
        try:
            exported = torch.onnx.export(
                program, dynamo=True, external_data=False, input_names=["image"], output_names=["logits"], verbose=False
            )
        except Exception as error:  # onnxscript raises many kinds; the first line says which operator
            raise ExportError(
                f"ONNX cannot express the network: {reason(error)}; leave the onnx format out or replace that operator"
            ) from error
    assert exported is not None
    exported.save(path, external_data=False)
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    check_names(model, path)
    return Written()


def load(path: Path, threads: int) -> Runner:
    """A function that runs the .onnx in this process on the CPU, each operator `threads` threads wide."""
    versions(REQUIRES)
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    # threads that wait in a loop take the core from whatever else runs here
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        (logits,) = session.run(["logits"], {"image": image})
        return np.asarray(logits, dtype=np.float32)

    return run


def check_names(model: onnx.ModelProto, path: Path) -> None:
    inputs = [value.name for value in model.graph.input]
    outputs = [value.name for value in model.graph.output]
    if inputs != ["image"] or outputs != ["logits"]:
        raise ExportError(f"{path} takes {inputs} and gives {outputs}, not image and logits; report this as a bug")
