"""Flipped predictions of two networks on the same images, and McNemar's test of the difference."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Comparison:
    """`only_first` and `only_second` count images that one of the two alone has right; `p` is the probability of a
    difference at least as large if both were equally good (McNemar's exact test, two-sided)."""

    flipped: int
    only_first: int
    only_second: int
    p: float


def compare(first: Sequence[int], second: Sequence[int], labels: Sequence[int]) -> Comparison:
    """The comparison of two networks' predictions for images with these labels."""
    from scipy.stats import binomtest

    rows = list(zip(first, second, labels, strict=True))
    only_first = sum(one == label != other for one, other, label in rows)
    only_second = sum(other == label != one for one, other, label in rows)
    split = only_first + only_second
    p = float(binomtest(only_first, split).pvalue) if split else 1.0
    return Comparison(sum(one != other for one, other, _ in rows), only_first, only_second, p)
