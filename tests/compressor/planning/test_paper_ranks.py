import pytest
import torch
from torch import nn
from torchvision import models

from compressor.layer_shape import PlanError
from compressor.planning.recipes import PAPER_RANKS, parameters_with_every_bias, ranks_for
from compressor.survey import survey


def test_the_papers_counting_gives_every_factor_a_bias():
    layers = survey(
        nn.Sequential(nn.Conv2d(4, 6, 3, groups=2), nn.Flatten(), nn.Linear(6, 5)), torch.zeros(1, 4, 3, 3)
    ).layers
    counted = parameters_with_every_bias([(layers[0], 2), (layers[1], 3)])
    convolution = 2 * (2 * 2 + 2 * 9 + 2 * 3) + (4 + 4 + 6)
    assert counted == convolution + (3 * 6 + 3 * 5) + (3 + 5)


def test_another_network_is_refused():
    layers = survey(nn.Sequential(nn.Conv2d(3, 4, 3)), torch.zeros(1, 3, 8, 8)).layers
    with pytest.raises(PlanError, match="the ranks are for alexnet-caffe, and this network has other layers"):
        ranks_for(PAPER_RANKS["astrid-lee-2017"], layers)


def test_another_alexnet_is_refused_though_it_has_as_many_layers():
    layers = survey(models.alexnet(), torch.zeros(1, 3, 224, 224)).layers
    with pytest.raises(PlanError, match="this network has other layers"):
        ranks_for(PAPER_RANKS["astrid-lee-2017"], layers)
