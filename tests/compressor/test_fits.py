"""A plan holds the decompositions that it was made from; compress() takes them while the layers are the same."""

from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from compressor.calibration import collect
from compressor.decompositions.base import Method
from compressor.layer_shape import PlanError
from compressor.plan import Plan
from compressor.planning.planner import Goal, make_plan
from compressor.surgery import compress
from compressor.survey import survey

IMAGES = torch.randn(4, 3, 12, 12, generator=torch.Generator().manual_seed(0))


def small_network() -> nn.Sequential:
    torch.manual_seed(0)
    windows = [nn.Conv2d(3, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3), nn.ReLU(), nn.Conv2d(24, 24, 3)]
    return nn.Sequential(*windows, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 10)).eval()


@pytest.fixture
def network() -> nn.Sequential:
    return small_network()


@pytest.fixture
def decomposed(monkeypatch: pytest.MonkeyPatch) -> list[nn.Module]:
    """Layers that were decomposed, in their order."""
    layers: list[nn.Module] = []
    decompose = Method.decompose

    def noted(self, layer, seed, moments=None):
        layers.append(layer)
        return decompose(self, layer, seed, moments)

    monkeypatch.setattr(Method, "decompose", noted)
    return layers


def plan_of(network: nn.Module, **options) -> Plan:
    plan = make_plan(network, survey(network, IMAGES[:1]), Goal(max_params="0.5x"), **options)
    assert len(plan.factored) >= 2
    return plan


def test_compress_after_make_plan_computes_nothing_again(network, decomposed) -> None:
    plan = plan_of(network)
    before = len(decomposed)
    made = compress(network, plan).module
    assert len(decomposed) == before
    again = compress(network, replace(plan, fits=None)).module
    assert len(decomposed) == before + len(plan.factored)
    for own, other in zip(made.parameters(), again.parameters(), strict=True):
        assert torch.equal(own, other)


@pytest.mark.parametrize("through", ["data", "no_grad", "new parameter"])
def test_a_weight_that_changed_is_decomposed_anew(network, decomposed, through: str) -> None:
    plan = plan_of(network)
    name = plan.factored[0].name
    layer = network.get_submodule(name)
    if through == "data":  # torch counts no version for it
        layer.weight.data.mul_(2)
    elif through == "no_grad":
        with torch.no_grad():
            layer.weight.mul_(2)
    else:
        layer.weight = nn.Parameter(2 * layer.weight.detach())
    before = len(decomposed)
    made = compress(network, plan).module
    assert len(decomposed) == before + 1
    fresh = compress(network, plan, decompositions={}).module
    assert torch.equal(*(each.get_submodule(f"{name}.0").weight for each in (made, fresh)))


def test_another_network_seed_or_moments_get_fits_of_their_own(network, decomposed) -> None:
    moments = collect(network, [IMAGES], ["2", "4"])
    plan = plan_of(network)
    count = len(plan.factored)
    windows = sum(row.name in moments for row in plan.factored)
    before = len(decomposed)
    compress(copy.deepcopy(network), plan)
    assert len(decomposed) == before + count
    compress(network, replace(plan, seed=1))
    assert len(decomposed) == before + 2 * count
    compress(network, plan, moments=moments)
    assert len(decomposed) == before + 2 * count + windows
    fitted = plan_of(network, moments=moments)
    before = len(decomposed)
    compress(network, fitted, moments=moments)
    assert len(decomposed) == before


def test_no_file_has_them(network) -> None:
    plan = plan_of(network)
    text = plan.to_json()
    assert "fits" not in json.loads(text)
    read = Plan.from_json(text)
    assert read == plan
    assert read.fits is None
    with pytest.raises(PlanError, match="is not a plan: Expected `PlanFits"):
        Plan.from_json(json.dumps({**json.loads(text), "fits": {}}))
