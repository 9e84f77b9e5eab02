"""Re-estimated BatchNorm: the statistics of the calibration images, and nothing else changed."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from compressor.calibration import carry_over, reestimate
from compressor.layer_shape import PlanError


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5, momentum=0.3), nn.Dropout(0.5), nn.Conv2d(5, 4, 1))


def test_statistics_become_those_of_the_images() -> None:
    images, own = torch.randn(6, 3, 9, 9), network()
    weights = {name: value.clone() for name, value in own.named_parameters()}
    own[1].running_mean.fill_(7.0)
    own[1].eval()
    assert reestimate(own, [(batch, None) for batch in images.split(2)]) == 1
    batches = [own[0](batch).detach().transpose(0, 1).flatten(1) for batch in images.split(2)]
    torch.testing.assert_close(own[1].running_mean, torch.stack([batch.mean(1) for batch in batches]).mean(0))
    torch.testing.assert_close(own[1].running_var, torch.stack([batch.var(1) for batch in batches]).mean(0))
    assert own[1].momentum == 0.3
    assert [module.training for module in own.modules()] == [True, True, False, True, True]
    assert all(torch.equal(value, weights[name]) for name, value in own.named_parameters())


def test_without_batchnorm_nothing_runs() -> None:
    class Broken(nn.Module):
        def forward(self, images):
            raise AssertionError(images)

    assert reestimate(nn.Sequential(Broken(), nn.BatchNorm2d(3, track_running_stats=False)), [torch.ones(2, 3)]) == 0


def test_a_failure_leaves_the_old_statistics() -> None:
    own = network()
    before = {name: value.clone() for name, value in own.state_dict().items()}
    with pytest.raises(PlanError, match="statistics come from calibration images, and there are none; give a batch"):
        reestimate(own, [])
    with pytest.raises(PlanError, match="does not take 4x9x9"):
        reestimate(own, [torch.randn(2, 3, 9, 9), torch.randn(2, 4, 9, 9)])
    with pytest.raises(PlanError, match=r"Expected more than 1 value per channel .*; prepare .*, several in a batch"):
        reestimate(nn.Sequential(nn.BatchNorm1d(3)), [torch.randn(1, 3)])
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())
    assert own[1].momentum == 0.3
    assert own.training


def cut(own: nn.Sequential) -> nn.Sequential:
    """The network with its first layer doing something else."""
    changed = copy.deepcopy(own)
    with torch.no_grad():
        changed[0].weight.mul_(3.0)
        changed[0].bias.add_(1.0)
    return changed


def trained() -> nn.Sequential:
    own = network()
    own[1].running_mean.uniform_(-1, 1)
    own[1].running_var.uniform_(0.5, 2)
    return own.eval()


def test_a_network_that_was_not_cut_keeps_its_statistics() -> None:
    own, images = trained(), [5 + torch.randn(8, 3, 9, 9), torch.randn(8, 3, 9, 9)]
    again = copy.deepcopy(own)
    assert carry_over(again, own, images) == 1
    torch.testing.assert_close(again[1].running_mean, own[1].running_mean)
    torch.testing.assert_close(again[1].running_var, own[1].running_var)


def test_statistics_move_as_the_cut_moved_the_outputs() -> None:
    own, images = trained(), [5 + torch.randn(8, 3, 9, 9)]
    before = {name: value.clone() for name, value in own.state_dict().items()}
    changed = cut(own)
    carry_over(changed, own, images)
    outputs = own[0](images[0]).detach().transpose(0, 1).flatten(1).mean(1)
    moved = 3 * outputs - 3 * own[0].bias.detach() + own[0].bias.detach() + 1 - outputs
    torch.testing.assert_close(changed[1].running_mean, before["1.running_mean"] + moved, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(changed[1].running_var, 9 * before["1.running_var"], rtol=1e-4, atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in own.state_dict().items())


def test_a_constant_channel_takes_what_is_seen() -> None:
    own, images = trained(), [torch.randn(8, 3, 9, 9)]
    with torch.no_grad():
        own[0].weight[0].zero_()
    changed = cut(own)
    with torch.no_grad():
        changed[0].weight[0].normal_()
    carry_over(changed, own, images)
    seen = changed[0](images[0]).detach()[:, 0].var()
    torch.testing.assert_close(changed[1].running_var[0], seen, rtol=1e-4, atol=1e-5)


def test_without_batchnorm_nothing_is_carried_over() -> None:
    assert carry_over(nn.Linear(2, 2), nn.Linear(2, 2), []) == 0
