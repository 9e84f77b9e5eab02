"""PlannerOptions: every number of the planner that is not the network's, the device's or the goal's, and its reason."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class PlannerOptions:
    """The planner's own constants. Fractions and factors have no unit; a field in another unit says so."""

    # Candidate ranks
    ranks: int = 20
    """Candidate ranks of a layer and method; a limit can be missed by the step between two of them."""
    ranks_of_large: int = 64
    """Candidate ranks of a layer that holds a large part of the network, so that one step is a small one."""
    large_layer: float = 0.05
    """From this fraction of the network's parameters or MACs on a layer is large."""
    lowest_rank: float = 1 / 48
    """The lowest candidate rank over the highest one."""
    highest_cp_rank: float = 0.5
    """The highest candidate rank of a CP over its break-even: greedy components take time with the square of it."""
    pair_steps: int = 7
    """Steps from the lowest to the full rank on each of Tucker's two sides."""
    pair_distance: int = 2
    """Steps that Tucker's two ranks may lie apart: a kernel that needs few of one side needs few of the other."""
    lowest_pair: float = 0.06
    """Tucker's lowest candidate ranks over the full ones."""
    rank_multiple: int = 8
    """Ranks of counted plans are multiples of it: kernels of mobile runtimes work on 8 channels at once."""

    # Costs
    macs_per_element: int = 16
    """MACs in the time in which one element is moved, for predicted work: a core with 8-wide fused multiply-adds does
    about 16 of them while it streams 4 bytes from memory."""
    anchors: int = 3
    """Candidate ranks of a layer and method whose cost is measured first; between them it is interpolated."""
    faster: float = 0.97
    """A variant is faster when it takes at most this fraction of its layer's time: less is within the noise."""
    same_cost: float = 1.001
    """A sum of costs over the original's that is not slower: the original itself has to fit the solver's tolerance."""
    bytes_per_parameter: Mapping[str, int] = field(default_factory=lambda: {"float32": 4, "float16": 2, "int8": 1})
    """Bytes by the number type of the file; scales and biases of int8 are within `file_bytes_of_layer`."""
    file_factor: float = 1.005
    """Bytes of a file over those of its parameters, beside the graph: with the two below it, a bound on the files of
    eleven networks in three formats."""
    file_bytes: int = 60_000
    """Bytes of a file's graph and tables."""
    file_bytes_of_layer: int = 12_000
    """Bytes of a file's graph and tables for each layer."""

    # Losses
    probe_errors: tuple[float, ...] = (0.15, 0.3, 0.5, 0.7)
    """Relative errors at which each layer is compressed alone: from hardly felt to nearly gone."""
    probe_ranks: int = 48
    """Ranks among which those nearest to the probe errors are found."""
    probe_images: int = 512
    """Images of the validation split that losses are measured on: one of them is then a fifth of a point."""
    same_error: float = 1e-3
    """A stored probe whose error differs by more was measured on other factors, and is measured again."""
    least_energy: float = 1e-6
    """Energy that survives a layer at least: a variant that loses everything has a loss, not an infinite one."""
    least_loss: float = 1e-9
    """Nats that stand for a loss of nothing where logarithms are taken."""
    estimate_penalty: float = 1.15
    """Factor on losses from estimated errors beside exact ones of the same layer. Estimates are off by up to an eighth;
    a planner that always follows the most hopeful one never makes the same plan twice."""

    # Choosing
    choices: int = 6
    """Times that variants are chosen, measured exactly and, where they then miss a limit, chosen again."""
    slack: float = 1.03
    """Exact times and losses over a limit that the interpolated ones kept: with that the choice ends."""
    tie: float = 0.01
    """Weight of size and time beside the least loss within the limits: of two plans that lose nearly the same, the
    smaller and faster is taken."""
    loss_of_drop: float = 1e-3
    """Weight of a layer's mean loss beside size and time where the loss is limited."""
    negligible_loss: float = 1e-6
    """A least loss below this fraction of the greatest possible one counts as nothing."""
    pareto_weights: tuple[float, ...] = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)
    """Weights of size and time against the loss at which the points of the Pareto front lie."""
    solver_gap: float = 1e-4
    """Relative distance of a choice from the best one: the last digits would take most of the time."""
    solver_seconds: float = 20.0
    """Seconds after which the best choice found so far is taken."""
    solver_tolerance: float = 2e-6
    """Twice what the solver lets a constraint be missed by, so that a limit is a limit."""

    # The planned network, measured
    attempts: int = 12
    """Plans made before giving up; each rests on what was measured of the network planned before."""
    speedup_step: float = 1 / 0.9
    """Factor on the required speed-up of variants after a network of them was hardly faster than the original."""
    latency_noise: float = 1.03
    """A measured time over the limit that still passes for kept."""
    unused_latency: float = 0.85
    """A measured time below this fraction of the limit, where more was predicted, is time that went unused."""
    loss_scale_step: float = 1.25
    """Factor by which the predicted loss grows at least after a network that lost more than it may."""
    default_drop: str = "1%"
    """Limit in points of top-1, where there is data and no other limit."""

    # Rank rules other than "budget"
    default_params: float = 0.125
    """Fraction of the parameters aimed at without a limit: the 1/7 of Astrid & Lee 2017 with a little to spare."""
    rank_step: int = 16
    """Equal errors raise a rank by one sixteenth of itself, so that few components are computed that are not used."""
    proportion_halvings: int = 60
    """Halvings of the interval of the ranks' sum: far finer than ranks are."""
    scale_halvings: int = 40
    """Halvings of the interval of the ranks' common factor: far finer than ranks are."""
    noise_grid: int = 200
    """Noise variances that EVBMF tries before it searches around the best: the free energy has several valleys."""


OPTIONS = PlannerOptions()
