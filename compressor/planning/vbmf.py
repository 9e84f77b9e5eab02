"""Ranks by variational Bayes: the global analytic solution of empirical VB matrix factorization.

Nakajima, Sugiyama, Babacan, Tomioka: Global Analytic Solution of Fully-observed Variational Bayesian Matrix
Factorization, Journal of Machine Learning Research 14 (2013), Theorem 2 and Corollary 1. Kim et al. 2016 take it for
the ranks of Tucker-2.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import brentq, minimize_scalar
from torch import Tensor

from compressor.planning.options import OPTIONS

Array = NDArray[np.float64]


def evbmf_rank(matrix: Tensor) -> int:
    """Number of components of a matrix that stand out of its noise, whose variance is estimated too."""
    gram = matrix.double()
    gram = gram @ gram.mT if gram.shape[0] <= gram.shape[1] else gram.mT @ gram
    values = torch.linalg.eigvalsh(gram).flip(0).clamp_min(0).numpy()
    return evbmf_rank_of(values, min(matrix.shape), max(matrix.shape))


def evbmf_rank_of(squares: Array, rows: int, columns: int) -> int:
    """`evbmf_rank` from the squared singular values, largest first, of a matrix of rows <= columns."""
    if not squares[0] > 0:
        return 0
    alpha = rows / columns
    least = threshold(alpha)
    variance = _noise(squares, columns, alpha, least)
    return int((squares > columns * variance * least).sum())


def threshold(alpha: float) -> float:
    """The scaled squared singular value above which a component counts: (1 + tau)(1 + alpha / tau)."""

    def balance(tau: float) -> float:
        return _phi(tau) + _phi(tau / alpha)

    tau = brentq(balance, 1e-6, 10.0)
    return float((1 + tau) * (1 + alpha / tau))


def _phi(z: float) -> float:
    return float(np.log1p(z) / z - 0.5)


def _noise(squares: Array, columns: int, alpha: float, least: float) -> float:
    """The noise variance that makes the free energy least, searched between the theorem's bounds."""
    count = len(squares)
    most = min(int(np.ceil(count / (1 + alpha))) - 1, count - 1)
    low = max(float(squares[most]) / (columns * least), float(squares[most:].mean()) / columns)
    high = float(squares.mean()) / columns
    if not low < high:
        return max(high, np.finfo(float).tiny)
    low = max(low, high * 1e-12)
    # The free energy is smooth but has several valleys: the best of a grid, then the bottom of that valley.
    grid = np.geomspace(low, high, OPTIONS.noise_grid)
    energies = [free_energy(squares / (columns * variance), alpha, least) for variance in grid]
    index = int(np.argmin(energies))
    bounds = grid[max(0, index - 1)], grid[min(len(grid) - 1, index + 1)]
    found = minimize_scalar(
        lambda variance: free_energy(squares / (columns * variance), alpha, least), bounds=bounds, method="bounded"
    )
    return float(found.x if found.fun <= energies[index] else grid[index])


def free_energy(scaled: Array, alpha: float, least: float) -> float:
    """Terms of the free energy that depend on the noise, for singular values squared over columns times variance."""
    noise, signal = scaled[scaled <= least], scaled[scaled > least]
    energy = float((noise - np.log(np.maximum(noise, np.finfo(float).tiny))).sum())
    if len(signal):
        root = signal - (1 + alpha)
        tau = 0.5 * (root + np.sqrt(np.maximum(root**2 - 4 * alpha, 0)))
        energy += float((signal - tau + np.log((tau + 1) / signal) + alpha * np.log(tau / alpha + 1)).sum())
    return energy
