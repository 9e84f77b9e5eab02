"""nn.Module -> CoreML .mlpackage (mlprogram, iOS 15 and later). Core ML runs it on macOS, an interpreter elsewhere.

The stored package is read back too: its input, output and weights against the module's.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from exporters.artifact import ExportError, Runner, Written, number_type
from exporters.toolkits import quiet, reason, versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.export import ExportedProgram

    from exporters.lookup import Lookup
    from exporters.mil.program import Program

    Array = NDArray[np.float32]

REQUIRES = ("coremltools", "torch")
RUNTIME_MODULES, RUNTIME_PACKAGE = ("coremltools",), "coremltools"

DTYPE = "float16"
"""Type that the package stores and computes in: CoreML's default, and the only type that its Neural Engine runs."""

ROUNDING = 2.0**-11
"""Greatest relative error of rounding to float16 (11 significant bits); its smallest step is 2^-24."""


def export(
    program: ExportedProgram,
    path: Path,
    lookups: Mapping[str, Lookup] | None = None,
) -> Written:
    """Writes `program` to `path` as an mlprogram: float16 or int8 inside, float32 "image" in and the outputs by their
    names.

    An int8 program keeps its scales, of weights and of activations, and runs from iOS 17 on.

    A float16 program gives the same file as the float32 one: the converter rounds by itself, and fails at some
    operators that are float16 already.

    Weights of `lookups` that Core ML can look up are stored as tables, which want iOS 16 or 18; a note says so.

    Raises ExportError when CoreML lacks an operator (named), or when the stored package is not what was asked for.
    """
    versions(REQUIRES)
    dtype = DTYPE if number_type(program) != "int8" else "int8"
    if number_type(program) == "float16":
        import torch

        from exporters.graph_passes import change_types, graph_of, program_of

        graph = graph_of(program)
        change_types(graph, torch.float16, torch.float32)
        program = program_of(graph)
    from exporters.outputs import outputs_of

    with quiet():
        import coremltools
        import numpy as np

        from exporters.writers.coreml_lookups import store_tables, tables_of

        tables = tables_of(program, lookups or {})
        ios = max((17 if dtype == "int8" else 15, *(table.ios for table in tables.values())))
        try:
            model = coremltools.convert(
                program.run_decompositions({}),
                source="pytorch",
                convert_to="mlprogram",
                minimum_deployment_target=coremltools.target[f"iOS{ios}"],
                compute_precision=coremltools.precision.FLOAT16,
                outputs=[coremltools.TensorType(output.name, dtype=np.float32) for output in outputs_of(program)],
                skip_model_load=True,
            )
        except Exception as error:  # coremltools raises many kinds; the first line says which operator
            raise ExportError(
                f"CoreML cannot express the network: {reason(error)}; "
                "leave the mlpackage format out or replace that operator"
            ) from error.with_traceback(None)  # its frames hold a temporary folder, gone with them here
        stored: tuple[str, ...] = ()
        if tables:
            model, stored = store_tables(model, tables)
        spec = model.get_spec()
        # the captured input bears the name of the argument of the module's forward
        coremltools.utils.rename_feature(spec, spec.description.input[0].name, "image")
        coremltools.models.MLModel(spec, weights_dir=model.weights_dir, skip_model_load=True).save(str(path))
    notes = (f"its look-up tables want iOS {ios} or macOS {ios - 3}",) if stored else ()
    return Written(dtype=dtype, inspected=inspect(program, path), notes=notes, tables=stored)


def load(path: Path, threads: int) -> Runner:
    """A function that runs the package through Core ML on its CPU, on other systems than macOS by `exporters.mil`."""
    versions(REQUIRES)
    if sys.platform != "darwin":
        from exporters.mil import interpreter

        return interpreter.load(path, threads)
    import coremltools

    from exporters.outputs import row_of

    names = [output.name for output in coremltools.utils.load_spec(str(path)).description.output]
    model = coremltools.models.MLModel(str(path), compute_units=coremltools.ComputeUnit.CPU_ONLY)

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        found = model.predict({"image": image})
        return row_of([found[name] for name in names])

    return run


def inspect(program: ExportedProgram, path: Path) -> str:
    """One line on the stored package's content: weights that match, input, output.

    A weight matches when the package holds one of as many numbers that all agree within float16 rounding. The converter
    may merge a scale into the layer before it: then the numbers agree up to a factor for each channel. Weights in int8
    are the same codes, and their scales agree within float16 rounding. Raises ExportError when input or output differ,
    or a weight of two or more dimensions, codes or their scales agree with none.
    """
    import coremltools

    from exporters.capture import input_shape
    from exporters.mil.program import read
    from exporters.outputs import outputs_of

    spec = coremltools.utils.load_spec(str(path))
    image = _features(spec.description.input, {"image": input_shape(program)}, path)
    outputs = {output.name: (1, *output.shape) for output in outputs_of(program)}
    given = _features(spec.description.output, outputs, path)
    weights = {name: tensor for name, tensor in program.state_dict.items() if tensor.is_floating_point()}
    stored = read(path)
    merged, lost = compare_weights(weights, stored)
    codes = {name: tensor for name, tensor in program.state_dict.items() if str(tensor.dtype) == "torch.int8"}
    lost += compare_codes(codes, stored)
    lost += sorted({*merged} & _scales(program))
    if lost:
        raise ExportError(
            f"{path.name} does not hold the network's weights: {', '.join(lost[:5])} differ beyond float16 rounding "
            f"({len(lost)} of {len(weights) + len(codes)}); report this as a bug"
        )
    aside = f" ({', '.join(merged)} merged by the converter)" if merged else ""
    found = f"{len(weights) - len(merged)} of {len(weights)} stored weights match within float16"
    if codes:
        operators = [operation.operator for operation in stored.operations]
        found = f"{len(codes)} weights in int8 match, {operators.count('quantize')} activations are quantized, {found}"
    return f"{found}{aside}, input {image}, output {given}"


def _features(features: Any, wanted: Mapping[str, tuple[int, ...]], path: Path) -> str:
    described = [(feature.name, tuple(feature.type.multiArrayType.shape)) for feature in features]
    if described != [*wanted.items()]:
        raise ExportError(
            f"{path.name} describes {described}, the network has {[*wanted.items()]}; report this as a bug"
        )
    return ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in wanted.items())


def compare_weights(weights: Mapping[str, Tensor], program: Program) -> tuple[list[str], list[str]]:
    """Names of the weights that the converter has merged with others, and of those that are stored nowhere.

    The converter may rename, scale or share constants, so content decides: every stored constant with as many numbers
    is tried. A bias or scale (one dimension) that equals none was merged.
    """
    import numpy as np

    constants = _constants(program, ("float16", "float32"))
    merged: list[str] = []
    lost: list[str] = []
    for name, weight in weights.items():
        wanted = weight.detach().float().numpy()
        candidates = constants[wanted.size]
        # in the stored order, or as the matrix's transpose (a linear layer read as a product)
        orders = [order.reshape(-1) for order in ((wanted, wanted.T) if wanted.ndim == 2 else (wanted,))]
        if any(
            np.allclose(stored, order, rtol=ROUNDING * 1.001, atol=2.0**-24, equal_nan=True)
            for stored in candidates
            for order in orders
        ):
            continue
        scaled = wanted.ndim < 2 or any(_agree_by_channel(wanted, stored) for stored in candidates)
        (merged if scaled else lost).append(name)
    return merged, lost


def compare_codes(codes: Mapping[str, Tensor], program: Program) -> list[str]:
    """Names of the int8 weights that the package holds nowhere, code by code."""
    import numpy as np

    constants = _constants(program, ("int8",))
    return [
        name
        for name, tensor in codes.items()
        if not any(np.array_equal(stored, tensor.numpy().reshape(-1)) for stored in constants[tensor.numel()])
    ]


def _scales(program: ExportedProgram) -> set[str]:
    """Names of the scales of int8 weights."""
    nodes = [node for node in program.graph.nodes if "dequantize_per_channel" in str(node.target)]
    return {str(program.graph_signature.inputs_to_buffers[node.args[1].name]) for node in nodes}


def _agree_by_channel(wanted: Array, stored: NDArray[Any]) -> bool:
    """Equal up to one factor for each channel, along the first or (transposed convolutions) the second axis."""
    import numpy as np

    for axis in (0, 1):
        ours = np.moveaxis(wanted, axis, 0).reshape(wanted.shape[axis], -1).astype(np.float64)
        theirs = np.moveaxis(stored.reshape(wanted.shape), axis, 0).reshape(ours.shape).astype(np.float64)
        energy = (ours**2).sum(axis=1, keepdims=True)
        factor = (ours * theirs).sum(axis=1, keepdims=True) / np.where(energy == 0, 1.0, energy)
        # the factor is estimated from rounded numbers, which spends a part of the allowance
        if np.allclose(theirs, factor * ours, rtol=2 * ROUNDING, atol=2.0**-23):
            return True
    return False


def _constants(program: Program, dtypes: tuple[str, ...]) -> dict[int, list[NDArray[Any]]]:
    """The constants of these number types, as they are stored and decompressed, flat, by their count of numbers."""
    import numpy as np

    from exporters.mil.compressed import decoded

    compressed = {
        name for each in program.operations if each.operator.startswith("constexpr_") for name in each.outputs
    }
    values: list[object] = [value for name, value in decoded(program).items() if name in compressed]
    for operation in program.operations:
        values += [value for given in operation.arguments.values() for value in given]
    found: dict[int, list[NDArray[Any]]] = defaultdict(list)
    for value in values:
        if isinstance(value, np.ndarray) and value.dtype.name in dtypes:
            found[value.size].append(value.reshape(-1))
    return found
