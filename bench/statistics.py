"""Figures from samples: a file's spread and drift, and how two files that took turns compare."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import fmean, median, stdev

from bench.measurement import BenchError, Measurement

CONFIDENCE = 0.95
DRIFT_LIMIT = 0.05
# Below this a p99 is the slowest sample or close to it: a figure that looks exact and is not.
P99_NEEDS = 1000
# Below this a tenth is a single run.
DRIFT_NEEDS = 20
SPREAD_LIMIT = 1.25
"""Greatest p90 over p50 of steady times: where nothing disturbs it, a network's runs differ by a few percent."""
BUSY_LIMIT = 20.0
"""Preemptions for each second and thread above which a machine was busy. Each costs a time slice of the other process,
3 to 4 ms on Linux, so 20 a second are a twelfth of the core."""
BUSY_NEEDS = 10
"""Preemptions below which no rate is told: a few fall into every short measurement."""


@dataclass(frozen=True)
class Statistics:
    """Figures of one file's runs, all in ms but `runs` and `drift`.

    `first` is the first run, which is not among the others. `sd` is None for one run, `p99` below 1,000 runs.
    `drift` is the last tenth's median over the first tenth's, minus 1 (0.05: five percent slower); None below 20 runs.
    """

    runs: int
    first: float
    min: float
    p10: float
    p50: float
    p90: float
    p99: float | None
    mean: float
    sd: float | None
    drift: float | None

    @property
    def drifted(self) -> bool:
        """True where the last tenth was more than 5 % slower than the first: the figures are then not to be trusted."""
        return self.drift is not None and self.drift > DRIFT_LIMIT


@dataclass(frozen=True)
class Ratio:
    """A file's time over another's: 0.5 is half the time. `low` and `high` bound it with 95 % confidence.

    Both are None below six rounds, where no interval of this kind reaches 95 %.
    """

    value: float
    low: float | None
    high: float | None
    rounds: int

    @property
    def differs(self) -> bool | None:
        """True where the two times differ: 1 lies outside the interval. None where there is no interval."""
        return None if self.low is None or self.high is None else not self.low <= 1 <= self.high


def summarize(measurement: Measurement) -> Statistics:
    """The figures of a measurement's runs. BenchError if it has none."""
    samples = measurement.samples_ms
    if not samples:
        raise BenchError(f"statistics need a run or more; {measurement.network} .{measurement.format} has none")
    ordered = sorted(samples)
    return Statistics(
        runs=len(samples),
        first=measurement.first_ms,
        min=ordered[0],
        p10=quantile(ordered, 0.10),
        p50=quantile(ordered, 0.50),
        p90=quantile(ordered, 0.90),
        p99=quantile(ordered, 0.99) if len(samples) >= P99_NEEDS else None,
        mean=fmean(samples),
        sd=stdev(samples) if len(samples) > 1 else None,
        drift=drift(samples),
    )


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """The value below which that fraction of the sorted samples lie, linear between two (Hyndman and Fan's type 7)."""
    position = (len(ordered) - 1) * fraction
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def drift(samples_ms: Sequence[float]) -> float | None:
    """The median of the last tenth of the runs over that of the first, minus 1; None below 20 runs."""
    tenth = len(samples_ms) // 10
    if len(samples_ms) < DRIFT_NEEDS:
        return None
    return median(samples_ms[-tenth:]) / median(samples_ms[:tenth]) - 1


def unsteady(measurement: Measurement) -> tuple[str, ...]:
    """Reasons not to trust a measurement's times, each a clause: another process took the core, the runs spread
    or drifted. Empty where they are steady. All of it is in the samples, and in the count of preemptions among them.

    The load average before is no reason: it counts the work that went before in the same run, a training too.
    """
    found, reasons = summarize(measurement), []
    if is_busy(measurement):
        reasons.append(f"other processes took the core from it {preemption_rate(measurement):.0f} times a second")
    if found.runs >= DRIFT_NEEDS and found.p90 > SPREAD_LIMIT * found.p50:
        reasons.append(f"p90 is {found.p90 / found.p50:.2f} times p50")
    if found.drift is not None and found.drifted:
        reasons.append(f"the last runs were {100 * found.drift:.0f} % slower than the first")
    return tuple(reasons)


def unsteady_clause(reasons: Sequence[str]) -> str:
    """The reasons of `unsteady` as one clause with the cure; "" where it found nothing."""
    return f"its times are not steady: {'; '.join(reasons)}; measure again" if reasons else ""


def times_remark(measurement: Measurement) -> str:
    """The reason not to use, or not to trust, a measurement's times, with the cure; "" where they are steady."""
    if measurement.invalid:
        return f"its times are invalid: {measurement.invalid}; measure again"
    return unsteady_clause(unsteady(measurement))


def is_busy(measurement: Measurement) -> bool:
    """True where other processes had a part of the cores that it was pinned to, while it ran."""
    rate = preemption_rate(measurement)
    return rate is not None and (measurement.preemptions or 0) >= BUSY_NEEDS and rate > BUSY_LIMIT


def preemption_rate(measurement: Measurement) -> float | None:
    """Times a second that the core was taken from each thread. None where the system did not count, or did not pin: a
    process that may move goes on at once on another core, and macOS counts its own time slices."""
    seconds = sum(measurement.samples_ms) / 1000
    if measurement.preemptions is None or measurement.pinned_cores is None or not seconds:
        return None
    return measurement.preemptions / seconds / measurement.threads


def time_ratio(candidate: Measurement, reference: Measurement) -> Ratio:
    """The candidate's time over the reference's, with a 95 % interval, from the rounds in which they took turns.

    In each round (A B B A) the mean log of A's block medians minus that of B's is one paired difference. A steady
    drift of the machine cancels in it, and a block's median does not feel a run that was disturbed. The value is the
    median of the means of all pairs of differences (Hodges and Lehmann 1963); the interval belongs to Wilcoxon's
    signed-rank test with its exact distribution (Hollander, Wolfe and Chicken, Nonparametric Statistical Methods,
    section 3.3). It assumes independent rounds and symmetric errors, not normal ones. The unit is the round, not the
    single run, because runs of one block resemble each other (Kalibera and Jones 2013).

    BenchError if the two did not take turns in one session.
    """
    differences = _paired(candidate, reference)
    means = sorted((one + other) / 2 for index, one in enumerate(differences) for other in differences[index:])
    dropped = _dropped(len(differences))
    low, high = (None, None) if dropped is None else (math.exp(means[dropped]), math.exp(means[-1 - dropped]))
    return Ratio(math.exp(median(means)), low, high, len(differences))


def _paired(candidate: Measurement, reference: Measurement) -> list[float]:
    """For each round, the mean log block median of the candidate minus that of the reference."""
    ours, theirs = _rounds(candidate), _rounds(reference)
    # Equal sums of turns are what A B B A is for: a machine that slows down evenly slows both alike.
    balanced = [turns for turns, _ in ours] == [turns for turns, _ in theirs]
    if candidate.session != reference.session or not ours or not balanced:
        raise BenchError(
            f"a time ratio needs two files that took turns in one session; {candidate.network} .{candidate.format} and "
            f"{reference.network} .{reference.format} did not; measure them in one call"
        )
    return [our - their for (_, our), (_, their) in zip(ours, theirs, strict=True)]


def _rounds(measurement: Measurement) -> list[tuple[int, float]]:
    """For each round (two blocks): the sum of its blocks' turns, and the mean log of their medians."""
    blocks = measurement.blocks
    return [
        (one.turn + other.turn, (math.log(median(one.samples_ms)) + math.log(median(other.samples_ms))) / 2)
        for one, other in zip(blocks[::2], blocks[1::2], strict=False)
    ]


def _dropped(rounds: int) -> int | None:
    """Pair means that fall off each end while 95 % or more stays between; None if even their range has less."""
    # ways[s]: in how many of the 2^n sign patterns do the ranks of the positive differences sum to s?
    ways = [1]
    for rank in range(1, rounds + 1):
        ways = [
            (ways[total] if total < len(ways) else 0) + (ways[total - rank] if total >= rank else 0)
            for total in range(len(ways) + rank)
        ]
    tail = 2**rounds * (1 - CONFIDENCE) / 2
    below = sum(1 for count in accumulate(ways) if count <= tail)
    return below - 1 if below else None
