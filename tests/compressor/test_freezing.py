import pytest
import torch
from torch import nn
from training_problem import loaders, network

from compressor.freezing import frozen_modules, run_order
from compressor.plan import LayerPlan
from compressor.schedules import Step
from compressor.surgery import apply
from compressor.training import TrainOptions, fit

MIDDLE = LayerPlan("3", (12, 12, 3, 3), "cp", (16,), "rank given")
FIRST = LayerPlan("0", (12, 3, 3, 3), "cp", (8,), "rank given")


def cut(module, layers):
    apply(module, layers)


def changed(trained):
    """Names of the parameters and statistics that a step changes which cuts the layer in the middle."""
    module, before = network(), {}

    def noted(module, layers):
        cut(module, layers)
        before.update({name: value.clone() for name, value in module.state_dict().items()})

    fit(module, *loaders(64, 16), (Step((MIDDLE,), 1),), TrainOptions(rate=1e-2, trained=trained), noted)
    assert all(value.requires_grad for value in module.parameters())
    return {name.split(".")[0] for name, value in module.state_dict().items() if not torch.equal(value, before[name])}


@pytest.mark.parametrize(
    ("trained", "layers"), [("all", {"0", "1", "3", "7"}), ("new", {"3"}), ("downstream", {"3", "7"})]
)
def test_what_is_frozen_stays_to_the_last_bit(trained, layers):
    assert changed(trained) == layers


def test_the_next_step_trains_what_the_last_one_froze():
    module = network()
    steps = (Step((MIDDLE,), 1), Step((FIRST,), 1))
    weights = []

    def noted(module, layers):
        cut(module, layers)
        weights.append(module[3][0].weight.clone())

    fit(module, *loaders(64, 16), steps, TrainOptions(rate=1e-2, trained="downstream"), noted)
    assert not torch.equal(weights[1], module[3][0].weight)


def test_what_the_network_itself_does_not_train_stays():
    module = network()
    module[7].weight.requires_grad_(False)
    before = module[7].weight.clone()
    fit(module, *loaders(64, 16), (Step((MIDDLE,), 1),), TrainOptions(rate=1e-2), cut)
    assert torch.equal(module[7].weight, before)
    assert not module[7].weight.requires_grad


class Backwards(nn.Module):
    """Runs its layers in another order than it lists them, and one of them never."""

    def __init__(self):
        super().__init__()
        self.last, self.first, self.never = nn.Linear(4, 2), nn.Linear(3, 4), nn.Linear(3, 3)

    def forward(self, images):
        return self.last(self.first(images))


def test_downstream_is_what_runs_later_not_what_is_listed_later():
    module, images = Backwards(), torch.zeros(1, 3)
    holders = dict(module.named_children())
    assert run_order(module, holders, images) == ["first", "last"]
    assert frozen_modules(module, ["last"], "downstream", images) == (module.first, module.never)
    assert frozen_modules(module, ["first"], "downstream", images) == (module.never,)
    assert frozen_modules(module, [], "new", images) == ()
