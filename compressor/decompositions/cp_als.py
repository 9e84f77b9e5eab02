"""CP by TensorLy's `parafac`: plain alternating least squares, for comparison with `cp` and `cp-polished`.

Its components may cancel without bound: read the stability number before using it.
"""

from __future__ import annotations

import math
import warnings
from functools import partial

import torch
from torch import Tensor

from compressor.calibration import Moments
from compressor.decompositions.base import Decomposition, Method, RunsByRank, windowed
from compressor.decompositions.cp_layers import Sides, full_rank, layers, parts, run_of, supports
from compressor.decompositions.cp_output_fit import fitted_to_outputs
from compressor.decompositions.tensor_power_method import greedy_components, greedy_estimate
from compressor.layers import Layer, layer_shape, split_kernels

LABEL = "CP-ALS"
SWEEPS = 200
RIDGE = 1e-10
"""For |K| = 1 and in float64: so little that fits stay, enough to solve for more components than a kernel has."""


def decompose(layer: Layer, seed: int, moments: Moments | None = None) -> Decomposition:
    """Every rank is a run on every group's T x S x D kernel; a group's own seed is `seed` plus its number.

    Estimates are those of `cp-polished`, which fits alike.
    """
    layer = windowed(layer, LABEL, supports)
    kernels = split_kernels(layer)
    sides, greedy = partial(_sides, kernels, seed), greedy_components(kernels, seed)
    if moments is not None:
        return fitted_to_outputs(layer, moments, greedy, sides, LABEL, bound=math.inf)
    return RunsByRank(
        layer,
        lambda rank: run_of(kernels, sides(rank[0])),
        partial(greedy_estimate, greedy),
        layers,
        full_rank(layer_shape(layer)),
        LABEL,
    )


def _sides(kernels: Tensor, seed: int, count: int) -> Sides:
    groups = [_parafac(kernel, count, seed + number) for number, kernel in enumerate(kernels)]
    a, b, c = (torch.stack(sides) for sides in zip(*groups, strict=True))
    return a, b, c


def _parafac(kernel: Tensor, rank: int, seed: int) -> Sides:
    from tensorly.decomposition import parafac

    scale = float(torch.linalg.vector_norm(kernel, dtype=torch.float64))
    if not scale:
        a, b, c = (torch.zeros(size, rank, dtype=kernel.dtype) for size in kernel.shape)
        return a, b, c
    unit = (kernel.double() / scale).numpy()
    with warnings.catch_warnings():
        # A mode with fewer singular vectors than components starts the others at random, as it should, and says so.
        warnings.filterwarnings("ignore", "Trying to compute SVD with n_eigenvecs", UserWarning)
        found = parafac(unit, rank, SWEEPS, init="svd", random_state=seed, l2_reg=RIDGE)
    sides = [torch.from_numpy(side) for side in found.factors]
    norms = [torch.linalg.vector_norm(side, dim=0) for side in sides]
    root = (scale * norms[0] * norms[1] * norms[2]).pow(1 / 3)
    a, b, c = (
        (side * (root / norm.clamp_min(1e-300))).to(kernel.dtype) for side, norm in zip(sides, norms, strict=True)
    )
    return a, b, c


METHOD = Method(LABEL, supports, full_rank, parts, layers, decompose)
