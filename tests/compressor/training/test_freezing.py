import pytest
import torch
from torch import nn
from training_problem import loaders, network

from compressor.plan import LayerPlan
from compressor.surgery import apply
from compressor.training.loop import TrainingError, TrainOptions, Watch, fit, frozen_modules, hold_still, run_order
from compressor.training.schedules import Step

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

    fit(module, *loaders(64, 16), (Step((MIDDLE,), 1),), TrainOptions(rate=1e-2, trainable=trained), noted)
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
        weights.append(module.get_submodule("3.0").weight.clone())

    fit(module, *loaders(64, 16), steps, TrainOptions(rate=1e-2, trainable="downstream"), noted)
    assert not torch.equal(weights[1], module.get_submodule("3.0").weight)


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


def test_what_lies_inside_a_frozen_module_is_not_held_still_with_it():
    module = Backwards()
    module.register_buffer("mean", torch.zeros(3))
    frozen = frozen_modules(module, ["first"], "downstream", torch.zeros(1, 3))
    assert frozen == (module, module.never)
    hold_still(frozen)
    modes = {name: part.training for name, part in module.named_modules()}
    assert modes == {"": False, "never": False, "first": True, "last": True}


def fixed_problem():
    module = network()
    for value in (*module[3].parameters(), *module[7].parameters()):
        value.requires_grad_(False)
    return module


class Killed(Exception):
    pass


def test_factors_of_a_layer_that_the_network_does_not_train_are_trained(tmp_path):
    steps, checkpoint = (Step((MIDDLE,), 1), Step((FIRST,), 1)), tmp_path / "tuning.pt"
    module, as_cut = fixed_problem(), {}

    def noted(module, layers):
        cut(module, layers)
        place = layers[0].name
        as_cut.update({f"{place}.{name}": value.clone() for name, value in module[int(place)].named_parameters()})

    def kill(row):
        if (row.step, row.epoch) == (1, 0):
            raise Killed

    options = TrainOptions(rate=1e-2)
    with pytest.raises(Killed):
        fit(fixed_problem(), *loaders(64, 16), steps, options, cut, checkpoint, Watch(epoch=kill))
    resumed = fixed_problem()
    fit(resumed, *loaders(64, 16), steps, options, cut, checkpoint)
    fit(module, *loaders(64, 16), steps, options, noted)
    for end in (module, resumed):
        own = dict(end.named_parameters())
        assert [name for name in as_cut if torch.equal(as_cut[name], own[name])] == []
        assert {name.split(".")[0] for name, value in own.items() if not value.requires_grad} == {"7"}


def test_a_step_that_may_train_nothing_is_refused():
    with pytest.raises(TrainingError, match=r"step 1 has nothing to train: .*; set requires_grad of a parameter, or"):
        fit(network().requires_grad_(False), *loaders(32, 16), (Step((), 1),), TrainOptions(), cut)
