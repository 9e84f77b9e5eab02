"""The laws that every factorization keeps, over everything that nn.Conv2d and nn.Linear can express."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from layer_strategies import WINDOWS, convolutions, example_for, linears
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from compressor.decompositions.methods import METHODS
from compressor.layer_shape import LayerShape, PlanError, Rank
from compressor.layers import Layer, layer_shape

FORMS = sorted(METHODS)
NESTED = ("cp", "channel", "spatial", "svd")
"""Forms whose components at a rank are the first of those at any larger one."""
EXACT = [method for method in FORMS if not method.startswith("cp")]


def layers_for(method: str) -> st.SearchStrategy[Layer]:
    """Layers that the method supports."""
    layers = st.one_of(convolutions(), convolutions([(1, 1)]), convolutions(WINDOWS), linears())
    return layers.filter(lambda layer: METHODS[method].supports(layer_shape(layer)) is None)


def rank_for(data: st.DataObject, method: str, layer: Layer) -> Rank:
    full = METHODS[method].full_rank(layer_shape(layer))
    return tuple(data.draw(st.integers(1, most), label="rank") for most in full)


def kernel_of(factors: nn.Sequential, layer: Layer) -> Tensor:
    """The reconstructed weight, read off the factors' weights by group: any chain that owns each axis once."""
    groups = 1 if isinstance(layer, nn.Linear) else layer.groups
    kernels = []
    for group in range(groups):
        chain = torch.eye(layer.weight.shape[1], dtype=layer.weight.dtype)[:, :, None, None]
        for factor in factors:
            weight = factor.weight.detach().reshape(*factor.weight.shape[:2], *getattr(factor, "kernel_size", (1, 1)))
            weight = weight.unflatten(0, (groups, -1))[group]
            if getattr(factor, "groups", 1) != groups:  # depthwise
                weight = torch.diag_embed(weight[:, 0].permute(1, 2, 0)).permute(2, 3, 0, 1)
            chain = torch.einsum("trhw,rsij->tshiwj", weight, chain).flatten(4).flatten(2, 3)
        kernels.append(chain)
    return torch.cat(kernels).reshape(layer.weight.shape)


def layer_for(method: str, inputs: int = 8, outputs: int = 12, groups: int = 1) -> nn.Conv2d:
    """A convolution that the method supports."""
    return nn.Conv2d(inputs, outputs, 1 if method == "svd" else 3, groups=groups)


def rank_of(method: str, layer: Layer, number: int) -> Rank:
    """A rank with the same number for each mode."""
    return (number,) * len(METHODS[method].full_rank(layer_shape(layer)))


@pytest.mark.parametrize("method", FORMS)
@given(data=st.data())
def test_factors_compute_the_convolution_with_the_reconstructed_kernel(method: str, data: st.DataObject) -> None:
    layer = data.draw(layers_for(method))
    rank = rank_for(data, method, layer)
    decomposition = METHODS[method].decompose(layer, 0)
    factors = decomposition.factors(rank)
    rebuilt = copy.deepcopy(layer)
    rebuilt.weight.data = kernel_of(factors, layer)
    example = example_for(layer)
    torch.testing.assert_close(factors(example), rebuilt(example), rtol=1e-9, atol=1e-9)
    error = (rebuilt.weight - layer.weight).norm() / layer.weight.norm()
    assert decomposition.error(rank) == pytest.approx(error.item(), abs=1e-6)


@pytest.mark.parametrize("method", FORMS)
@given(data=st.data())
def test_cost_is_what_the_factors_cost(method: str, data: st.DataObject) -> None:
    layer = data.draw(layers_for(method))
    rank = rank_for(data, method, layer)
    example = example_for(layer)[:1]
    factors = METHODS[method].layers(layer, rank)
    sizes = [tuple(example.shape[2:]) or (1, 1)]
    shape = layer_shape(layer, sizes[0], tuple(layer(example).shape[2:]) or (1, 1))
    cost = METHODS[method].cost(shape, rank)
    with FlopCounterMode(display=False) as counter:
        factors(example)
    moved, current = 0, example
    for factor in factors:
        moved += current.numel()
        current = factor(current)
        moved += current.numel()
    parameters = sum(parameter.numel() for parameter in factors.parameters())
    assert cost.parameters == parameters
    assert cost.macs * 2 == counter.get_total_flops()
    assert cost.traffic == moved + parameters


@pytest.mark.parametrize("method", EXACT)
@given(data=st.data())
def test_full_rank_is_exact(method: str, data: st.DataObject) -> None:
    layer = data.draw(layers_for(method)).float()
    full = METHODS[method].full_rank(layer_shape(layer))
    decomposition = METHODS[method].decompose(layer, 0)
    rebuilt = kernel_of(decomposition.factors(full), layer)
    torch.testing.assert_close(rebuilt, layer.weight.detach(), rtol=1e-5, atol=1e-6)
    assert decomposition.error(full) == 0.0


@pytest.mark.parametrize("method", ["cp", "cp-polished"])
@given(data=st.data())
def test_cp_of_a_depthwise_layer_is_exact_at_rank_one(method: str, data: st.DataObject) -> None:
    channels = data.draw(st.integers(1, 6))
    layer = nn.Conv2d(channels, channels, (3, 5), groups=channels, dtype=torch.float64)
    decomposition = METHODS[method].decompose(layer, 0)
    assert METHODS[method].full_rank(layer_shape(layer)) == (1,)
    torch.testing.assert_close(kernel_of(decomposition.factors((1,)), layer), layer.weight.detach())
    assert decomposition.error((1,)) < 1e-7


@pytest.mark.parametrize("method", FORMS)
@given(data=st.data())
def test_factors_depend_on_the_rank_and_the_seed_alone(method: str, data: st.DataObject) -> None:
    layer = data.draw(layers_for(method))
    large = rank_for(data, method, layer)
    small = tuple(data.draw(st.integers(1, most)) for most in large)
    fresh, used = (METHODS[method].decompose(layer, 5) for _ in range(2))
    used.factors(large)
    used.error(large)
    for own, other in zip(fresh.factors(small), used.factors(small), strict=True):
        assert torch.equal(own.weight, other.weight)
    assert fresh.error(small) == used.error(small)
    assert fresh.stability(small) == used.stability(small)
    if method in NESTED:
        assert used.error(large) <= used.error(small)


@pytest.mark.parametrize("method", FORMS)
def test_an_all_zero_kernel_stays_zero(method: str) -> None:
    layer = layer_for(method, groups=2)
    nn.init.zeros_(layer.weight)
    decomposition, rank = METHODS[method].decompose(layer, 0), rank_of(method, layer, 3)
    factors = decomposition.factors(rank)
    assert decomposition.error(rank) == 0.0
    assert decomposition.stability(rank) in (None, 0.0)
    torch.testing.assert_close(factors(torch.randn(1, 8, 5, 5)), layer(torch.zeros(1, 8, 5, 5)), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", FORMS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_factors_keep_type_and_training_flag_and_are_trained(method: str, dtype: torch.dtype) -> None:
    layer = layer_for(method).to(dtype).eval()
    layer.weight.requires_grad_(False)
    factors = METHODS[method].decompose(layer, 0).factors(rank_of(method, layer, 2))
    assert layer.bias is not None
    assert not factors.training
    assert {factor.weight.dtype for factor in factors} == {dtype}
    assert [factor.weight.requires_grad for factor in factors] == [True] * len(factors)
    assert [factor.bias is not None for factor in factors] == [False] * (len(factors) - 1) + [True]
    last = factors[-1].bias
    assert last.requires_grad
    assert torch.equal(last, layer.bias)
    assert last.data_ptr() != layer.bias.data_ptr()


@pytest.mark.parametrize("method", FORMS)
def test_ranks_that_do_not_fit_are_refused_with_the_law(method: str) -> None:
    layer = layer_for(method, 4, 6)
    full = METHODS[method].full_rank(layer_shape(layer))
    above, most = (*full[:-1], full[-1] + 1), "x".join(map(str, full))
    decomposition = METHODS[method].decompose(layer, 0)
    given = "x".join(map(str, above))
    with pytest.raises(PlanError, match=rf"rank {given} does not fit a .* weight: .* ranks go up to {most}; lower"):
        decomposition.error(above)
    with pytest.raises(PlanError, match="ranks start at 1; raise it"):
        decomposition.factors((*full[:-1], 0))
    numbers = f"{len(full)} number{'s' * (len(full) > 1)}"
    with pytest.raises(PlanError, match=rf"rank 2x2x2 does not fit .* takes {numbers} for a rank"):
        decomposition.error((2, 2, 2))


@pytest.mark.parametrize(
    ("method", "layer", "reason"),
    [
        ("cp", nn.Linear(3, 3), "a fully connected layer has no window"),
        ("cp", nn.Conv2d(3, 3, 1), "a 1x1 window has one position"),
        ("cp-als", nn.Linear(3, 3), "a fully connected layer has no window"),
        ("cp-polished", nn.Conv2d(3, 3, 1), "a 1x1 window has one position"),
        ("svd", nn.Conv2d(3, 3, (3, 5)), "1x1 windows, not 3x5; use cp"),
        ("channel", nn.Linear(3, 3), "a fully connected layer has no window, so channel is the SVD; use svd"),
        ("channel", nn.Conv2d(3, 3, 1), "a 1x1 window has one position, so channel is the SVD; use svd"),
        ("tucker", nn.Linear(3, 3), "Tucker is the SVD with a layer more; use svd"),
        ("tucker", nn.Conv2d(3, 3, 1), "a 1x1 window has one position, so Tucker is the SVD with a layer more"),
        ("spatial", nn.Linear(3, 3), "a fully connected layer has no window to separate; use svd"),
        ("spatial", nn.Conv2d(3, 3, 1), "a 1x1 window has one position, so spatial is the SVD; use svd"),
        ("spatial", nn.Conv2d(3, 3, (1, 7)), "a 1x7 window has one side already, so there is nothing to separate"),
    ],
)
def test_what_a_form_cannot_express_is_refused_by_name(method: str, layer: Layer, reason: str) -> None:
    shape: LayerShape = layer_shape(layer)
    assert reason in (METHODS[method].supports(shape) or "")
    with pytest.raises(PlanError, match=reason):
        METHODS[method].decompose(layer, 0)
    with pytest.raises(PlanError, match=reason):
        METHODS[method].layers(layer, rank_of(method, layer, 1))
