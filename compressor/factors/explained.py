"""What the first r components explain of a layer's outputs, for every r at once: the estimates of data-aware forms."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from compressor.factors.metric import FLOOR, Features, Metric

BLOCK = 32
"""Components taken in at once. Blocks are always the same, so that no estimate depends on what was asked before."""


class Explained:
    """Energy of kernels (groups, T, S * D) explained by features, after refitting the last factor to them.

    `block(first, end)` gives the features of those of the `most` components, `each` rows for a component. By
    Gram-Schmidt in the metric every component adds what it explains beyond those before it, as in a regression.
    """

    def __init__(
        self, metric: Metric, kernels: Tensor, block: Callable[[int, int], Features], most: int, each: int = 1
    ) -> None:
        self._metric, self._block, self._most, self._each = metric, block, most, each
        self._kernels = kernels.to(metric.dtype)
        self._whole = metric.energy(kernels)
        nothing = self._kernels[:, :0]
        self._basis = Features(nothing, nothing)
        self._sums = torch.zeros(1, kernels.shape[1], dtype=torch.float64)

    def error(self, count: int, outputs: int | None = None) -> float:
        """Relative output error with the first `count` components, of the first `outputs` output channels alone if
        the others are given up."""
        if not self._whole:
            return 0.0
        while len(self._sums) <= count * self._each:
            self._extend()
        explained = float(self._sums[count * self._each, :outputs].sum())
        return math.sqrt(min(1.0, max(0.0, 1 - explained / self._whole)))

    def _extend(self) -> None:
        first = (len(self._sums) - 1) // self._each
        new = self._block(first, min(first + BLOCK, self._most))
        lengths = (new.through * new.rows).sum(2, keepdim=True).clamp_min(0).sqrt()
        scale = torch.where(lengths > 0, lengths, 1.0)
        known = (new.rows / scale) @ self._basis.through.mT
        fresh = Features(new.rows / scale - known @ self._basis.rows, new.through / scale - known @ self._basis.through)
        floor = FLOOR[self._metric.dtype] * torch.eye(fresh.gram.shape[1], dtype=torch.float64)
        lower = torch.linalg.cholesky(fresh.gram + floor).to(fresh.rows.dtype)
        rows, through = (torch.linalg.solve_triangular(lower, own, upper=False) for own in (fresh.rows, fresh.through))
        self._basis = Features(torch.cat([self._basis.rows, rows], 1), torch.cat([self._basis.through, through], 1))
        gained = (through @ self._kernels.mT).double().square().sum(0)
        self._sums = torch.cat([self._sums, self._sums[-1] + gained.cumsum(0)])
