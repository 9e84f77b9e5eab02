"""The polish of a CP: sweeps of alternating least squares with a ridge, which fit better and cannot run away.

Plain ALS lets components grow that cancel each other: on trained kernels the sum of squared component norms (the
stability number) reached 470 times |K|^2. Here each least-squares problem carries a ridge, in proportion to what is
left to explain and stiffer the larger the stability number; what is returned is the best sweep within the bound.
"""

from __future__ import annotations

import torch
from torch import Tensor

from compressor.decompositions.cp_layers import Sides, balanced, khatri_rao, rebuilt, strengths

SWEEPS = 50
"""Twice as many bring the mean error of ResNet-56's kernels at a quarter of the parameters from 0.488 to 0.485."""
RIDGE = 1.2e-3
"""Ridge for |K| = 1, as a share of the energy that is left: halved or doubled, mean errors move by less than 0.002."""
STIFF_FROM = 2.0
"""Stability number above which the ridge grows, with the square of their ratio."""
MOST = 5.0
"""The largest stability number that is returned."""
MOMENTUM = 0.95
"""Most of a sweep's movement that is added to it (as Ang et al. 2019 do): 50 sweeps then fit like 200 without."""
FLOOR = 1e-9
"""Least ridge: keeps the normal equations solvable in float64 where components are parallel or zero."""


def polish(kernels: Tensor, sides: Sides) -> Sides:
    """Sides that fit (groups, T, S, D) kernels at least as well as those given, with a stability number up to MOST.

    The given ones must be within that bound, as the power method's are. All groups sweep together.
    """
    scale = _norms(kernels)
    # The longest mode leads: its products with the kernel are two matrix products a sweep, shared by the other modes.
    order = sorted(range(3), key=lambda mode: -kernels.shape[mode + 1])
    flat = (kernels / scale.unsqueeze(3)).permute(0, *(mode + 1 for mode in order)).flatten(2)
    a, b, c = (sides[mode] / scale.pow(1 / 3) for mode in order)
    current = best = balanced((a, b, c))
    whole = flat.double().square().sum((1, 2))
    strength, left = strengths(best), (rebuilt(best) - flat).double().square().sum((1, 2))
    least, penalty = left, _penalty(best)
    momentum = torch.full_like(left, MOMENTUM / 2)
    _, b, c = current
    for _ in range(SWEEPS):
        ridge = RIDGE * left * (strength / STIFF_FROM).clamp_min(1.0).square() + FLOOR
        goal = left + ridge * penalty
        fresh, explained = _sweep(flat, b, c, ridge)
        left = (whole - explained).clamp_min(0.0)
        strength, penalty = strengths(fresh), _penalty(fresh)
        better = (left < least) & (strength <= MOST)
        least = torch.where(better, left, least)
        best = _where(better, fresh, best)
        rose = left + ridge * penalty > goal
        momentum = torch.where(rose, momentum / 2, (momentum * 1.1).clamp_max(MOMENTUM))
        step = torch.where(rose, 0.0, momentum).to(flat.dtype)[:, None, None]
        b, c = (new + step * (new - old) for new, old in zip(fresh[1:], current[1:], strict=True))
        current = fresh
    a, b, c = (best[order.index(mode)] * scale.pow(1 / 3) for mode in range(3))
    return a, b, c


def _sweep(flat: Tensor, b: Tensor, c: Tensor, ridge: Tensor) -> tuple[Sides, Tensor]:
    """New sides, balanced, and |K|^2 - |K - rebuilt|^2 of each group from the Grams, without rebuilding.

    Each side solves (Hadamard product of the other two's Grams + ridge) X = K * Khatri-Rao product.
    """
    groups, _, rank = b.shape
    gram_b, gram_c = _gram(b), _gram(c)
    a = _solve(flat @ khatri_rao(b, c), gram_b * gram_c, ridge)
    gram_a = _gram(a)
    planes = (flat.mT @ a).reshape(groups, b.shape[1], c.shape[1], rank)
    b = _solve((planes * c.unsqueeze(1)).sum(2), gram_a * gram_c, ridge)
    gram_b = _gram(b)
    of_c = (planes * b.unsqueeze(2)).sum(1)
    c = _solve(of_c, gram_a * gram_b, ridge)
    inner = (c.double() * of_c.double()).sum((1, 2))
    explained = 2 * inner - (gram_a * gram_b * _gram(c)).sum((1, 2))
    return balanced((a, b, c)), explained


def _solve(products: Tensor, gram: Tensor, ridge: Tensor) -> Tensor:
    """(groups, side, R) from the normal equations, by Cholesky in float64."""
    damped = gram + torch.diag_embed(ridge.unsqueeze(1).expand(-1, gram.shape[1]))
    solved: Tensor = torch.cholesky_solve(products.double().mT, torch.linalg.cholesky(damped))
    return solved.mT.to(products.dtype)


def _gram(side: Tensor) -> Tensor:
    exact = side.double()
    return exact.mT @ exact


def _penalty(sides: Sides) -> Tensor:
    return sum((side.double().square().sum((1, 2)) for side in sides), torch.zeros(()))


def _where(chosen: Tensor, sides: Sides, others: Sides) -> Sides:
    mask = chosen[:, None, None]
    a, b, c = (torch.where(mask, side, other) for side, other in zip(sides, others, strict=True))
    return a, b, c


def _norms(kernels: Tensor) -> Tensor:
    """|K| of each group as (groups, 1, 1), 1 for a zero kernel; no square of it overflows or vanishes."""
    largest = kernels.abs().amax((1, 2, 3), keepdim=True)
    largest = torch.where(largest > 0, largest, 1.0)
    norms = (largest * torch.linalg.vector_norm(kernels / largest, dim=(1, 2, 3), keepdim=True)).squeeze(3)
    return torch.where(norms > 0, norms, 1.0)
