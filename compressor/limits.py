"""A goal's limits as bounds on what its layers may sum up to, and what is said where no plan keeps within them."""

from __future__ import annotations

import math
from collections.abc import Mapping

from compressor.choice import Option, Options, choose, total
from compressor.cost_model import CostModel
from compressor.problem import Problem
from compressor.shapes import PlanError
from compressor.units import Limit

BYTES = 4
"""Of a parameter in a float32 file."""
FILE_SHARE, FILE_BYTES, FILE_BYTES_OF_LAYER = 1.005, 60_000, 12_000
"""A file's bytes over those of its parameters: graph and tables of eleven networks in three formats stay below it."""
LEAST = 0.2
"""Measured on two small networks that were cut hard: 0.22 (AlexNet at 64x64) and 0.23 (six layers at 32x32)."""


def bounds(problem: Problem, dense: Mapping[str, Option]) -> dict[str, float]:
    """What the free layers may sum up to in each quantity that is limited."""
    survey, costs = problem.survey, problem.costs
    given = problem.goal.limits
    whole = {"params": float(survey.parameters), "macs": float(survey.macs), "latency": costs.network()}
    limits = {}
    for quantity, limit in given.items():
        if quantity in whole:
            _refuse_without_device(costs, quantity, limit)
            most, free = limit.most(whole[quantity]), total(dense, quantity)
            if quantity == "latency":
                limits[quantity] = layers_within(most - problem.correction, whole[quantity], free)
            else:
                limits[quantity] = most - (whole[quantity] - free)
        elif quantity == "size":
            most = limit.most(file_bytes(survey.parameters, len(survey.layers)))
            graph = file_bytes(0, len(survey.layers))
            left = (most - graph) / FILE_SHARE / BYTES - (survey.parameters - total(dense, "params"))
            limits["params"] = min(left, limits.get("params", left))
        else:
            loss = problem.losses.loss_at(limit.amount)
            if loss is None:
                raise PlanError("--max-drop is measured, and there is no data to measure with: pass --data")
            limits["loss"] = loss
    return {quantity: limit for quantity, limit in limits.items() if limit < math.inf}


def network_time(network: float, dense: float, chosen: float) -> float:
    """What a network takes whose layers take `chosen` in place of `dense`, measured one by one: the rest of it stays.

    Layers alone take longer than within a small network: each brings the edges of a file of its own, and weights that
    are not in a cache. What they save is saved all the same. Where they sum up to more than the network, this could
    leave nothing of it, so it is never less than LEAST of what a network would take that changes as its layers do.
    """
    saved = network - dense + chosen
    return saved if dense <= network else max(saved, LEAST * network * chosen / dense)


def layers_within(most: float, network: float, dense: float) -> float:
    """What the layers may take, measured one by one, for `network_time` to be `most`."""
    left = most - network + dense
    return left if dense <= network else min(left, most * dense / (LEAST * network))


def _refuse_without_device(costs: CostModel, quantity: str, limit: Limit) -> None:
    if quantity == "latency" and costs.unit != "ms" and not limit.share:
        raise PlanError(
            f"--max-latency {limit.text} needs times, and costs are {costs.source}; pass --costs measured, or a share "
            "such as 0.5x"
        )


def file_bytes(parameters: float, layers: int) -> float:
    """Bytes that a float32 file of a network takes at most."""
    return parameters * BYTES * FILE_SHARE + FILE_BYTES + FILE_BYTES_OF_LAYER * layers


def unreachable(
    problem: Problem, options: Options, limits: Mapping[str, float], dense: Mapping[str, Option]
) -> PlanError:
    """Which limit binds: what each can come down to while the others hold, and alone."""
    said = []
    for quantity in limits:
        others = {name: limit for name, limit in limits.items() if name != quantity}
        weights = {quantity: 1 / max(1e-12, total(dense, quantity) or 1.0)}
        nearest = choose(options, weights, others)
        alone = nearest or choose(options, weights, {})
        assert alone is not None  # every layer has an option, and nothing is limited
        figure = _reached(problem, quantity, total(alone, quantity), dense)
        with_others = " with the other limits" if others and nearest is not None else ""
        said.append(f"{figure} is the least{with_others}")
    asked = problem.goal.text()
    together = " together" if len(problem.goal.limits) > 1 else ""
    cure = "raise the limit, allow more --methods, or keep fewer layers"
    return PlanError(f"{asked} cannot be met{together}: {'; '.join(said)}; {cure}")


def _reached(problem: Problem, quantity: str, left: float, dense: Mapping[str, Option]) -> str:
    """A sum over the free layers as the figure of the whole network, in the words of its limit."""
    survey, costs = problem.survey, problem.costs
    if quantity == "params":
        count = survey.parameters - total(dense, quantity) + left
        if "size" in problem.goal.limits and "params" not in problem.goal.limits:
            before, after = (file_bytes(number, len(survey.layers)) for number in (survey.parameters, count))
            return f"max-size {after / 1e6:.2f}MB ({after / before:.3f}x)"
        return f"max-params {count:,.0f} ({count / survey.parameters:.3f}x)"
    if quantity == "macs":
        macs = survey.macs - total(dense, quantity) + left
        return f"max-macs {macs / 1e6:.1f}M ({macs / survey.macs:.3f}x)"
    if quantity == "latency":
        time = network_time(costs.network(), total(dense, quantity), left) + problem.correction
        figure = f"{time:.3g}ms " if costs.unit == "ms" else ""
        return f"max-latency {figure}({time / costs.network():.3f}x, as predicted)"
    return f"max-drop {problem.losses.drop(left):.2f}%"
