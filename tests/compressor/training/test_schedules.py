from dataclasses import replace

import pytest
from training_problem import PLAN, loaders, network

from compress_export.settings import SCHEDULE_NAMES
from compressor.plan import LayerPlan
from compressor.training.loop import TrainOptions, Watch, fit
from compressor.training.schedules import SCHEDULES, reordered, within


def test_the_command_line_knows_every_schedule():
    assert tuple(SCHEDULES) == SCHEDULE_NAMES


def test_hybrid_cuts_windows_one_by_one_and_the_rest_at_once():
    more = replace(PLAN, layers=(*PLAN.layers, LayerPlan("9", (4, 4), "svd", (2,), "rank given")))
    assert [step.title for step in SCHEDULES["hybrid"](more, 1)] == ["0", "3", "7, 9"]


def test_auto_cuts_all_at_once_for_three_times_the_epochs():
    (step,) = SCHEDULES["auto"](PLAN, 2)
    assert (step.title, step.epochs) == ("0, 3, 7", 6)
    assert SCHEDULES["auto"](replace(PLAN, layers=()), 2) == ()


def test_a_step_of_many_layers_is_titled_by_its_ends():
    more = tuple(LayerPlan(str(place), (4, 4), "svd", (2,), "rank given") for place in range(12))
    (step,) = SCHEDULES["one-shot"](replace(PLAN, layers=more), 1)
    assert step.title == "0 to 11, 12 layers"


def test_the_most_sensitive_layer_comes_first():
    plan = reordered(PLAN, {"0": 0.1, "3": 0.3, "7": 0.2})
    assert [step.title for step in SCHEDULES["iterative"](plan, 1)] == ["3", "7", "0"]


@pytest.mark.parametrize(
    ("total", "expected"), [(6, [(2, None)] * 3), (3, [(1, None)] * 3), (1, [(1, 20)] * 3), (4, [(1, 80)] * 3)]
)
def test_steps_share_epochs_evenly(total, expected):
    steps = within(SCHEDULES["iterative"](PLAN, 9), total, 60)
    assert [(step.epochs, step.images) for step in steps] == expected


def test_a_short_epoch_draws_other_images_each_time():
    batches = []
    train, validation = loaders(160, 16)
    steps = within(SCHEDULES["one-shot"](PLAN, 1), 0.5, 160)
    rows = fit(
        network(), train, validation, steps, TrainOptions(), watch=Watch(batch=lambda *done: batches.append(done))
    )
    assert batches == [(place, 5) for place in range(1, 6)]
    assert len(rows) == 2
