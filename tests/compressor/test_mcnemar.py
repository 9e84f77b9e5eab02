"""McNemar's exact test against the binomial distribution, and where fine-tuning draws the line."""

import pytest
from scipy.stats import binom

from compressor.mcnemar import mcnemar
from compressor.training.loop import CHANCE


def test_the_comparison_is_mcnemars():
    found = mcnemar([True] * 14 + [False] * 6, [True] * 5 + [False] * 15)
    assert (found.only_first, found.only_second) == (9, 0)
    assert found.p == pytest.approx(2 * binom.cdf(0, 9, 0.5))
    assert mcnemar([True, False], [True, False]).p == 1


@pytest.mark.parametrize(
    ("only_first", "only_second", "better"),
    [
        (4, 0, True),  # p 1/16
        (3, 0, False),  # 1/8
        (9, 3, True),  # 299/4096, 0.073
        (8, 3, False),  # 232/2048, 0.113
        (0, 0, False),
        (0, 9, False),
    ],
)
def test_more_images_right_by_more_than_chance(only_first, only_second, better):
    both = [True] * 50 + [False] * 7
    first = [*both, *[True] * only_first, *[False] * only_second]
    second = [*both, *[False] * only_first, *[True] * only_second]
    assert (mcnemar(first, second, "greater").p < CHANCE) is better
