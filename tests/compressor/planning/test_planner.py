import copy

import pytest
import torch
from torch import nn

from compressor.layer_shape import PlanError
from compressor.plan import LayerPlan, Plan
from compressor.planning.cost_model import CountedCosts
from compressor.planning.goal import Goal
from compressor.planning.planner import PlanningProblem, check_plan, make_plan, planned_parameters, solve
from compressor.planning.rank_rules import factorable_layers
from compressor.surgery import compress
from compressor.survey import survey

IMAGES = torch.zeros(1, 3, 32, 32)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 7, stride=2, padding=3),
        nn.ReLU(),
        nn.Conv2d(16, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 32, 3, padding=1, groups=32),
        nn.Conv2d(32, 64, 1),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(1024, 256),
        nn.ReLU(),
        nn.Linear(256, 10),
    )


@pytest.fixture(scope="module")
def found(network):
    return survey(network, IMAGES)


EQUAL = {"rule": "equal-error"}


@pytest.mark.parametrize("rule", ["equal-error", "budget"])
@pytest.mark.parametrize("share", [0.1, 0.3, 0.6])
def test_the_limit_holds_for_the_network_that_comes_out(network, found, share, rule):
    ready = {}
    plan = make_plan(network, found, Goal(rule=rule, max_params=f"{share}x"), decompositions=ready)
    compressed = compress(network, plan, ready)
    assert compressed.after.parameters <= share * found.parameters
    assert compressed.after.parameters > 0.85 * share * found.parameters
    assert planned_parameters(plan, found) == compressed.after.parameters
    if rule == "budget":
        assert plan.chosen.parameters == compressed.after.parameters
        assert plan.chosen.macs == survey(compressed.module, IMAGES).macs


def test_equal_errors_decompose_only_by_the_form_of_each_kind(network, found):
    ready = {}
    plan = make_plan(network, found, Goal(**EQUAL, max_params="0.3x"), decompositions=ready)
    assert set(ready) == {(layer.name, layer.method) for layer in plan.factored} | {
        (layer.name, "cp" if len(layer.weight) == 4 and layer.weight[2] > 1 else "svd")
        for layer in plan.layers
        if layer.kept and "needs more" in layer.reason
    }


@pytest.mark.parametrize("rule", ["equal-error", "budget"])
def test_a_count_is_a_limit_too(network, found, rule):
    plan = make_plan(network, found, Goal(rule=rule, max_params="50k"))
    assert compress(network, plan).after.parameters <= 50_000


def test_every_layer_is_in_the_plan_with_a_reason(network, found):
    plan = make_plan(network, found, Goal(**EQUAL, max_params="0.97x", keep_layers=("8",)))
    assert [layer.name for layer in plan.layers] == ["0", "2", "4", "5", "8", "10"]
    assert plan.layer("8").reason == "kept: asked for by --keep-layers"
    depthwise = plan.layer("4").reason
    assert depthwise.startswith("kept: factors would cost more than the layer at any rank (384 against 320 parameters")


def test_by_default_equal_error_weighs_a_layer_by_its_work(network, found):
    size, work = (factorable_layers(found, Goal(**EQUAL, max_params=limit)) for limit in ("0.125x", None))
    assert size["0"].break_even == 34
    assert work["0"].break_even < 20
    assert make_plan(network, found, Goal(**EQUAL)).goal == "max-params 0.125x (default)"


def test_sensitivity_gives_ranks_in_proportion_in_two_pools(network, found):
    drops = {"0": 1.0, "2": 4.0, "5": 0.5, "8": 3.0, "10": 1.0}
    plan = solve(
        PlanningProblem(network, found, Goal(rule="sensitivity", max_params="0.3x"), CountedCosts(found), drops=drops)
    )
    ranks = {layer.name: layer.rank[0] for layer in plan.factored}
    assert ranks["2"] / ranks["0"] == pytest.approx(4, rel=0.2)
    assert compress(network, plan).after.parameters <= 0.3 * found.parameters
    pools = [("0", "2", "5"), ("8", "10")]
    shares = [
        sum(sum(p.numel() for p in compress(network, plan).module.get_submodule(name).parameters()) for name in pool)
        / sum(sum(p.numel() for p in network.get_submodule(name).parameters()) for name in pool)
        for pool in pools
    ]
    assert shares[0] == pytest.approx(shares[1], rel=0.2)


def test_vbmf_takes_tucker_for_windows_at_ranks_that_stand_out_of_the_noise(network, found):
    planted = copy.deepcopy(network)
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        rows, columns = (torch.randn(side, 7, generator=random) for side in (256, 1024))
        planted[8].weight.copy_(rows @ columns.T + 0.5 * torch.randn(256, 1024, generator=random))
        core = torch.randn(3, 2, 3, 3, generator=random)
        bases = (torch.randn(side, n, generator=random) for side, n in ((32, 3), (16, 2)))
        kernel = torch.einsum("abhw,ta,sb->tshw", core, *bases)
        planted[2].weight.copy_(kernel + 0.02 * torch.randn(kernel.shape, generator=random))
    plan = make_plan(planted, found, Goal(rule="vbmf", keep_layers=("10",)))
    assert (plan.layer("8").method, plan.layer("8").rank) == ("svd", (7,))
    assert (plan.layer("2").method, plan.layer("2").rank) == ("tucker", (2, 3))
    assert plan.layer("10").reason == "kept: asked for by --keep-layers"
    assert (plan.layer("4").kept, plan.rule) == (True, "vbmf")


def test_ranks_given_are_taken_and_the_rest_is_kept(network, found):
    plan = make_plan(network, found, Goal(ranks={"2": 9, "8": 5}))
    assert [(layer.method, layer.rank) for layer in plan.layers if layer.name in ("2", "8")] == [
        ("cp", (9,)),
        ("svd", (5,)),
    ]
    assert {layer.reason for layer in plan.layers if layer.name not in ("2", "8")} == {"kept: no rank given"}
    assert (plan.rule, plan.goal) == ("given", "ranks given")


@pytest.mark.parametrize(
    ("goal", "message"),
    [
        (Goal(ranks={"8": 257}), r"rank 257 does not fit 8 \(256x1024\): SVD ranks go up to 256; lower it"),
        (Goal(ranks={"2": 145}), r"rank 145 does not fit 2 \(32x16x3x3\): CP ranks go up to 144; lower it"),
        (Goal(ranks={"9": 3}), "9"),
        (Goal(keep_layers=("88",)), "88"),
        (Goal(ranks={"8": 3}, keep_layers=("8",)), "8 has a rank and is to be kept"),
        (Goal(**EQUAL, max_params="0.001x"), r"parameters are not enough: .* of the .* are in layers that stay"),
        (
            Goal(**EQUAL, max_params="0.006x"),
            "rank 1 in every layer that may be factored leaves",
        ),
        (Goal(**EQUAL, max_params="0.3x", keep_layers=("8",)), "in layers that stay as they are"),
        (Goal(rule="best"), "there is no rank rule 'best'; choose among budget, equal-error, sensitivity, vbmf"),
        (
            Goal(methods=("cp",), keep_layers=("0", "2", "4"), max_params="0.5x"),
            r"max-params 0.5x cannot be met: max-params 274,410 \(1.000x\) is the least",
        ),
        (Goal(max_drop="1%"), "--max-drop is measured, and there is no data to measure with: pass --data"),
        (Goal(max_latency="5ms"), "--max-latency 5ms needs times, and costs are counted"),
        (Goal(rule="sensitivity"), "the rule sensitivity needs data to measure with"),
    ],
    ids=str,
)
def test_goals_that_cannot_be_met_say_why(network, found, goal, message):
    with pytest.raises(PlanError, match=message):
        make_plan(network, found, goal)


def test_a_rank_for_a_layer_that_must_stay_is_refused():
    tied = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))
    tied[1].weight = tied[0].weight
    with pytest.raises(PlanError, match="1 cannot be factored: its weight is tied to 0; leave it out of --ranks"):
        make_plan(tied, survey(tied, torch.zeros(1, 8)), Goal(ranks={"1": 2}))
    plan = Plan((LayerPlan("1", (8, 8), "svd", (2,), "edited"),), "given", "by hand")
    with pytest.raises(PlanError, match="1 cannot be factored: its weight is tied to 0; let the plan keep it"):
        check_plan(plan, survey(tied, torch.zeros(1, 8)))


def test_other_rules_say_what_they_were_asked_for(network, found):
    assert make_plan(network, found, Goal(rule="vbmf")).goal == "what stands out of the noise"
    assert make_plan(network, found, Goal(**EQUAL, max_params="0.5x")).goal == "max-params 0.5x"


def test_the_rule_none_factors_nothing():
    module = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3))
    found = survey(module, torch.rand(1, 3, 9, 9))
    plan = make_plan(module, found, Goal(rule="none"))
    assert (plan.factored, plan.rule, plan.goal) == ((), "none", "nothing is factored")
    assert plan.layers[0].reason == "kept: the rule factors nothing"
    with pytest.raises(
        PlanError, match=r"rank rule none factors nothing, so it cannot keep max-params 0\.5x; pass one"
    ):
        make_plan(module, found, Goal(rule="none", max_params="0.5x"))


@pytest.mark.parametrize("share", [0.012, 0.015, 0.02])
def test_sensitivity_leaves_the_fully_connected_layers_their_rank_1(share):
    torch.manual_seed(0)
    convolutions = (nn.Conv2d(3, 64, 3), nn.Conv2d(64, 64, 3), nn.Conv2d(64, 64, 3))
    module = nn.Sequential(*convolutions, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))
    found = survey(module, torch.zeros(1, 3, 16, 16))
    drops = {layer.name: 1.0 for layer in found.layers}
    plan = solve(
        PlanningProblem(module, found, Goal("sensitivity", max_params=f"{share}x"), CountedCosts(found), drops=drops)
    )
    assert len(plan.factored) == 4
    assert 0.85 * share < planned_parameters(plan, found) / found.parameters <= share
