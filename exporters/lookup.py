"""Lookup: a weight kept as indices into codebooks of short vectors, which some formats store as it is."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Lookup:
    """A weight of `shape` whose matrix, outputs by inputs, is cut into vectors of one length (product quantization,
    Gong et al. 2014).

    `indices` (members, blocks) say which vector of the `codebook` (codebooks, centroids, length) stands at each place:
    along the inputs a member is an output and its blocks lie side by side; with `rows`, along the outputs, a member is
    an input. There is one codebook for all, or one for each block. What the last block has too much is cut off.
    """

    shape: tuple[int, ...]
    indices: NDArray[np.int32]
    codebook: NDArray[np.float32]
    rows: bool

    @property
    def index_bits(self) -> int:
        """Bits that one index needs."""
        return max(1, int(self.codebook.shape[1] - 1).bit_length())

    @property
    def starts(self) -> NDArray[np.int32]:
        """The place of each block's first centroid, where all codebooks stand one below the other."""
        books, centroids, _ = self.codebook.shape
        return np.arange(books, dtype=np.int32) * np.int32(centroids)

    @property
    def matrix_sides(self) -> tuple[int, int]:
        """Members, and the numbers of each that the weight has."""
        sides = self.shape[0], math.prod(self.shape[1:])
        return (sides[1], sides[0]) if self.rows else sides

    def decoded(self) -> NDArray[np.float32]:
        """The weight itself."""
        members, cut = self.matrix_sides
        vectors = self.codebook.reshape(-1, self.codebook.shape[2])[self.indices + self.starts]
        matrix = vectors.reshape(members, -1)[:, :cut]
        return np.ascontiguousarray(matrix.T if self.rows else matrix).reshape(self.shape)


def pack(codes: NDArray[np.int32], width: int) -> NDArray[np.uint8]:
    """Numbers below 2^width in `width` (1, 2, 4 or 8) bits each, the first in the lowest bits of the first byte."""
    each = 8 // width
    parts = np.pad(codes.reshape(-1), (0, -codes.size % each)).reshape(-1, each)
    return np.asarray((parts << np.arange(0, 8, width)).sum(1), dtype=np.uint8)


def write_lookups(path: Path, lookups: Mapping[str, Lookup]) -> None:
    """Writes weights by name as arrays in one .npz."""
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, own in lookups.items():
        about = np.array([int(own.rows), *own.shape])
        arrays |= {f"{name}/about": about, f"{name}/indices": own.indices, f"{name}/codebook": own.codebook}
    np.savez(path, **arrays)  # type: ignore[arg-type]  # its stub takes `allow_pickle` for one of the arrays


def read_lookups(path: Path) -> dict[str, Lookup]:
    """The weights that `write_lookups` wrote."""
    found = {}
    with np.load(path, allow_pickle=False) as arrays:
        for name in (key.removesuffix("/about") for key in arrays if key.endswith("/about")):
            rows, *shape = map(int, arrays[f"{name}/about"])
            found[name] = Lookup(tuple(shape), arrays[f"{name}/indices"], arrays[f"{name}/codebook"], bool(rows))
    return found
