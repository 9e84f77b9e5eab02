import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, default_collate
from training_problem import PLAN, images, loaders, network

from compressor.surgery import apply
from compressor.survey import survey
from compressor.training import loop
from compressor.training.fine_tune import fine_tune, probe
from compressor.training.loop import (
    Accuracy,
    TrainingError,
    TrainOptions,
    Watch,
    accuracy,
    fit,
    layout_on,
    rebatched,
)
from compressor.training.options import Distillation, rate_at
from compressor.training.schedules import SCHEDULES, Step, within

QUICK = TrainOptions(rate=3e-3)


def cut(module, layers):
    apply(module, layers)


def weights(module):
    return {name: value.clone() for name, value in module.state_dict().items()}


def equal(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def test_training_learns():
    module = network()
    train, validation = loaders()
    before = accuracy(module, validation).top1
    rows = fit(module, train, validation, (Step((), 6),), QUICK)
    assert before < 50 < 85 < rows[-1].top1 == accuracy(module, validation).top1
    assert not module.training
    assert [row.epoch for row in rows] == list(range(7))


@pytest.mark.parametrize("schedule", list(SCHEDULES))
def test_a_schedule_cuts_every_layer_and_heals(schedule):
    module = network()
    train, validation = loaders()
    fit(module, train, validation, (Step((), 6),), QUICK)
    rows = fit(module, train, validation, SCHEDULES[schedule](PLAN, 4), QUICK, cut)
    assert [len(list(module[place].children())) for place in (0, 3, 7)] == [3, 3, 2]
    cuts = [row.layers for row in rows if row.epoch == 0]
    assert cuts == (["0, 3, 7"] if schedule in ("auto", "one-shot") else ["0", "3", "7"])
    assert rows[-1].top1 > 80


class Killed(Exception):
    pass


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_killed_fit_goes_on_to_the_same_bits(tmp_path, schedule, after):
    torch.set_num_threads(1)
    start, steps = network(), SCHEDULES[schedule](PLAN, 2)
    whole = copy.deepcopy(start)
    rows = fit(whole, *loaders(), steps, QUICK, cut)

    seen = []

    def kill(row):
        seen.append(row)
        if len(seen) == after:
            raise Killed

    checkpoint = tmp_path / "tuning.pt"
    with pytest.raises(Killed):
        fit(copy.deepcopy(start), *loaders(), steps, QUICK, cut, checkpoint, Watch(epoch=kill))
    resumed = copy.deepcopy(start)
    told = []
    again = fit(resumed, *loaders(), steps, QUICK, cut, checkpoint, Watch(epoch=told.append))
    assert again == rows == tuple(told)
    assert equal(weights(resumed), weights(whole))


@pytest.mark.parametrize("trained", ["new", "downstream"])
def test_a_killed_fit_that_freezes_and_learns_from_a_teacher_goes_on_to_the_same_bits(tmp_path, trained):
    torch.set_num_threads(1)
    options = replace(QUICK, trainable=trained, distillation=Distillation(), optimizer="sgd")
    start, steps = network(), within(SCHEDULES["iterative"](PLAN, 1), 2, 160)
    whole, teacher = copy.deepcopy(start), network(seed=3)
    rows = fit(whole, *loaders(), steps, options, cut, teacher=teacher)
    checkpoint, left = tmp_path / "tuning.pt", [None] * 3

    def kill(_row):
        left.pop()
        if not left:
            raise Killed

    with pytest.raises(Killed):
        fit(copy.deepcopy(start), *loaders(), steps, options, cut, checkpoint, Watch(epoch=kill), teacher)
    resumed = copy.deepcopy(start)
    assert fit(resumed, *loaders(), steps, options, cut, checkpoint, teacher=teacher) == rows
    assert equal(weights(resumed), weights(whole))


def test_a_large_network_is_written_less_often_and_goes_on_from_there(tmp_path, monkeypatch):
    torch.set_num_threads(1)
    monkeypatch.setattr(loop, "LARGE", 0)
    monkeypatch.setattr(loop, "SPACING", 1e9)
    start, steps, path = network(), SCHEDULES["iterative"](PLAN, 2), tmp_path / "tuning.pt"
    whole, resumed = copy.deepcopy(start), copy.deepcopy(start)
    rows = fit(whole, *loaders(), steps, QUICK, cut)

    def kill(row):
        if (row.step, row.epoch) == (1, 1):
            raise Killed

    with pytest.raises(Killed):
        fit(copy.deepcopy(start), *loaders(), steps, QUICK, cut, path, Watch(epoch=kill))
    assert [row["epoch"] for row in torch.load(path, weights_only=True)["rows"]] == [0]
    assert fit(resumed, *loaders(), steps, QUICK, cut, path) == rows
    assert equal(weights(resumed), weights(whole))


def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    path = tmp_path / "tuning.pt"
    fit(network(), *loaders(32, 16), (Step((), 1),), QUICK, checkpoint=path)
    with pytest.raises(TrainingError, match="was written with other settings or by an earlier version; delete it"):
        fit(network(), *loaders(32, 16), (Step((), 1),), TrainOptions(rate=1e-3), checkpoint=path)


def test_patience_ends_a_step_and_the_best_weights_are_returned():
    module = network()
    train, validation = loaders()
    options = TrainOptions(optimizer="sgd", rate=0.6, rate_schedule="step", patience=2)
    rows = fit(module, train, validation, (Step((), 40),), options)
    assert len(rows) < 41
    best = max(row.top1 for row in rows[1:])
    assert accuracy(module, validation).top1 == best


def test_the_best_epoch_is_returned_where_asked_for_and_after_a_kill(tmp_path):
    """Also the network before the first epoch, where no epoch was as good: here a rate that ruins it."""
    options = TrainOptions(optimizer="sgd", rate=0.6, rate_schedule="step", best=True)
    train, validation = loaders()
    module, path = network(), tmp_path / "tuning.pt"
    fit(module, train, validation, (Step((), 6),), TrainOptions(optimizer="sgd", rate=0.05))
    before = {name: value.clone() for name, value in module.state_dict().items()}
    ruined = TrainOptions(optimizer="sgd", rate=30.0, rate_schedule="step", best=True)
    rows = fit(module, train, validation, (Step((), 1),), ruined)
    assert rows[1].top1 < rows[0].top1
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())

    whole, resumed = network(), network()
    rows = fit(whole, train, validation, (Step((), 5),), options)
    assert accuracy(whole, validation).top1 == max(row.top1 for row in rows)

    def kill(row):
        if row.epoch == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(network(), train, validation, (Step((), 5),), options, checkpoint=path, watch=Watch(kill))
    fit(resumed, train, validation, (Step((), 5),), options, checkpoint=path)
    assert all(torch.equal(value, whole.state_dict()[name]) for name, value in resumed.state_dict().items())


@pytest.mark.parametrize(
    ("reference", "course", "kept"),
    [
        (90, (90, 89, 92, 91), [True, False, False, False]),  # two images gained: chance, and nothing had been lost
        (90, (90, 94, 93, 95), [True, True, False, True]),  # four images are more than chance
        (90, (91, 92, 91, 92), [True, False, False, False]),
        (90, (89, 90, 89, 91), [True, True, False, True]),  # an image lost: any gain is kept
        (90, (80, 79, 79, 79), [True, False, False, False]),
        (None, (90, 89, 92, 91), [True, False, True, False]),
    ],
)
@pytest.mark.parametrize("killed", [False, True])
def test_the_network_before_tuning_gives_way_to_more_than_chance(
    monkeypatch, tmp_path, killed, reference, course, kept
):
    """A network that has the first so many of 100 images right, before tuning and after each of three epochs."""
    left, states = list(course), []

    def scripted(network, _validation, _device=None):
        right = left.pop(0)
        states.append(weights(network))
        return Accuracy(right, 100.0, (0,) * 100, tuple(index < right for index in range(100)))

    def kill(row):
        if killed and row.epoch == 2:
            raise Killed

    monkeypatch.setattr(loop, "accuracy", scripted)
    options, steps, path = replace(QUICK, best=True), (Step((), 3),), tmp_path / "tuning.pt"
    train, validation = loaders(64, 16)
    try:
        module = network()
        rows = fit(module, train, validation, steps, options, checkpoint=path, watch=Watch(kill), reference=reference)
    except Killed:
        module = network()
        rows = fit(module, train, validation, steps, options, checkpoint=path, reference=reference)
    assert [row.kept for row in rows] == kept
    assert equal(weights(module), states[max(index for index, value in enumerate(kept) if value)])


def test_fine_tuning_knows_what_the_original_has_right():
    """A full rank loses nothing, so that there is nothing to regain: the factors stay as they are decomposed."""
    module, (train, validation) = network(), loaders()
    fit(module, train, validation, (Step((), 6),), QUICK)
    exact = replace(PLAN, layers=(replace(PLAN.layers[2], rank=(4,)),))
    model, rows = fine_tune(module, exact, train, validation, "one-shot", 2, replace(QUICK, best=True, rate=1e-5))
    assert [row.kept for row in rows] == [True, False, False]
    factors = copy.deepcopy(module)
    apply(factors, exact.factored)
    assert equal(weights(model.module), weights(factors))


def test_a_loss_that_is_no_number_stops_the_fit():
    with pytest.raises(TrainingError, match=r"the loss became .* in epoch 1 of step 1; lower fine_tune.rate"):
        fit(network(), *loaders(), (Step((), 1),), TrainOptions(optimizer="sgd", rate=1e9))


def test_rates_have_the_shape_asked_for():
    step = TrainOptions(rate=1.0, rate_schedule="step", step_epochs=5)
    assert [rate_at(step, epoch, 15) for epoch in (0, 4.9, 5, 10)] == pytest.approx([1, 1, 0.1, 0.01])
    cosine = TrainOptions(rate=1.0, rate_schedule="cosine")
    assert [rate_at(cosine, epoch, 10) for epoch in (0, 5, 10)] == pytest.approx([1, 0.5, 0])
    cycle = TrainOptions(rate=1.0, rate_schedule="one-cycle")
    assert [rate_at(cycle, epoch, 9) for epoch in (0, 3, 6, 9)] == pytest.approx([0.04, 1, 0.5, 0])


class Fixed(nn.Module):
    """Answers with the logits it was given."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits[images.long()]


def test_accuracy_counts_top1_and_top5():
    logits = torch.eye(7)[[0, 1, 2, 3]] + torch.linspace(0.6, 0, 7)
    found = accuracy(
        Fixed(logits), [(torch.tensor([0, 1]), torch.tensor([0, 4])), (torch.tensor([2, 3]), torch.tensor([6, 3]))]
    )
    assert (found.top1, found.top5) == (50.0, 75.0)
    assert found.predictions == (0, 1, 2, 3)
    assert found.correct == (True, False, False, True)


def test_side_heads_do_not_disturb_training():
    class Heads(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network()

        def forward(self, images):
            logits = self.inner(images)
            return (logits, logits * 0) if self.training else logits

    rows = fit(Heads(), *loaders(), (Step((), 2),), QUICK)
    assert math.isfinite(rows[-1].loss)


def test_distillation_without_a_teacher_is_refused():
    with pytest.raises(
        TrainingError, match="learns a teacher's outputs, and no teacher is given; pass one, or leave it"
    ):
        fit(network(), *loaders(32, 16), (Step((), 1),), replace(QUICK, distillation=Distillation()))


def test_another_batch_size_keeps_what_else_the_loader_does():
    def doubled(rows):
        pictures, labels = default_collate(rows)
        return 2 * pictures, labels

    own = DataLoader(images(32, 1), 16, collate_fn=doubled, pin_memory=True, worker_init_fn=print)
    changed = rebatched(own, 8, None)
    assert changed.batch_size == 8
    assert (changed.collate_fn, changed.pin_memory, changed.worker_init_fn) == (doubled, True, print)


def test_a_probe_needs_no_teacher_and_leaves_the_network_as_it_was():
    module = network()
    module[1].eval()
    before, modes = weights(module), [part.training for part in module.modules()]
    layers = [survey(module, torch.zeros(1, 3, 8, 8)).layer("7")]
    drops = probe(module, layers, *loaders(64, 16), replace(QUICK, distillation=Distillation()))
    assert drops["7"] >= 50 / 16
    assert modes == [part.training for part in module.modules()]
    assert equal(weights(module), before)


def test_layers_lie_channels_last_on_a_cpu_alone():
    found = {kind: layout_on(torch.device(kind)) for kind in ("cpu", "cuda")}
    assert found == {"cpu": torch.channels_last, "cuda": torch.contiguous_format}
