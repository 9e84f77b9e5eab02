import copy

import pytest
import torch
from torch import nn
from training_problem import loaders, network

from compressor.layer_shape import PlanError
from compressor.training.loop import Step, TrainOptions, fit
from compressor.weight_sharing.product_quantization import ROUGH, Sharing, quantize
from compressor.weight_sharing.regularizers import RAMP, REGULARIZERS, Regularization, penalty_of

SMALL = Sharing(4, 16)


def by_hand(name, weight):
    """The term, from its formula."""
    size = weight.abs().mean()
    if name == "binarizing-l1":
        return (weight.abs() / size - 1).abs().mean()
    if name == "quartic":
        return ((1 - (weight / size) ** 2) ** 2).mean() / 4
    return ((weight - quantize("7", weight, SMALL, 5, effort=ROUGH).decoded()) ** 2).mean()


@pytest.mark.parametrize("name", list(REGULARIZERS))
def test_each_term_is_its_formula_and_is_ramped_up_from_zero(name):
    module = network()
    penalty = penalty_of(module, Regularization(name, 3.0, SMALL), seed=5)
    wanted = 3 * by_hand(name, module[7].weight.detach()).item()
    assert wanted > 0
    assert penalty(0.0).item() == 0
    assert penalty(RAMP / 2).item() == pytest.approx(wanted / 2)
    assert penalty(RAMP).item() == penalty(1.0).item() == pytest.approx(wanted)


@pytest.mark.parametrize("name", ["binarizing-l1", "quartic"])
def test_the_scale_is_not_trained(name):
    """With s detached a weight at its scale is at rest, whatever the others do."""
    module = nn.Sequential(nn.Linear(2, 2, bias=False))
    with torch.no_grad():
        module[0].weight.copy_(torch.tensor([[1.0, -1.0], [0.5, 1.5]]))
    penalty_of(module, Regularization(name, 1.0), 0)(1.0).backward()
    assert module[0].weight.grad[0].tolist() == [0, 0]
    assert module[0].weight.grad[1, 0] < 0 < module[0].weight.grad[1, 1]


@pytest.mark.parametrize(("name", "strong"), [("binarizing-l1", 100.0), ("quartic", 100.0), ("centroid", 1e5)])
def test_training_with_it_makes_sharing_lose_less(name, strong):
    weights = []
    for regularizer in (None, Regularization(name, strong, SMALL)):
        module = network()
        rows = fit(module, *loaders(), (Step((), 12),), TrainOptions(rate=3e-3, regularizer=regularizer))
        assert rows[-1].top1 > 60
        weights.append(module[7].weight)
    plain, pulled = (quantize("7", weight, SMALL).error for weight in weights)
    assert pulled < 0.8 * plain


def test_centroids_are_found_anew_for_each_epoch():
    module = network()
    asked = Regularization("centroid", 1.0, SMALL)
    first = penalty_of(module, asked, 0)(1.0).item()
    changed = copy.deepcopy(module)
    with torch.no_grad():
        changed[7].weight.mul_(2)
    assert penalty_of(changed, asked, 0)(1.0).item() == pytest.approx(4 * first)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(PlanError, match="there is no regularizer 'l1'; choose among binarizing-l1, quartic, centroid"):
        Regularization("l1", 1.0)
    with pytest.raises(PlanError, match="the weight of a regularizer is above 0, not 0; leave it out for none"):
        Regularization("quartic", 0.0)
    flat = nn.Sequential(nn.Conv2d(1, 2, 3))
    with pytest.raises(PlanError, match="acts on fully connected layers, and the network has none; leave"):
        penalty_of(flat, Regularization("quartic", 1.0), 0)
    with pytest.raises(PlanError, match="the network has none with 256 sub-vectors of length 4; leave"):
        penalty_of(network(), Regularization("centroid", 1.0), 0)


class Idle(nn.Module):
    """Holds a layer that never runs: processes that train together do not agree on its gradient."""

    def __init__(self):
        super().__init__()
        self.inner, self.idle = network(), nn.Linear(8, 5)

    def forward(self, pictures):
        return self.inner(pictures)


def test_a_layer_that_never_runs_is_left_alone():
    module = Idle()
    idle, used = module.idle.weight.clone(), module.inner[7].weight.clone()
    strong = Regularization("quartic", 100.0)
    fit(module, *loaders(32, 16), (Step((), 1),), TrainOptions(rate=1e-2, weight_decay=0.0, regularizer=strong))
    assert torch.equal(module.idle.weight, idle)
    assert not torch.equal(module.inner[7].weight, used)
    with pytest.raises(PlanError, match="acts on fully connected layers, and the network has none that runs; leave"):
        penalty_of(module, strong, 0, running=["inner.0"])
