"""Outputs of a network by name: any nest of tensors, and the one row of numbers that stands for them between programs.

Files have each output by its name. Whatever compares or stores outputs holds one float32 row for an image: its outputs
flattened, one after the other, in the order in which the network gives them.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor
    from torch.export import ExportedProgram
    from torch.utils._pytree import TreeSpec

    Array = NDArray[np.float32]

Kind = Literal["logits", "class map", "values"]
"""A row with a number for each class, such a row for each pixel (classes, height, width), or anything else."""

LOGITS = "logits"
"""The name of the output of a network that gives one row."""


@dataclass(frozen=True)
class Output:
    """One output: its name in files, its shape for one image without the batch, and what it holds."""

    name: str
    shape: tuple[int, ...]
    kind: Kind = "values"

    @property
    def numbers(self) -> int:
        return math.prod(self.shape)


def named_tensors(answer: object, lone: str = "") -> dict[str, Tensor]:
    """The tensors that a network gives, any nest, by names made of their keys ("boxes", "features_0").

    A tensor alone is called `lone`, by default "logits" where it is one row an image and "output" where it is not.
    TypeError, with the type's name, where the nest holds anything but tensors and None.
    """
    from torch import Tensor
    from torch.utils._pytree import tree_flatten

    leaves, spec = tree_flatten(answer)
    found = {}
    for name, leaf in zip(leaf_names(spec, lone), leaves, strict=True):
        if leaf is None:  # an output that is left out, such as an auxiliary head's
            continue
        if not isinstance(leaf, Tensor):
            raise TypeError(type(leaf).__name__)
        found[name or (LOGITS if leaf.dim() == 2 else "output")] = leaf
    return found


def leaf_names(spec: TreeSpec, lone: str = "") -> list[str]:
    """A name for each leaf of a nest, of letters, digits and underscores, no two alike and none "image"; `lone` where
    there is nothing but a leaf."""
    from torch.utils._pytree import keystr, tree_flatten_with_path, tree_unflatten

    if spec.is_leaf():
        return [lone]
    paths = [path for path, _ in tree_flatten_with_path(tree_unflatten([0] * spec.num_leaves, spec))[0]]
    names: list[str] = []
    for path in paths:
        name = re.sub(r"\W+", "_", keystr(path)).strip("_")
        name = f"output_{name}".rstrip("_") if not name or name[0].isdigit() or name == "image" else name
        while name in names:
            name += "_"
        names.append(name)
    return names


def outputs_of(program: ExportedProgram) -> tuple[Output, ...]:
    """The outputs of a captured program, in its own order; that of a classifier holds logits, others values."""
    values = {node.name: node.meta["val"] for node in program.graph.nodes if "val" in node.meta}
    shapes = [tuple(int(size) for size in values[str(name)].shape[1:]) for name in program.graph_signature.user_outputs]
    spec = program.call_spec.out_spec
    assert spec is not None  # every captured program has one
    names = leaf_names(spec, LOGITS if len(shapes[0]) == 1 else "output")
    return tuple(
        Output(name, shape, "logits" if name == LOGITS and len(shape) == 1 else "values")
        for name, shape in zip(names, shapes, strict=True)
    )


def row_of(answer: object) -> Array:
    """The row (1, numbers) of one image's outputs: a tensor, or a nest of them, of torch or numpy."""
    import numpy as np

    if isinstance(answer, Mapping):
        answer = list(answer.values())
    if not isinstance(answer, Iterable) or hasattr(answer, "shape"):
        answer = [answer]
    parts: list[Any] = [np.asarray(part, dtype=np.float32).reshape(1, -1) for part in answer]
    # a runtime may give memory of its own, which the next run overwrites
    return np.concatenate(parts, axis=1)


def rows_of(answer: object) -> Array:
    """The rows (N, numbers) of what a network gives for N images."""
    import numpy as np

    parts = [tensor.detach().cpu().float().flatten(1) for tensor in named_tensors(answer).values()]
    return np.concatenate([part.numpy() for part in parts], axis=1)


def split(rows: Array, outputs: Sequence[Output]) -> dict[str, Array]:
    """Each output by name, (N, *its shape), of rows (N, numbers)."""
    import numpy as np

    ends = np.cumsum([output.numbers for output in outputs])
    parts = np.split(rows, ends[:-1], axis=1)
    return {output.name: part.reshape(len(rows), *output.shape) for output, part in zip(outputs, parts, strict=True)}
