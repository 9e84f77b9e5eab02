"""Product quantization: a weight as indices into a codebook of short vectors. Sharing, bits(), quantize()."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from compressor.calibration import Moments
from compressor.layer_shape import PlanError

Split = Literal["columns", "rows"]
Codebook = Literal["layer", "block"]

CENTROIDS = range(2, 65537)
DAMPING = 0.01
"""Of the mean second moment, added to each: an input that was never seen still counts a little."""


@dataclass(frozen=True)
class Sharing:
    """Product quantization of a weight (Gong et al. 2014): sub-vectors of `length` numbers become centroids.

    The weight is a matrix, outputs by inputs (a convolution's window lies within its inputs). Split along "columns",
    a sub-vector is `length` neighbouring inputs of one output, along "rows" as many outputs at one input. All
    sub-vectors at the same inputs (outputs) are a block. One codebook serves the whole "layer", or each "block" has
    its own.
    """

    length: int
    centroids: int
    split: Split = "columns"
    codebook: Codebook = "layer"

    def __post_init__(self) -> None:
        if self.length < 1 or self.centroids not in CENTROIDS:
            raise PlanError(
                f"weights are shared as length x centroids, the length from 1 and the centroids from "
                f"{CENTROIDS.start} to {CENTROIDS.stop - 1}, not {self.length}x{self.centroids}; take 4x256, say"
            )

    @staticmethod
    def parse(text: str) -> Sharing:
        """ "4x256", or with words after it "4x256,rows,block". PlanError for anything else."""
        size, *words = text.split(",")
        length, _, centroids = size.partition("x")
        if not (length.isdigit() and centroids.isdigit()) or set(words) - {"columns", "rows", "layer", "block"}:
            raise PlanError(
                "weights are shared as length x centroids, with rows for sub-vectors along the outputs and block for a "
                f"codebook of each block's own, such as 4x256 or 8x16,rows,block, not {text!r}"
            )
        for both in ({"columns", "rows"}, {"layer", "block"}):
            if both <= set(words):
                raise PlanError(
                    f"sub-vectors lie along columns or rows, a codebook serves the layer or a block, and {text!r} asks "
                    f"for {' and '.join(sorted(both))}; leave one of them out"
                )
        split, codebook = "rows" if "rows" in words else "columns", "block" if "block" in words else "layer"
        return Sharing(int(length), int(centroids), split, codebook)  # type: ignore[arg-type]  # one of its words

    @property
    def index_bits(self) -> int:
        return (self.centroids - 1).bit_length()

    def text(self) -> str:
        return f"{self.length}x{self.centroids} along {self.split}, a codebook for each {self.codebook}"


@dataclass(frozen=True)
class Effort:
    """Effort of k-means: at most so many `sweeps`, over at most so many `samples` for each centroid, at random."""

    samples: int
    sweeps: int


THOROUGH = Effort(samples=256, sweeps=50)
ROUGH = Effort(samples=64, sweeps=10)


@dataclass(frozen=True)
class Grid:
    """Sub-vectors of a weight: `blocks` of `members` each, and how many codebooks serve them."""

    blocks: int
    members: int
    codebooks: int

    @property
    def served(self) -> int:
        """Sub-vectors that one codebook serves."""
        return self.blocks * self.members // self.codebooks


@dataclass(frozen=True)
class Bits:
    """Exact size in bits of a shared weight, and of the same weight as float32."""

    indices: int
    codebooks: int
    dense: int

    @property
    def total(self) -> int:
        return self.indices + self.codebooks

    @property
    def factor(self) -> float:
        """The compression factor."""
        return self.dense / self.total


@dataclass(frozen=True)
class Shared:
    """A shared weight: `indices` (blocks, members) into `codebook` (codebooks, centroids, length), float32.

    `error` is the relative error of the weight, or of the layer's outputs where moments of its inputs were there.
    """

    weight: tuple[int, ...]
    sharing: Sharing
    indices: Tensor
    codebook: Tensor
    error: float | None = None

    def decoded(self) -> Tensor:
        """The weight that the indices and the codebook mean."""
        return joined(looked_up(self.codebook, self.indices), self.weight, self.sharing)


def grid(weight: tuple[int, ...], sharing: Sharing) -> Grid:
    """The sub-vectors of a weight of that shape; zeros fill the last block up where the length does not divide."""
    members, cut = weight[0], math.prod(weight[1:])
    if sharing.split == "rows":
        members, cut = cut, members
    blocks = math.ceil(cut / sharing.length)
    return Grid(blocks, members, blocks if sharing.codebook == "block" else 1)


def bits(weight: tuple[int, ...], sharing: Sharing) -> Bits:
    """Bits of a weight of that shape when it is shared: ceil(log2 k) for each index, 32 for each number of a codebook.

    With a codebook for each of s blocks, L s = n and k a power of two, dense / total is Gong et al. 2014's rate,
    32 m n / (32 k n + m s log2 k). Padding is counted as it is stored: with the last block's indices and centroids.
    """
    own = grid(weight, sharing)
    indices = own.blocks * own.members * sharing.index_bits
    return Bits(indices, 32 * sharing.centroids * sharing.length * own.codebooks, 32 * math.prod(weight))


def check_sharing(name: str, weight: tuple[int, ...], sharing: Sharing) -> None:
    """PlanError where a codebook has more centroids than sub-vectors to serve."""
    own = grid(weight, sharing)
    if sharing.centroids > own.served:
        cure = "leave out block, so that one codebook serves the whole layer, " if own.codebooks > 1 else ""
        raise PlanError(
            f"{sharing.centroids} centroids do not fit {name} ({'x'.join(map(str, weight))}): a codebook has at most "
            f"as many centroids as sub-vectors to serve, here {own.served} of length {sharing.length}; {cure}lower the "
            f"number, or leave {name} out of share.share_layers"
        )


def subvectors(weight: Tensor, sharing: Sharing) -> Tensor:
    """The weight as (blocks, members, length), zeros where the last block is short."""
    matrix = weight.reshape(len(weight), -1)
    matrix = matrix.T if sharing.split == "rows" else matrix
    padded = functional.pad(matrix, (0, -matrix.shape[1] % sharing.length))
    return padded.reshape(len(padded), -1, sharing.length).transpose(0, 1)


def joined(vectors: Tensor, weight: tuple[int, ...], sharing: Sharing) -> Tensor:
    """The weight of that shape that `subvectors` cut into (blocks, members, length); its padding falls away."""
    matrix = vectors.transpose(0, 1).reshape(vectors.shape[1], -1)
    cut = weight[0] if sharing.split == "rows" else math.prod(weight[1:])
    matrix = matrix[:, :cut]
    return (matrix.T if sharing.split == "rows" else matrix).reshape(weight)


def looked_up(codebook: Tensor, indices: Tensor) -> Tensor:
    """Sub-vectors (blocks, members, length) of indices (blocks, members) into (codebooks, centroids, length).

    In the backward pass a centroid's gradient is the mean over its members, not their sum, so that one learning rate
    suits rare and frequent centroids.
    """
    books, centroids, length = codebook.shape
    starts = centroids * torch.arange(books, device=indices.device)[:, None]  # one row serves every block
    return functional.embedding(indices + starts, codebook.reshape(-1, length), scale_grad_by_freq=True)


def quantize(
    name: str, weight: Tensor, sharing: Sharing, seed: int = 0, second: Tensor | None = None, effort: Effort = THOROUGH
) -> Shared:
    """The weight of the layer `name` shared, by k-means (scikit-learn's) on its sub-vectors.

    With the `second` moment of the layer's inputs (from `second_moment`), what is least is the error of its outputs:
    sub-vectors are compared in the metric of their own inputs (Stock et al. 2020), each block by itself; a codebook
    that serves all blocks takes their mean, weighted by block. A centroid is the mean of its members. PlanError for
    more centroids than sub-vectors, or a weight that is not finite.
    """
    check_sharing(name, tuple(weight.shape), sharing)
    whole = weight.detach().to("cpu", torch.float32)
    if not bool(torch.isfinite(whole).all()):
        raise PlanError(f"the weight of {name} holds NaN or infinity, so nothing can stand for it; mend the checkpoint")
    vectors = subvectors(whole, sharing)
    metric, mass = _metric(vectors, sharing, second)
    points = (vectors @ metric).to(torch.float32)
    if sharing.codebook == "layer":
        labels = _assigned(points.flatten(0, 1), mass.flatten(), sharing.centroids, seed, effort).reshape(mass.shape)
        codebook = _means(vectors.flatten(0, 1), mass.flatten(), labels.flatten(), sharing.centroids)[None]
    else:
        rows = zip(points, mass, strict=True)
        labels = torch.stack([_assigned(own, weights, sharing.centroids, seed, effort) for own, weights in rows])
        books = zip(vectors, mass, labels, strict=True)
        codebook = torch.stack([_means(*each, sharing.centroids) for each in books])
    shared = Shared(tuple(weight.shape), sharing, labels.to(torch.int32), codebook)
    return replace(shared, error=relative_error(whole, shared.decoded(), second))


def relative_error(weight: Tensor, approximation: Tensor, second: Tensor | None = None) -> float:
    """The approximation's relative error as a matrix, or that of its outputs for inputs of that second moment."""
    whole, lost = (matrix.reshape(len(weight), -1).double() for matrix in (weight, weight - approximation))
    if second is None:
        return float(lost.norm() / whole.norm().clamp_min(1e-300))
    energies = [float(((matrix @ second) * matrix).sum()) for matrix in (lost, whole)]
    return math.sqrt(max(energies[0], 0.0) / max(energies[1], 1e-300))


def second_moment(moments: Moments, centred: bool) -> Tensor:
    """The inputs' second moment (width, width), damped, groups averaged; `centred` if a bias takes up their mean."""
    second = moments.matrix().double()
    if centred:
        mean = moments.mean.double()
        second = second - mean[:, :, None] * mean[:, None, :]
    second = second.mean(0)
    damping = DAMPING * float(second.diagonal().mean()) or 1.0
    return second + damping * torch.eye(len(second), dtype=second.dtype)


def _metric(vectors: Tensor, sharing: Sharing, second: Tensor | None) -> tuple[Tensor, Tensor]:
    """Factor (blocks or 1, L, L) that sub-vectors are multiplied by before they are compared, and weight of each."""
    blocks, members, length = vectors.shape
    plain, alike = torch.eye(length)[None], torch.ones(blocks, members)
    if second is None:
        return plain, alike
    if sharing.split == "rows":  # one input for each member, the same in every block
        own = second.diagonal()
        return plain, (own / own.mean()).float().expand(blocks, members)
    missing = blocks * length - len(second)
    padded = functional.pad(second, (0, missing, 0, missing))
    own = padded.reshape(blocks, length, blocks, length).diagonal(dim1=0, dim2=2).permute(2, 0, 1)
    if missing:
        own = own + torch.diag_embed((own.diagonal(dim1=1, dim2=2) == 0) * second.diagonal().mean())
    if sharing.codebook == "block":
        return torch.linalg.cholesky(own).float(), alike
    sizes = own.diagonal(dim1=1, dim2=2).sum(1)
    return torch.linalg.cholesky(own.mean(0, keepdim=True)).float(), (sizes / sizes.mean()).float()[:, None] * alike


def _assigned(points: Tensor, mass: Tensor, centroids: int, seed: int, effort: Effort) -> Tensor:
    """The centroid of each point (count, length), by weighted k-means."""
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    values: NDArray[np.float32] = points.numpy()
    weights: NDArray[np.float32] = mass.numpy()
    chosen = np.arange(len(values))
    if len(values) > effort.samples * centroids:
        chosen = np.random.default_rng(seed).choice(len(values), effort.samples * centroids, replace=False)
    means = KMeans(centroids, n_init=1, max_iter=effort.sweeps, random_state=seed)
    with warnings.catch_warnings():
        # Fewer distinct sub-vectors than centroids, as a regularizer may leave them: the others stay unused.
        warnings.simplefilter("ignore", ConvergenceWarning)
        means.fit(values[chosen], sample_weight=weights[chosen])
        return torch.from_numpy(means.predict(values)).long()


def _means(vectors: Tensor, mass: Tensor, labels: Tensor, centroids: int) -> Tensor:
    """The weighted mean of each centroid's members (centroids, length); zeros for one that has none."""
    weights = mass.double()
    sums = torch.zeros(centroids, vectors.shape[1], dtype=torch.float64)
    sums.index_add_(0, labels, vectors.double() * weights[:, None])
    total = torch.zeros(centroids, dtype=torch.float64).index_add_(0, labels, weights)
    return (sums / total.clamp_min(1e-300)[:, None]).float()
