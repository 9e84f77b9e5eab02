"""Weights of a CoreML package stored as look-up tables: scalar ones from iOS 16 on, of vectors from iOS 18 on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from exporters.lookup import Lookup

if TYPE_CHECKING:
    from torch.export import ExportedProgram

WIDTHS = {16: (1, 2, 4, 6, 8), 18: (1, 2, 3, 4, 6, 8)}
"""Bits that an index may have, by the version of iOS."""


@dataclass(frozen=True)
class Table:
    """A weight as Core ML looks it up: `indices` have the weight's axes, `entries` two more, which are the vectors of
    one table and their numbers; these lie along `axis` of the weight. `dense` is the weight itself."""

    indices: NDArray[np.uint8]
    entries: NDArray[np.float16]
    axis: int
    dense: NDArray[np.float16]

    @property
    def ios(self) -> int:
        """The first version of iOS that has such a table: one for the whole weight, of single numbers, or any."""
        return 16 if self.entries.size == self.entries.shape[-2] else 18


def tables_of(program: ExportedProgram, lookups: Mapping[str, Lookup]) -> dict[str, Table]:
    """The weights of the program that Core ML can look up in fewer bytes than they have in float16, by name.

    It cannot where there are more than 256 vectors, where the last vector of a row is cut off, and where vectors lie
    along several axes of a kernel; nor where the program has other values, such as those of a folded BatchNorm.
    """
    found = {}
    for name, lookup in lookups.items():
        weight = program.state_dict.get(name)
        if weight is None or not np.array_equal(weight.detach().float().numpy(), lookup.decoded()):
            continue
        table = _table(lookup)
        if table is None:
            continue
        bits = (table.entries.shape[-2] - 1).bit_length()
        if table.indices.size * bits / 8 + table.entries.nbytes < table.dense.nbytes:
            found[name] = table
    return found


def _table(lookup: Lookup) -> Table | None:
    books, centroids, length = lookup.codebook.shape
    widths = WIDTHS[16 if books == length == 1 else 18]
    bits = next((width for width in widths if width >= lookup.index_bits), None)
    kernel = lookup.shape[1:]
    several = length > 1 and not lookup.rows and any(size > 1 for size in kernel[1:])
    if bits is None or several or lookup.matrix_sides[1] % length:
        return None
    entries = np.zeros((books, 2**bits, length), np.float16)
    entries[:, :centroids] = lookup.codebook
    if lookup.rows:  # a block is a few outputs
        axis, indices, blocks = 0, lookup.indices.T.reshape(-1, *kernel), (books, *[1] * len(kernel))
    else:  # a block is a few inputs, of a kernel with windows a single number
        axis, blocks = 1, (1, books, *[1] * (len(kernel) - 1))
        sides = kernel if length == 1 else (lookup.indices.shape[1], *kernel[1:])
        indices = lookup.indices.reshape(lookup.shape[0], *sides)
        if books > 1:
            blocks = (1, *sides)
    return Table(
        np.ascontiguousarray(indices).astype(np.uint8),
        entries.reshape(*blocks, 2**bits, length),
        axis,
        lookup.decoded().astype(np.float16),
    )


def store_tables(model: Any, tables: Mapping[str, Table]) -> tuple[Any, tuple[str, ...]]:
    """The model with these weights as look-up tables, and the names of those that were found in it."""
    from coremltools.converters.mil.frontend._utils import _construct_constexpr_lut_op
    from coremltools.converters.mil.mil.passes.graph_pass import AbstractGraphPass
    from coremltools.models.utils import _apply_graph_pass

    stored = []

    class StoreTables(AbstractGraphPass):  # type: ignore[misc]  # coremltools has no types
        def apply(self, prog: Any) -> None:
            for block in prog.functions.values():
                for operation in block.find_ops(op_type="const"):
                    (output,) = operation.outputs
                    name = next((name for name, own in tables.items() if _same(own.dense, output.val)), None)
                    if name is None:
                        continue
                    own = tables[name]
                    with block:
                        looked_up = _construct_constexpr_lut_op(
                            own.indices, own.entries, own.axis, f"{operation.name}_looked_up", operation
                        )
                    block.replace_uses_of_var_after_op(
                        anchor_op=operation, old_var=output, new_var=looked_up, no_check_var_types=True
                    )
                    block.remove_ops([operation])
                    stored.append(name)

    version = model.get_spec().specificationVersion
    return _apply_graph_pass(model, StoreTables(), spec_version=version, skip_model_load=True), tuple(stored)


def _same(weight: NDArray[np.float16], constant: object) -> bool:
    return isinstance(constant, np.ndarray) and constant.dtype == weight.dtype and np.array_equal(constant, weight)
