"""Factors fitted to outputs: the laws of every factorization, the least output error, and estimates for planning."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_strategies import example_for
from test_factors import EXACT, FORMS, kernel_of, layer_for, layers_for, rank_for, rank_of
from torch import Tensor, nn

from compressor.calibration import Moments, collect
from compressor.decompositions.cp import MOST
from compressor.decompositions.methods import METHODS, decomposition
from compressor.decompositions.output_fit import Metric
from compressor.layer_shape import PlanError
from compressor.layers import Layer, layer_shape, split_kernels
from compressor.plan import LayerPlan, Plan
from compressor.surgery import compress


def moments_of(layer: Layer, images: int = 4) -> Moments:
    """Moments of correlated inputs with a mean, as those of trained networks are."""
    torch.manual_seed(0)
    example = torch.cat([example_for(layer) for _ in range(images)])
    smooth = example.cumsum(-1) / 3 + 0.5
    return collect(layer, [smooth], [""], positions=200)[""]


def error_of(layer: Layer, weight: Tensor, bias: Tensor | None, moments: Moments) -> float:
    """Relative output error of another weight and bias, from the moments' own definition."""
    metric = Metric(layer, moments)
    old = split_kernels(layer).flatten(2)
    change = old - weight.reshape(old.shape)
    wrong = metric.energy(change)
    if bias is not None:
        # What the bias does not take up of the mean of the change.
        left = metric.shift(change).flatten() - (bias - layer.bias.detach())
        wrong += float(left.square().sum())
    return (wrong / metric.energy(old)) ** 0.5


@pytest.mark.parametrize("method", FORMS)
@given(data=st.data())
def test_factors_compute_the_convolution_with_the_reconstructed_kernel(method: str, data: st.DataObject) -> None:
    layer = data.draw(layers_for(method))
    rank = rank_for(data, method, layer)
    moments = moments_of(layer)
    found = METHODS[method].decompose(layer, 0, moments)
    factors = found.factors(rank)
    rebuilt = copy.deepcopy(layer)
    rebuilt.weight.data = kernel_of(factors, layer)
    if layer.bias is not None:
        rebuilt.bias.data = factors[-1].bias.data
    example = example_for(layer)
    torch.testing.assert_close(factors(example), rebuilt(example), rtol=1e-9, atol=1e-9)
    assert found.measure == "outputs"
    bias = None if rebuilt.bias is None else rebuilt.bias.detach()
    error = error_of(layer, rebuilt.weight.detach(), bias, moments)
    assert found.error(rank) == pytest.approx(error, abs=1e-6)


@pytest.mark.parametrize("method", EXACT)
@given(data=st.data())
def test_full_rank_is_exact(method: str, data: st.DataObject) -> None:
    layer = data.draw(layers_for(method))
    full = METHODS[method].full_rank(layer_shape(layer))
    found = METHODS[method].decompose(layer, 0, moments_of(layer))
    factors = found.factors(full)
    torch.testing.assert_close(kernel_of(factors, layer), layer.weight.detach(), rtol=1e-5, atol=1e-5)
    if layer.bias is not None:
        torch.testing.assert_close(factors[-1].bias, layer.bias, rtol=1e-4, atol=1e-4)
    assert found.error(full) < 1e-5


@pytest.mark.parametrize("method", FORMS)
@given(data=st.data())
def test_outputs_are_fitted_at_least_as_well_as_by_the_plain_factors(method: str, data: st.DataObject) -> None:
    layer = data.draw(layers_for(method))
    rank = rank_for(data, method, layer)
    moments = moments_of(layer)
    plain = METHODS[method].decompose(layer, 0).factors(rank)
    aware = METHODS[method].decompose(layer, 0, moments)
    bias = None if layer.bias is None else layer.bias.detach()
    assert aware.error(rank) <= error_of(layer, kernel_of(plain, layer), bias, moments) + 1e-5
    if method in ("cp", "cp-polished"):
        stability = aware.stability(rank)
        assert stability is not None
        assert stability <= MOST + 1e-3


@pytest.mark.parametrize("method", ["svd", "channel"])
def test_no_weight_of_that_rank_has_a_smaller_output_error(method: str) -> None:
    torch.manual_seed(1)
    layer = layer_for(method, 6, 10)
    moments = moments_of(layer.double())
    found = METHODS[method].decompose(layer, 0, moments)
    kernel = split_kernels(layer).flatten(2)[0]
    second = moments.matrix()[0] - torch.outer(moments.mean[0], moments.mean[0])
    second += len(second) / moments.count * second.diagonal().mean() * torch.eye(len(second))
    values, vectors = torch.linalg.eigh(second)
    singular = torch.linalg.svdvals(kernel @ vectors * values.sqrt())
    for rank in (1, 3, 5):
        assert found.error((rank,)) == pytest.approx(float(singular[rank:].norm() / singular.norm()), abs=1e-6)


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("aware", [False, True])
@given(data=st.data())
def test_estimates_never_rise_with_the_rank(method: str, aware: bool, data: st.DataObject) -> None:
    layer = data.draw(layers_for(method))
    large = rank_for(data, method, layer)
    small = tuple(data.draw(st.integers(1, most)) for most in large)
    moments = moments_of(layer) if aware else None
    used, fresh = (METHODS[method].decompose(layer, 3, moments) for _ in range(2))
    assert 0 <= used.estimate(large) <= used.estimate(small) + 1e-9 <= 1 + 1e-8
    assert fresh.estimate(small) == used.estimate(small)
    if not aware and not method.startswith(("cp-", "tucker")):
        assert used.estimate(small) == used.error(small)
    if method == "tucker" and not aware:
        assert used.error(small) <= used.estimate(small) + 1e-6


def trained_like(method: str) -> nn.Conv2d:
    """A layer whose spectrum falls slowly."""
    torch.manual_seed(2)
    layer = layer_for(method, 24, 32)
    layer.weight.data *= torch.linspace(1, 0.1, 24)[None, :, None, None]
    return layer


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("aware", [False, True])
def test_estimates_are_near_the_error_without_a_run(method: str, aware: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    layer = trained_like(method)
    found = METHODS[method].decompose(layer, 0, moments_of(layer, 16) if aware else None)
    run = []
    if hasattr(found, "_fresh"):
        fresh = found._fresh
        monkeypatch.setattr(found, "_fresh", lambda rank: run.append(rank) or fresh(rank))
    ranks = [rank_of(method, layer, number) for number in (4, 8, 12, 16)]
    estimates = [found.estimate(rank) for rank in ranks]
    assert run == []
    for rank, estimate in zip(ranks, estimates, strict=True):
        assert found.error(rank) == pytest.approx(estimate, rel=0.4)


@pytest.mark.parametrize("method", FORMS)
def test_few_windows_or_dead_inputs_do_no_harm(method: str) -> None:
    layer = layer_for(method, 12, 8)
    window = 1 if method == "svd" else 3
    torch.manual_seed(0)
    for images in (torch.randn(2, 12, window, window), torch.zeros(300, 12, window, window)):
        moments = collect(layer, [images], [""])[""]
        found = METHODS[method].decompose(layer, 0, moments)
        factors = found.factors(rank_of(method, layer, 4))
        assert all(bool(torch.isfinite(factor.weight).all()) for factor in factors)
        assert found.error(rank_of(method, layer, 4)) <= 1.0
        assert found.estimate(rank_of(method, layer, 4)) <= 1.0


@pytest.mark.parametrize("method", FORMS)
def test_a_zero_weight_stays_zero(method: str) -> None:
    layer = layer_for(method, groups=2)
    nn.init.zeros_(layer.weight)
    found, rank = METHODS[method].decompose(layer, 0, moments_of(layer)), rank_of(method, layer, 3)
    factors = found.factors(rank)
    assert found.error(rank) == found.estimate(rank) == 0.0
    images = torch.randn(1, 8, 5, 5)
    torch.testing.assert_close(factors(images), layer(images), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", ["cp", "cp-polished", "channel", "spatial", "tucker"])
def test_wide_layers_are_fitted_in_float32(method: str) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(128, 24, 3, bias=False)
    moments = collect(layer, [torch.randn(60, 128, 8, 8).relu().cumsum(1)], [""])[""]
    assert moments.mean.dtype == torch.float32
    plain, aware = (METHODS[method].decompose(layer, 0, own) for own in (None, moments))
    rank = rank_of(method, layer, 12)
    error = error_of(layer, kernel_of(plain.factors(rank), layer), None, moments)
    assert aware.error(rank) < 0.9 * error


def test_moments_of_another_layer_are_refused() -> None:
    with pytest.raises(PlanError, match=r"these are 1x5 \(groups x inputs\), the layer reads 1x4; collect them"):
        METHODS["svd"].decompose(nn.Linear(4, 4), 0, moments_of(nn.Linear(5, 4)))


def test_compress_fits_the_layers_that_have_moments() -> None:
    network = nn.Sequential(nn.Conv2d(3, 12, 3), nn.ReLU(), nn.Conv2d(12, 12, 3))
    images = torch.randn(8, 3, 12, 12).cumsum(2)
    layers = ("0", "2")
    moments = collect(network, [images], layers)
    rows = [LayerPlan(name, tuple(network[int(name)].weight.shape), "channel", (3,), "") for name in layers]
    plan = Plan(tuple(rows), "given", "", 0, ())
    plain = compress(network, plan).module
    one = compress(network, plan, moments={"2": moments["2"]}).module
    first, second = ("0.0", "2.0")
    assert torch.equal(one.get_submodule(first).weight, plain.get_submodule(first).weight)
    assert not torch.equal(one.get_submodule(second).weight, plain.get_submodule(second).weight)
    true = network(images)
    aware = compress(network, plan, moments=moments).module
    assert (aware(images) - true).norm() < 0.9 * (plain(images) - true).norm()
    ready = {}
    assert decomposition(ready, network, "0", "channel", 0, moments["0"]).measure == "outputs"
