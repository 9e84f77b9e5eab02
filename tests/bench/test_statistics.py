import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from bench_rows import measurement
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.host.measure import turns
from bench.measurement import BenchError, Block, Measurement
from bench.statistics import drift, is_busy, preemption_rate, quantile, summarize, time_ratio, unsteady

times = st.floats(0.01, 1e4)


def blocks(medians: Sequence[float], turns: Sequence[int]) -> tuple[Block, ...]:
    return tuple(Block(turn, (median, median, median)) for turn, median in zip(turns, medians, strict=True))


def pair(ours: Sequence[float], theirs: Sequence[float]) -> tuple[Measurement, Measurement]:
    """Two measurements that took turns A B B A, with these block medians."""
    order = turns(2, len(ours) // 2)
    places = [[turn for turn, file in enumerate(order) if file == which] for which in (0, 1)]
    return tuple(  # type: ignore[return-value]  # a tuple of two, by the loop above it
        replace(measurement(), blocks=blocks(medians, where))
        for medians, where in zip((ours, theirs), places, strict=True)
    )


def with_samples(samples: Sequence[float]) -> Measurement:
    return replace(measurement(), first_ms=99.0, blocks=(Block(0, tuple(samples)),))


def test_figures_of_known_samples() -> None:
    figures = summarize(with_samples([5, 1, 4, 2, 3]))
    assert (figures.runs, figures.first, figures.min) == (5, 99.0, 1)
    assert (figures.p10, figures.p50, figures.p90) == pytest.approx((1.4, 3, 4.6))
    assert (figures.mean, figures.sd) == (3, pytest.approx(math.sqrt(2.5)))
    assert (figures.p99, figures.drift, figures.drifted) == (None, None, False)


def test_p99_needs_a_thousand_runs() -> None:
    assert summarize(with_samples(range(1, 1000))).p99 is None
    assert summarize(with_samples(range(1, 1001))).p99 == pytest.approx(990.01)


def test_one_run_has_no_spread() -> None:
    figures = summarize(with_samples([7.0]))
    assert (figures.p10, figures.p90, figures.sd) == (7.0, 7.0, None)


def test_no_runs_have_no_figures() -> None:
    with pytest.raises(BenchError, match=r"^statistics need a run or more; alexnet \.onnx has none$"):
        summarize(replace(measurement(), blocks=()))


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(times, min_size=1, max_size=60), st.randoms())
def test_the_order_of_runs_changes_no_figure_but_drift(samples: list[float], chance: random.Random) -> None:
    shuffled = list(samples)
    chance.shuffle(shuffled)
    one, other = summarize(with_samples(samples)), summarize(with_samples(shuffled))
    assert replace(one, drift=None) == replace(other, drift=None)
    tolerance = 1e-9 * one.p90
    assert one.min <= one.p10 + tolerance <= one.p50 + 2 * tolerance <= one.p90 + 3 * tolerance


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(times, min_size=1, max_size=60), st.floats(0, 1))
def test_a_quantile_lies_between_its_neighbours(samples: list[float], share: float) -> None:
    ordered = sorted(samples)
    below = ordered[math.floor((len(ordered) - 1) * share)]
    above = ordered[math.ceil((len(ordered) - 1) * share)]
    assert below * (1 - 1e-12) <= quantile(ordered, share) <= above * (1 + 1e-12)


def test_drift_compares_the_last_tenth_with_the_first() -> None:
    steady, slower = [10.0] * 27, [10.6] * 3
    assert drift(steady + slower) == pytest.approx(0.06)
    assert summarize(with_samples(steady + slower)).drifted
    assert not summarize(with_samples(slower + steady)).drifted
    assert not summarize(with_samples(steady + [10.4] * 3)).drifted
    assert drift([1.0] * 19) is None


def test_a_busy_machine_is_told_by_the_preemptions_in_each_second_and_thread() -> None:
    second = with_samples([10.0] * 100)
    busy = replace(second, preemptions=85)
    assert unsteady(busy) == ("other processes took the core from it 85 times a second",)
    assert preemption_rate(replace(busy, threads=5)) == pytest.approx(17)
    assert not is_busy(replace(busy, threads=5))
    assert not is_busy(replace(second, preemptions=20))
    assert is_busy(replace(second, preemptions=21))


def test_preemptions_tell_nothing_where_they_are_few_or_the_process_may_move() -> None:
    short = with_samples([10.0] * 20)
    assert preemption_rate(replace(short, preemptions=9)) == pytest.approx(45)
    assert unsteady(replace(short, preemptions=9)) == ()
    assert preemption_rate(replace(short, preemptions=50, pinned_cores=None)) is None
    assert preemption_rate(replace(short, preemptions=None)) is None


def test_runs_that_spread_or_drift_are_not_steady() -> None:
    spread = with_samples(([10.0] * 8 + [12.6] * 2) * 10)
    assert unsteady(spread) == ("p90 is 1.26 times p50",)
    assert unsteady(with_samples(([10.0] * 8 + [12.4] * 2) * 10)) == ()
    assert unsteady(with_samples([10.0] * 4 + [20.0])) == ()  # of five runs, p90 is but one
    assert unsteady(with_samples([10.0] * 27 + [10.7] * 3)) == ("the last runs were 7 % slower than the first",)


def test_ratio_of_known_blocks() -> None:
    slow, fast = pair([20.0] * 16, [10.0] * 16)
    ratio = time_ratio(fast, slow)
    assert (ratio.value, ratio.low, ratio.high, ratio.rounds) == (*[pytest.approx(0.5)] * 3, 8)
    assert ratio.differs


def test_the_interval_drops_the_walsh_averages_that_tables_say() -> None:
    # Wilcoxon's signed-rank test, two-sided 5 %, critical values: 0 for n = 6, 3 for 8, 8 for 10.
    for rounds, critical in ((6, 0), (8, 3), (10, 8)):
        logs = [0.001 * 2**place for place in range(rounds)]
        candidate, reference = pair([math.exp(value) for value in logs for _ in range(2)], [1.0] * 2 * rounds)
        means = sorted((one + other) / 2 for place, one in enumerate(logs) for other in logs[place:])
        ratio = time_ratio(candidate, reference)
        assert ratio.low == pytest.approx(math.exp(means[critical]))
        assert ratio.high == pytest.approx(math.exp(means[-1 - critical]))


def test_five_rounds_give_a_value_and_no_interval() -> None:
    ratio = time_ratio(*pair([3.0] * 10, [4.0] * 10))
    assert (ratio.value, ratio.low, ratio.high, ratio.differs) == (pytest.approx(0.75), None, None, None)


@settings(deadline=None)  # a busy machine is no failure
@given(st.lists(st.tuples(times, times), min_size=12, max_size=24).filter(lambda rows: len(rows) % 2 == 0), times)
def test_a_ratio_scales_with_the_candidate_and_turns_over(rows: list[tuple[float, float]], scale: float) -> None:
    ours, theirs = [row[0] for row in rows], [row[1] for row in rows]
    one = time_ratio(*pair(ours, theirs))
    scaled = time_ratio(*pair([time * scale for time in ours], theirs))
    turned = time_ratio(*pair(theirs, ours))
    assert one.low is not None
    assert one.high is not None
    assert one.low <= one.value <= one.high
    assert (scaled.low, scaled.value, scaled.high) == pytest.approx(
        (one.low * scale, one.value * scale, one.high * scale)
    )
    assert (turned.low, turned.value, turned.high) == pytest.approx((1 / one.high, 1 / one.value, 1 / one.low))


def test_a_machine_that_slows_down_evenly_changes_no_ratio() -> None:
    order = turns(2, 8)
    by_file = [
        [cost * 1.01**turn for turn, file in enumerate(order) if file == which] for which, cost in ((0, 6), (1, 3))
    ]
    ratio = time_ratio(*pair(*by_file))
    assert (ratio.low, ratio.value, ratio.high) == pytest.approx((2, 2, 2))


def test_the_interval_covers_a_known_ratio_19_times_of_20() -> None:
    chance = random.Random(5)

    def noisy(cost: float) -> list[float]:
        # The block's own disturbance outweighs that of its runs, and one block in ten meets another process.
        return [cost * math.exp(chance.gauss(0, 0.02)) * (1.3 if chance.random() < 0.1 else 1) for _ in range(16)]

    ratios = [time_ratio(*pair(noisy(8.0), noisy(10.0))) for _ in range(600)]
    covered = sum(ratio.low <= 0.8 <= ratio.high for ratio in ratios if ratio.low and ratio.high)
    assert 0.93 <= covered / 600 <= 0.995
    assert sum(bool(ratio.differs) for ratio in ratios) > 500


def test_files_that_took_no_turns_have_no_ratio() -> None:
    one, other = pair([1.0] * 4, [2.0] * 4)
    message = r"took turns in one session; alexnet \.onnx and alexnet \.onnx did not; measure them in one call$"
    with pytest.raises(BenchError, match=message):
        time_ratio(one, replace(other, session="another"))
    with pytest.raises(BenchError, match=message):
        time_ratio(one, replace(one, blocks=blocks([1.0] * 4, range(4, 8))))
