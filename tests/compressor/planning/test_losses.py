import math

import pytest
import torch
from torch import nn

from compressor.plan import LayerVariant
from compressor.planning.loss_model import ErrorLosses, Evaluator, MeasuredLosses, Probe, probe_losses, probe_points_of


def probes(*rows):
    return [Probe("a", "svd", (1,), error, divergence, drop, 200) for error, divergence, drop in rows]


def test_the_loss_passes_through_the_probes_and_is_a_power_between_them():
    losses = MeasuredLosses(probes((0.2, 0.01, 0.5), (0.4, 0.08, 2.0)))
    assert losses.loss("a", 0.2) == pytest.approx(0.01)
    assert losses.loss("a", 0.4) == pytest.approx(0.08)
    assert losses.loss("a", math.sqrt(0.2 * 0.4)) == pytest.approx(math.sqrt(0.01 * 0.08))
    assert losses.loss("a", 0.1) == pytest.approx(0.01 / 4)
    assert losses.loss("a", 0.0) == 0.0


def test_beyond_the_last_probe_no_layer_is_given_up_for_others():
    losses = MeasuredLosses(probes((0.2, 0.01, 0.5), (0.4, 0.08, 2.0)))
    assert losses.loss("a", 0.8) == pytest.approx(0.08 * math.log(1 - 0.64) / math.log(1 - 0.16))
    assert losses.loss("a", 0.99) > 2 * losses.loss("a", 0.9)
    assert math.isfinite(losses.loss("a", 1.0))
    assert losses.drop(1e9) == 100.0


def test_a_layer_that_was_not_probed_is_not_given_up_either():
    losses = MeasuredLosses(probes((0.2, 0.01, 0.5), (0.4, 0.08, 2.0)))
    assert losses.loss("b", 0.4) == pytest.approx(0.08)
    assert losses.loss("b", 0.95) == pytest.approx(losses.loss("a", 0.95))


def test_a_last_probe_of_next_to_no_error_is_no_division_by_zero():
    for error in (1e-9, 1e-200):
        assert math.isfinite(MeasuredLosses(probes((error, 1e-12, 0.0))).loss("a", 0.5))


def test_a_loss_below_that_of_a_smaller_error_is_noise():
    losses = MeasuredLosses(probes((0.2, 0.05, 0.5), (0.4, 0.02, 2.0), (0.6, 0.2, 3.0)))
    assert losses.loss("a", 0.4) == pytest.approx(0.05)


def test_drop_and_loss_tell_each_other():
    losses = MeasuredLosses(probes((0.1, 0.01, 0.0), (0.3, 0.1, 1.0), (0.6, 0.5, 5.0)))
    assert losses.drop(0.1) == pytest.approx(1.0)
    assert losses.drop(0.0) == 0.0
    assert losses.drop(1.0) == pytest.approx(10.0)  # beyond the worst probe, in proportion
    for drop in (0.0, 0.4, 1.0, 3.0, 5.0, 8.0):
        assert losses.drop(losses.loss_at(drop)) == pytest.approx(drop, abs=1e-9)
    assert losses.loss_at(0.0) == pytest.approx(0.01)
    twice = MeasuredLosses(losses.probes, loss_scale=2.0)
    assert twice.loss_at(1.0) == pytest.approx(0.05)
    assert twice.drop(0.05) == pytest.approx(1.0)


def test_where_no_probe_lost_anything_any_loss_will_do():
    assert MeasuredLosses(probes((0.1, 0.01, 0.0))).loss_at(1.0) == math.inf


def test_a_layer_without_probes_counts_as_the_most_sensitive_of_the_others():
    losses = MeasuredLosses(probes((0.2, 0.01, 0.5), (0.5, 0.5, 2.0)))
    assert losses.loss("never probed", 0.1) == pytest.approx(0.5 * math.log(1 - 0.01) / math.log(1 - 0.25))


def test_where_no_probe_lost_anything_but_a_network_did_loss_is_bounded():
    careful = MeasuredLosses(probes((0.1, 0.01, 0.0), (0.3, 0.2, 0.0)), loss_scale=4.0)
    assert careful.loss_at(1.0) == pytest.approx(0.05)


def test_errors_count_by_the_energy_that_survives():
    losses = ErrorLosses()
    assert losses.loss("a", 0.1) == pytest.approx(0.01, rel=0.01)
    assert math.exp(-losses.loss("a", 0.6) - losses.loss("b", 0.8)) == pytest.approx((1 - 0.36) * (1 - 0.64))
    assert losses.loss("a", 1.0) < 20
    assert losses.drop(1.0) is None


@pytest.fixture(scope="module")
def problem():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 3))
    images = torch.randn(90, 6)
    return network, [(images[i : i + 30], network(images[i : i + 30]).argmax(1)) for i in (0, 30, 60)]


def test_the_evaluator_measures_divergence_and_points_and_puts_the_layer_back(problem):
    network, batches = problem
    evaluator = Evaluator(network, batches, most=75)
    assert evaluator.images == 75
    assert evaluator.compare(network) == (pytest.approx(0, abs=1e-12), 0.0)
    broken = nn.Linear(6, 3)
    divergence, drop = evaluator.alone("2", nn.Sequential(broken))
    images, labels = (torch.cat(parts)[:75] for parts in zip(*batches, strict=True))
    old, new = network(images), broken(network[:2](images))
    expected = (old.softmax(1) * (old.log_softmax(1) - new.log_softmax(1))).sum(1).mean()
    assert divergence == pytest.approx(expected.item(), rel=1e-5)
    assert drop == pytest.approx(100 * (1 - (new.argmax(1) == labels).double().mean().item()))
    assert evaluator.alone("2", nn.Sequential(network[2])) == (pytest.approx(0, abs=1e-12), 0.0)


def test_probes_measured_before_are_not_measured_again(problem):
    network, batches = problem
    evaluator, made = Evaluator(network, batches), []

    def factors(variant):
        made.append(variant)
        return nn.Linear(6, 6)

    probe_points = {"0": [(LayerVariant("0", "svd", (1,)), 0.7), (LayerVariant("0", "svd", (2,)), 0.5)]}
    heard = []
    first = probe_losses(evaluator, probe_points, factors, found=heard.append)
    assert [p.rank for p in heard] == [(1,), (2,)]
    assert probe_losses(evaluator, probe_points, factors, known=heard[:1])[0] == first[0]
    assert len(made) == 3


def test_probe_points_lie_nearest_to_the_errors_aimed_at():
    errors = {LayerVariant("a", "svd", (rank,)): 1 / rank for rank in range(1, 12)}
    assert [variant.rank[0] for variant, _ in probe_points_of(errors)] == [7, 3, 2]
    assert probe_points_of({LayerVariant("a", "svd", (1,)): 0.0}) == []
