"""The next planning problem, from a plan and the time that its network was measured to take."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from compress_export.pipeline.plan import _if_slow
from compressor.plan import Plan, Point
from compressor.planning.cost_model import CountedCosts
from compressor.planning.goal import Goal, PlanningProblem
from compressor.planning.options import OPTIONS
from compressor.survey import survey

ORIGINAL, CHOSEN = Point(1000, 1000, 20.0, 0.0), Point(500, 500, 8.0, 1.0)


@pytest.fixture
def problem():
    network = nn.Sequential(nn.Flatten(), nn.Linear(4, 4))
    found = survey(network, torch.zeros(1, 1, 2, 2))
    return PlanningProblem(network, found, Goal(), CountedCosts(found), latency_offset=0.5)


def slow(problem, timed, **limits):
    said = []
    context = SimpleNamespace(reporter=SimpleNamespace(say=said.append))
    plan = Plan((), "budget", "", original=ORIGINAL, chosen=CHOSEN, timed=timed)
    return _if_slow(context, replace(problem, goal=Goal(**limits)), plan), said


def test_a_network_that_keeps_its_limit_ends_the_attempts(problem):
    assert slow(problem, 0.42, max_latency="9ms") == (None, [])
    assert slow(problem, 0.7, max_macs="0.5x") == (None, [])
    assert slow(problem, 1.4, max_params="0.5x") == (None, [])  # size alone may cost time


def test_what_a_network_took_above_its_variants_is_added_in_the_next(problem):
    harder, said = slow(problem, 0.6, max_latency="9ms")
    assert harder.latency_offset == pytest.approx(0.5 + 12.0 - 8.0)
    assert said == ["the network as planned takes 12.00 ms, 8.00 ms were predicted: planning again"]


def test_time_left_over_is_used_too(problem):
    harder, _ = slow(problem, 0.2, max_latency="9ms")
    assert harder.latency_offset == pytest.approx(0.5 + 4.0 - 8.0)


def test_a_network_that_is_hardly_faster_asks_for_faster_variants(problem):
    harder, said = slow(problem, 0.99, max_macs="0.5x")
    assert harder.required_speedup == pytest.approx(OPTIONS.speedup_step)
    assert said == ["the network as planned takes 0.99 of the original's time: planning again, for less"]
