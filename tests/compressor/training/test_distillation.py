import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset
from training_problem import images, loaders, network

from compressor.outputs import UNLABELLED, divergence
from compressor.training.loop import TrainOptions, accuracy, fit
from compressor.training.options import Distillation, label_loss, loss_of
from compressor.training.schedules import Step


@settings(deadline=None)
@given(st.integers(0, 10**6), st.floats(0.5, 20), st.integers(2, 12))
def test_equal_logits_lose_nothing_and_others_something(seed, temperature, classes):
    logits = torch.randn(5, classes, generator=torch.Generator().manual_seed(seed))
    assert float(divergence([logits], [logits + 3.0], ["logits"], temperature)) == pytest.approx(0, abs=1e-4)
    other = logits.clone()
    other[:, 0] += 4.0
    assert float(divergence([other], [logits], ["logits"], temperature)) > 1e-3


def test_the_gradient_pulls_towards_the_teacher():
    logits = torch.zeros(1, 3, requires_grad=True)
    divergence([logits], [torch.tensor([[0.0, 0.0, 6.0]])], ["logits"], 4.0).backward()
    assert logits.grad[0, 2] < 0 < logits.grad[0, 0]


def test_images_without_labels_count_for_the_teacher_alone():
    logits, teacher = torch.randn(4, 3), torch.randn(4, 3)
    labels = torch.tensor([0, UNLABELLED, 2, UNLABELLED])
    assert label_loss([logits], labels) == functional.cross_entropy(logits[[0, 2]], labels[[0, 2]])
    none = torch.full((4,), UNLABELLED)
    how = Distillation(0.5, 2.0)
    assert loss_of(logits, none, images(4, 1).tensors[0], lambda _images: teacher, how) == 0.5 * divergence(
        [logits], [teacher], ["logits"], 2.0
    )


def test_a_network_learns_from_a_teacher_without_any_label():
    teacher = network()
    train, validation = loaders()
    fit(teacher, train, validation, (Step((), 6),), TrainOptions(rate=3e-3))
    nameless = TensorDataset(images(160, 1).tensors[0], torch.full((160,), UNLABELLED))
    loader = DataLoader(nameless, batch_size=16, shuffle=True, generator=torch.Generator())
    student, before = network(seed=5), copy.deepcopy(teacher.state_dict())
    options = TrainOptions(rate=3e-3, distillation=Distillation())
    rows = fit(student, loader, validation, (Step((), 6),), options, teacher=teacher)
    assert rows[0].top1 < 50 < 80 < rows[-1].top1 == accuracy(student, validation).top1
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
