import copy
import dataclasses

import pytest
import torch
from torch import nn
from training_problem import loaders, network

from compressor.calibration import collect
from compressor.layer_shape import PlanError
from compressor.survey import survey
from compressor.training.loop import Step, TrainOptions, accuracy, fit
from compressor.weight_sharing.layers import plain, plan_sharing, put, put_empty, share, shared_weights
from compressor.weight_sharing.product_quantization import Sharing, quantize

QUICK = TrainOptions(rate=3e-3)
IMAGES = torch.rand(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


def rows_of(module, sharing, layers=()):
    return plan_sharing(survey(module, IMAGES), sharing, layers)


def test_the_default_is_every_fully_connected_layer():
    (row,) = rows_of(network(), Sharing(4, 16))
    assert (row.name, row.kept) == ("7", None)
    assert row.bits is not None
    assert row.bits.total == 4 * 48 * 4 + 32 * 16 * 4


def test_convolutions_are_shared_by_name_and_answer_alike():
    module = network().eval()
    sharing = Sharing(4, 8, "rows")
    model = share(module, rows_of(module, sharing, ["0", "3", "7"]), sharing)
    assert list(shared_weights(model.module)) == ["0", "3", "7"]
    ordinary = plain(model.module)
    assert [type(ordinary[place]) for place in (0, 3, 7)] == [nn.Conv2d, nn.Conv2d, nn.Linear]
    assert torch.allclose(ordinary(IMAGES), model.module(IMAGES), atol=1e-6)
    assert list(ordinary.state_dict()) == list(module.state_dict())
    assert not torch.equal(ordinary[3].weight, module[3].weight)
    assert len(shared_weights(model.module)) == 3  # the copy made ordinary left the other as it was


@pytest.mark.parametrize(
    "options", [{"groups": 2}, {"stride": (2, 1)}, {"padding": "same", "dilation": 2}, {"bias": False}]
)
def test_an_ordinary_layer_keeps_the_convolutions_settings(options):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(4, 6, 3, padding_mode="reflect", **{"padding": 1, **options}))
    put(module[0], quantize("0", module[0].weight, Sharing(3, 4)))
    images = torch.rand(2, 4, 9, 9)
    assert torch.allclose(plain(module)(images), module(images), atol=1e-6)


def test_a_layer_that_gains_nothing_is_kept_with_the_reason():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 64), nn.ReLU(), nn.Linear(64, 4))
    first, second = rows_of(module, Sharing(4, 128))
    assert (first.kept, second.kept) == (None, "128 centroids for 64 sub-vectors")
    assert rows_of(module, Sharing(4, 64))[1].kept == "1,072 bytes shared, 1,024 as it is"
    module[3].weight = nn.Parameter(module[3].weight)
    model = share(module, (first, second), Sharing(4, 128))
    assert list(shared_weights(model.module)) == [row.name for row in model.shared] == ["1"]


def test_what_cannot_be_shared_is_refused():
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 8), nn.Linear(8, 8), nn.Linear(8, 8))
    with pytest.raises(PlanError, match=r"no fully connected layer can share .* \(1: 4096 centroids for 384 .*fewer"):
        rows_of(module, Sharing(4, 4096))
    with pytest.raises(PlanError, match="the network has no layer '9'; the nearest are"):
        rows_of(module, Sharing(4, 16), ["9"])
    with pytest.raises(PlanError, match="4096 centroids do not fit 1"):
        rows_of(module, Sharing(4, 4096), ["1"])
    module[3].weight = module[2].weight
    with pytest.raises(PlanError, match="3 cannot share its weight: its weight is tied to 2; leave it out"):
        rows_of(module, Sharing(4, 4), ["3"])
    half = nn.Linear(8, 8).double()
    with pytest.raises(PlanError, match=r"codebooks hold float32, and this weight is float64; convert .* \.float\(\)"):
        put(half, quantize("fc", half.weight, Sharing(2, 4)))


def test_a_modules_name_means_the_layers_it_holds():
    module = nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(192, 16), nn.Linear(16, 32)))
    assert [row.name for row in rows_of(module, Sharing(4, 8), ["1"])] == ["1.0", "1.1"]


def test_the_bias_takes_up_what_the_inputs_mean_changes():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(192, 24)).eval()
    images = 3 + 0.1 * torch.randn(256, 3, 8, 8)
    moments = collect(module, [images], ["1"])
    sharing = Sharing(4, 8)
    aware = share(module, rows_of(module, sharing), sharing, moments=moments).module
    outputs = module(images)
    assert (aware(images) - outputs).mean(0).abs().max() < 1e-3
    assert torch.equal(module[1].bias, copy.deepcopy(module)[1].bias)


def test_training_moves_centroids_and_heals():
    module = network()
    train, validation = loaders()
    fit(module, train, validation, (Step((), 6),), QUICK)
    sharing = Sharing(16, 2)
    model = share(module, rows_of(module, sharing), sharing)
    before = accuracy(model.module, validation).top1
    book, places = shared_weights(model.module)["7"].codebook.clone(), shared_weights(model.module)["7"].indices.clone()
    fit(model.module, train, validation, (Step((), 4),), QUICK)
    after = shared_weights(model.module)["7"]
    assert torch.equal(after.indices, places)
    assert not torch.equal(after.codebook, book)
    assert accuracy(model.module, validation).top1 > before
    assert len(torch.unique(plain(model.module)[7].weight.reshape(-1, 16), dim=0)) <= 2


def test_a_checkpoints_weights_fit_an_empty_one():
    module = network()
    sharing = Sharing(4, 16)
    model = share(module, rows_of(module, sharing), sharing)
    empty = copy.deepcopy(module)
    put_empty(empty, {row.name: sharing for row in model.shared})
    empty.load_state_dict(model.module.state_dict())
    assert torch.equal(plain(empty)[7].weight, plain(model.module)[7].weight)


def test_rows_know_their_error():
    module = network()
    (row,) = share(module, rows_of(module, Sharing(4, 16)), Sharing(4, 16)).rows
    wanted = quantize("7", module[7].weight, Sharing(4, 16))
    assert row == dataclasses.replace(rows_of(module, Sharing(4, 16))[0], error=wanted.error)
