"""What a trial teaches the next: from a plan, and the time that its network was measured to take."""

from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compress_export.pipeline.plan import HASTE, Trial, _slow
from compressor.plan import Plan, Point
from compressor.planning.cost_model import CountedCosts
from compressor.planning.goal import Goal
from compressor.survey import survey

ORIGINAL, CHOSEN = Point(1000, 1000, 20.0, 0.0), Point(500, 500, 8.0, 1.0)


@pytest.fixture
def trial():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    return Trial(CountedCosts(survey(network, torch.zeros(1, 1, 2, 2))), None, {}, correction=0.5)


def slow(trial, timed, **limits):
    said = []
    bench = SimpleNamespace(reporter=SimpleNamespace(say=said.append))
    plan = Plan((), "budget", "", original=ORIGINAL, chosen=CHOSEN, timed=timed)
    return _slow(bench, Goal(**limits), trial, plan), said


def test_a_network_that_keeps_its_limit_ends_the_trials(trial):
    assert slow(trial, 0.42, max_latency="9ms") == (None, [])
    assert slow(trial, 0.7, max_macs="0.5x") == (None, [])
    assert slow(trial, 1.4, max_params="0.5x") == (None, [])  # size alone may cost time


def test_what_a_network_took_above_its_forms_is_told_to_the_next(trial):
    lesson, said = slow(trial, 0.6, max_latency="9ms")
    assert lesson.correction == pytest.approx(0.5 + 12.0 - 8.0)
    assert said == ["the network as planned takes 12.00 ms, 8.00 ms were predicted: planning again"]


def test_time_left_over_is_used_too(trial):
    lesson, _ = slow(trial, 0.2, max_latency="9ms")
    assert lesson.correction == pytest.approx(0.5 + 4.0 - 8.0)


def test_a_network_that_is_hardly_faster_asks_for_faster_forms(trial):
    lesson, said = slow(trial, 0.99, max_macs="0.5x")
    assert lesson.haste == pytest.approx(HASTE)
    assert said == ["the network as planned takes 0.99 of the original's time: planning again, for less"]
