"""McNemar's exact test (1947) of two networks on the same images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CHANCE = 0.1
"""One-sided p from which on a difference of two networks is put down to chance."""


@dataclass(frozen=True)
class McNemarTest:
    """`only_first` and `only_second` count images that one of the two alone has right; `p` is the probability of a
    difference at least as large if both were equally good."""

    only_first: int
    only_second: int
    p: float


def mcnemar(
    first: Sequence[bool], second: Sequence[bool], alternative: Literal["two-sided", "greater"] = "two-sided"
) -> McNemarTest:
    """The test of two networks by the images that each has right; "greater" asks if the first has more."""
    from scipy.stats import binomtest  # takes half a second to import

    only_first = sum(one and not other for one, other in zip(first, second, strict=True))
    only_second = sum(other and not one for one, other in zip(first, second, strict=True))
    split = only_first + only_second
    p = float(binomtest(only_first, split, alternative=alternative).pvalue) if split else 1.0
    return McNemarTest(only_first, only_second, p)
