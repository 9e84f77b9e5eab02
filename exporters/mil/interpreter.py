"""load(): an .mlpackage -> a function from an image to its outputs, on torch in the types that the package declares.

Every operator computes in float32 and its result is rounded once to its declared type, float16 as a rule: near what
Core ML does on a CPU, which rounds what an operator stores too, but not bit-equal to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from exporters.artifact import ExportError, NotInterpretedError, Runner
from exporters.mil.compressed import DECODERS, Array, decoded
from exporters.mil.operators import LISTS, OPERATORS, Value
from exporters.mil.program import Operation, Program, Reference, TensorType, read
from exporters.outputs import row_of


def load(package: Path, threads: int = 1) -> Runner:
    """A function that runs the package's ML program in this process. `threads` is torch's setting for all of it.

    Raises NotInterpretedError when the program has operators that OPERATORS lacks; they are named.
    """
    program = read(package)
    unknown = sorted({text for each in program.operations for text in _unknown(each)})
    if unknown:
        raise NotInterpretedError(
            f"the interpreter has no operator {', '.join(unknown)} of {package.name}; run the package on a Mac"
        )
    if len(program.inputs) != 1:
        raise NotInterpretedError(
            f"the interpreter takes one input, and {package.name} has {len(program.inputs)}; run it on a Mac"
        )
    torch.set_num_threads(threads)
    constants = constants_of(program)
    (image,) = program.inputs
    steps = [each for each in program.operations if not each.is_constant]

    def run(given: NDArray[np.float32]) -> NDArray[np.float32]:
        start = declared(torch.from_numpy(np.ascontiguousarray(given)), program.inputs[image])
        with torch.no_grad():
            return row_of(execute(steps, constants, {image: start}, program.outputs))

    return run


def _unknown(operation: Operation) -> list[str]:
    """The operator, or its parameters, that the interpreter lacks."""
    function = {**OPERATORS, **DECODERS}.get(operation.operator)
    if function is None:
        return [operation.operator]
    return [f"{operation.operator}({name})" for name in operation.arguments.keys() - signature(function).parameters]


def constants_of(program: Program) -> dict[str, Value]:
    """The constants of a program by name, decompressed; numbers are float32 (of the declared precision) or int64."""
    return {name: value_of(constant) for name, constant in decoded(program).items()}


def value_of(constant: Array | str) -> Value:
    if isinstance(constant, str):
        return constant
    kind = {"f": np.float32, "b": np.bool_}.get(constant.dtype.kind, np.int64)
    return torch.from_numpy(np.array(constant, dtype=kind))


def execute(
    steps: list[Operation], constants: Mapping[str, Value], values: dict[str, Tensor], wanted: Sequence[str]
) -> list[Tensor]:
    """The values `wanted` after all operations; each other one is let go after its last use."""
    uses = Counter(
        value.name
        for step in steps
        for given in step.arguments.values()
        for value in given
        if isinstance(value, Reference)
    )
    uses.update(wanted)
    for step in steps:
        arguments: dict[str, Value | list[Value]] = {}
        for parameter, given in step.arguments.items():
            own = []
            for value in given:
                if not isinstance(value, Reference):
                    own.append(value_of(value))
                    continue
                own.append(values[value.name] if value.name in values else constants[value.name])
                uses[value.name] -= 1
            arguments[parameter] = own if LISTS.get(step.operator) == parameter else own[0]
        result = OPERATORS[step.operator](**arguments)
        results = [result] if isinstance(result, Tensor) else result
        for (name, kind), tensor in zip(step.outputs.items(), results, strict=True):
            values[name] = declared(tensor, kind, step.operator)
        for name in [name for name in values if not uses[name]]:
            del values[name]
    return [values[name] for name in wanted]


def declared(tensor: Tensor, kind: TensorType, operator: str = "the input") -> Tensor:
    """The tensor rounded to its declared number type. ExportError when it is not of its declared shape."""
    if 0 not in kind.shape and tuple(tensor.shape) != kind.shape:
        raise ExportError(
            f"{operator} gives {tuple(tensor.shape)} where the package declares {kind.shape}; report this as a bug"
        )
    if kind.dtype == "bool":
        return tensor.bool()
    if kind.dtype == "float16":
        return tensor.half().float()
    return tensor.float() if kind.dtype == "float32" else tensor.long()
