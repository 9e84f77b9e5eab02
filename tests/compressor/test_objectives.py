"""Divergence of outputs, and the objective that planning and tuning go by."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from compressor.outputs import UNLABELLED, Objective, divergence, tensors_of
from compressor.planning.loss_model import Evaluator
from compressor.training.loop import TrainingError, TrainOptions, fit
from compressor.training.options import Distillation, label_loss, loss_of
from compressor.training.schedules import Step


def noise(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_a_class_map_is_the_mean_over_its_pixels_and_values_are_relative():
    row, other = noise(3, 4), noise(3, 4, seed=1)
    wide = [each[:, :, None, None].expand(3, 4, 5, 6) for each in (row, other)]
    one = divergence([row], [other], ["logits"])
    assert float(divergence([wide[0]], [wide[1]], ["class map"])) == pytest.approx(float(one))
    twice = divergence([row, wide[0]], [other, wide[1]], ["logits", "class map"])
    assert float(twice) == pytest.approx(2 * float(one))
    relative = ((row - other) ** 2).mean() / other.var(unbiased=False)
    assert float(divergence([row], [other], ["values"])) == pytest.approx(float(relative))
    assert float(divergence([1000 * row], [1000 * other], ["values"])) == pytest.approx(float(relative))
    assert float(divergence([row], [row], ["values"])) == 0


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3)

    def forward(self, image):
        features = self.layer(image)
        return {"map": features, "row": (features.mean((2, 3)), None)}


KINDS = ("class map", "values")


def score(network, batches, device=None):
    del device
    return sum(float(tensors_of(network(images))[1].detach().mean()) for images, _ in batches)


def test_a_network_learns_every_output_from_pictures_alone():
    torch.manual_seed(0)
    teacher, student = Two(), Two()
    pictures = TensorDataset(noise(64, 1, 6, 6), torch.full((64,), UNLABELLED))
    loader = DataLoader(pictures, 16, shuffle=True, generator=torch.Generator())
    objective = Objective(KINDS, "cosine", score)
    judge = Evaluator(teacher.eval(), loader, objective=objective)
    before = judge.compare(student)[0]
    options = TrainOptions(rate=2e-2, distillation=Distillation())
    rows = fit(student, loader, loader, (Step((), 16),), options, teacher=teacher, objective=objective)
    assert judge.compare(student)[0] < before / 20
    assert rows[-1].top1 == pytest.approx(score(student, loader), rel=1e-4)
    assert judge.compare(teacher) == pytest.approx((0, 0), abs=1e-6)


def test_without_labels_there_has_to_be_a_teacher():
    objective = Objective(KINDS, "cosine", score)
    loader = DataLoader(TensorDataset(noise(4, 1, 6, 6), torch.full((4,), UNLABELLED)), 2)
    with pytest.raises(TrainingError, match="whose metric is cosine are not trained by labels, but by a teacher's"):
        fit(Two(), loader, loader, (Step((), 1),), TrainOptions(), objective=objective)


def test_masks_are_learned_beside_the_teacher():
    objective = Objective(("class map",), loss=lambda outputs, masks: functional.cross_entropy(outputs[0], masks))
    maps, masks = noise(2, 3, 4, 4), torch.ones(2, 4, 4, dtype=torch.long)
    assert label_loss([maps], masks, objective) == functional.cross_entropy(maps, masks)
    found = loss_of(maps, masks, noise(2, 1, 4, 4), lambda _images: maps, Distillation(0.5), objective)
    assert float(found) == pytest.approx(0.5 * float(functional.cross_entropy(maps, masks)))
    assert label_loss([maps], torch.full((2,), UNLABELLED), objective) == 0
