"""Every CP fitted to outputs: from components that fit the weights, those with the least output error."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from torch import Tensor

from compressor.calibration import Moments
from compressor.decompositions.base import Decomposition, Run, RunsByRank
from compressor.decompositions.cp_layers import (
    Sides,
    balanced,
    full_rank,
    khatri_rao,
    layers,
    rebuilt,
    strengths,
    weights,
)
from compressor.decompositions.cp_polish import MOST
from compressor.decompositions.output_fit import Form, Inner, output_run, refine
from compressor.decompositions.output_metric import Explained, Features, Metric, regress
from compressor.decompositions.tensor_power_method import Components, greedy_sides
from compressor.layer_shape import Rank
from compressor.layers import Layer, layer_shape, split_kernels

GAIN = 1.25
"""The output error after the search is about this power of that of the greedy components with the last side refitted:
on ResNet-20's kernels 0.295 and 0.146 (at a quarter and half of the parameters) became 0.221 and 0.087."""


def fitted_to_outputs(
    layer: Layer,
    moments: Moments,
    groups: list[Components],
    start: Callable[[int], Sides],
    label: str,
    bound: float = MOST,
) -> Decomposition:
    """Searches from `start`'s sides at every rank; what is returned has a stability number up to `bound`, as they must.

    Estimates come from the greedy components of `groups`, whatever the start.
    """
    kernels, full = split_kernels(layer), full_rank(layer_shape(layer))
    metric = Metric(layer, moments)

    def block(first: int, end: int) -> Features:
        _, b, c = (side[:, :, first:] for side in greedy_sides(groups, end))
        return _features(metric, (b, c))

    explained = Explained(metric, kernels.flatten(2), block, full[0])

    def run(rank: Rank) -> Run:
        return _run(kernels, metric, start(rank[0]), bound)

    def estimate(rank: Rank) -> float:
        return math.pow(explained.error(rank[0]), GAIN)

    return RunsByRank(layer, run, estimate, layers, full, label, "outputs")


def _run(kernels: Tensor, metric: Metric, start: Sides, bound: float) -> Run:
    whole = float(kernels.double().square().sum())
    form = Form(
        _rows, partial(_features, metric), regress, lambda outer, inner: _strength(outer, *inner) <= bound * whole
    )
    flat = kernels.flatten(2)
    a, (b, c) = refine(metric, flat, form, start[0], start[1:])
    sides = balanced((a, b, c))
    return output_run(metric, flat, rebuilt(sides), weights(sides), _strength(*sides) / whole if whole else 0.0)


def _rows(inner: Inner) -> Tensor:
    """(groups, R, S * D)."""
    b, c = inner
    return khatri_rao(b, c).mT


def _features(metric: Metric, inner: Inner) -> Features:
    rows = _rows(inner).to(metric.dtype)
    return Features(rows, metric.through(rows))


def _strength(a: Tensor, b: Tensor, c: Tensor) -> float:
    return float(strengths((a, b, c)).sum())
