import pytest
import torch
from torch import nn

from compressor.decompositions.methods import METHODS
from compressor.layer_shape import PlanError
from compressor.planning.goal import Goal
from compressor.planning.planner import RANK_RULES
from compressor.planning.recipes import RECIPES, check_needs
from compressor.survey import survey
from compressor.training.schedules import SCHEDULES, paced


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_names_what_there_is(name):
    recipe = RECIPES[name]
    assert recipe.rank_rule in RANK_RULES
    assert recipe.schedule in SCHEDULES
    assert set(recipe.methods) <= set(METHODS)
    assert recipe.source
    assert Goal(recipe.rank_rule, methods=recipe.methods or Goal().methods).rule == recipe.rank_rule


def layers(*modules, image=(3, 8, 8)):
    return survey(nn.Sequential(*modules), torch.zeros(1, *image)).layers


def test_a_network_without_the_layers_that_a_recipe_needs_is_refused():
    flat = layers(nn.Conv2d(3, 4, 1), nn.Flatten(), nn.Linear(256, 5))
    law = r"the recipe cp-tpm-2017 needs a convolution with a window larger than 1x1, and this network has none"
    with pytest.raises(PlanError, match=law + r".*it has a 1x1 convolution, a fully connected layer"):
        check_needs("cp-tpm-2017", flat)
    check_needs("default", flat)
    check_needs("cp-tpm-2017", layers(nn.Conv2d(3, 4, 3)))


def test_the_paper_trains_two_layers_in_larger_batches():
    from training_problem import PLAN

    steps = paced(SCHEDULES["iterative"](PLAN, 15), RECIPES["cp-tpm-2017"].paces)
    assert [(step.batch, step.rate, step.epochs) for step in steps] == [
        (128, 1e-3, 15),
        (128, 1e-3, 15),
        (32, 2e-3, 15),
    ]
