import pytest
import torch
from torch import nn

from compressor.layer_shape import PlanError
from compressor.planning.cost_model import CountedCosts
from compressor.planning.goal import Goal
from compressor.planning.planner import PlanningProblem, make_plan, solve
from compressor.surgery import compress
from compressor.survey import survey


def problem():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 10),
    )  # fmt: skip
    images = torch.zeros(1, 3, 12, 12)
    return network, images, survey(network, images)


@pytest.mark.parametrize("rule", ["sensitivity", "vbmf"])
@pytest.mark.parametrize("share", [0.3, 0.6])
def test_scaled_ranks_keep_the_limit_and_use_it(rule, share):
    network, images, found = problem()
    drops = {layer.name: 1.0 + index for index, layer in enumerate(found.layers)}
    goal = Goal(rule, max_macs=f"{share}x")
    plan = solve(PlanningProblem(network, found, goal, CountedCosts(found), drops=drops))
    after = survey(compress(network, plan).module, images)
    assert 0.85 * share < after.macs / found.macs <= share


def test_ranks_are_in_proportion_to_what_layers_lost():
    network, _, found = problem()
    drops = {"0": 0.1, "2": 1.0, "4": 3.0, "7": 0.1}
    plan = solve(
        PlanningProblem(network, found, Goal("sensitivity", max_macs="0.3x"), CountedCosts(found), drops=drops)
    )
    assert plan.layer("4").rank[0] == pytest.approx(3 * plan.layer("2").rank[0], abs=2)


def test_a_limit_below_rank_1_is_refused():
    network, _, found = problem()
    with pytest.raises(PlanError, match=r"max-macs 0.001x cannot be met by the rule vbmf: at rank 1 in every layer"):
        make_plan(network, found, Goal("vbmf", max_macs="0.001x"))


def test_sensitivity_needs_what_was_measured():
    network, _, found = problem()
    with pytest.raises(PlanError, match="the rule sensitivity needs data to measure with"):
        make_plan(network, found, Goal("sensitivity", max_macs="0.5x"))


def test_a_rule_answers_to_one_limit_at_a_time():
    with pytest.raises(PlanError, match="the rank rule sensitivity cannot answer to --max-params"):
        Goal("sensitivity", max_macs="0.5x", max_params="0.5x")


def test_a_rule_gives_the_forms_that_are_named():
    network, _, found = problem()
    plan = make_plan(network, found, Goal("equal-error", max_params="0.5x", methods=("spatial", "svd")))
    assert {row.method for row in plan.factored} <= {"spatial", "svd"}
    assert any(row.method == "spatial" for row in plan.factored)
    with pytest.raises(PlanError, match="equal-error gives a layer one rank, tucker has two"):
        Goal("equal-error", methods=("tucker", "svd"))


class Repeated(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.often, self.last = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 3, padding=1), nn.Linear(32, 10)

    def forward(self, images):
        images = self.first(images)
        for _ in range(4):
            images = self.often(images)
        return self.last(images.mean((2, 3)))


@pytest.mark.parametrize("rule", ["sensitivity", "vbmf"])
def test_a_layer_counts_as_often_as_it_runs(rule):
    torch.manual_seed(0)
    network, images = Repeated(), torch.zeros(1, 3, 14, 14)
    found = survey(network, images)
    goal, drops = Goal(rule, max_macs="0.5x"), {row.name: 1.0 for row in found.layers}
    plan = solve(PlanningProblem(network, found, goal, CountedCosts(found), drops=drops))
    assert 0.45 < survey(compress(network, plan).module, images).macs / found.macs <= 0.5
