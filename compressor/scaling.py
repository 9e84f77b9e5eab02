"""Rules that know no MACs answer to a limit on them all the same: their ranks, all times one factor."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from compressor.cost_model import calls_of
from compressor.costs import LayerCost, Survey
from compressor.goal import Goal
from compressor.methods import METHODS
from compressor.plan import LayerPlan
from compressor.rules import form_of, kept, vbmf_form
from compressor.shapes import Cost, PlanError, Rank, dense_cost

STEPS = 40
"""Halvings of the interval in which the common factor lies: far finer than ranks are."""


@dataclass(frozen=True)
class Share:
    """One layer's method, and its ranks before they are scaled."""

    layer: LayerCost
    method: str
    ranks: tuple[float, ...]

    def at(self, factor: float) -> Rank:
        full = METHODS[self.method].full_rank(self.layer.shape)
        return tuple(min(most, max(1, round(factor * rank))) for most, rank in zip(full, self.ranks, strict=True))

    def cheaper(self, factor: float) -> Cost | None:
        """What one call of the factors costs, None where the layer as it is costs no more MACs."""
        cost = METHODS[self.method].cost(self.layer.shape, self.at(factor))
        return cost if cost.macs < dense_cost(self.layer.shape).macs else None

    def macs(self, factor: float) -> int:
        """MACs for one image, all calls of the layer together."""
        cost = self.cheaper(factor)
        return self.layer.cost.macs if cost is None else round(calls_of(self.layer) * cost.macs)


def rows_by_macs(network: nn.Module, survey: Survey, goal: Goal, drops: Mapping[str, float] | None) -> list[LayerPlan]:
    """A row for each layer by the rule "sensitivity" (ranks in proportion to the drops) or "vbmf", within max_macs.

    The ranks are as large as the limit allows. PlanError where rank 1 everywhere exceeds it, or nothing was measured.
    """
    shares = {layer.name: _share(network, layer, goal, drops) for layer in survey.layers}
    free = [share for share in shares.values() if isinstance(share, Share)]
    most = goal.limits["macs"].most(survey.macs)
    left = most - survey.macs + sum(share.layer.cost.macs for share in free)
    least = sum(share.macs(0.0) for share in free)
    if least > left:
        raise PlanError(
            f"max-macs {goal.limits['macs'].text} cannot be met by the rule {goal.rule}: at rank 1 in every layer "
            f"{least + int(most - left):,} MACs are left; raise the limit"
        )
    low, high = 0.0, max((full / rank for s in free for full, rank in _pairs(s)), default=1.0)
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(share.macs(middle) for share in free) <= left else (low, middle)
    return [_row(layer, shares[layer.name], low, goal.rule) for layer in survey.layers]


def _pairs(share: Share) -> list[tuple[int, float]]:
    return list(zip(METHODS[share.method].full_rank(share.layer.shape), share.ranks, strict=True))


def _share(network: nn.Module, layer: LayerCost, goal: Goal, drops: Mapping[str, float] | None) -> Share | str:
    """The layer's ranks before scaling, or why it is kept."""
    why = layer.must_keep or ("asked for by --keep-layers" if layer.name in goal.keep_layers else None)
    if why is not None:
        return why
    if goal.rule == "vbmf":
        found = vbmf_form(network, layer)
        return found if isinstance(found, str) else Share(layer, found[0], tuple(map(float, found[1])))
    if drops is None:
        raise PlanError("the rule sensitivity needs data to measure with: pass --data, or another --rank-rule")
    method = form_of(layer, goal)
    refused = METHODS[method].supports(layer.shape)
    if refused is not None or layer.name not in drops:
        return refused or "factors would cost more than the layer at any rank"
    return Share(layer, method, (drops[layer.name],))


def _row(layer: LayerCost, share: Share | str, factor: float, rule: str) -> LayerPlan:
    if isinstance(share, str):
        return kept(layer, share)
    if share.cheaper(factor) is None:
        return kept(layer, "at its share of the ranks factors would not have fewer MACs than the layer")
    return LayerPlan(layer.name, layer.weight, share.method, share.at(factor), f"rank by {rule}, scaled to the limit")
