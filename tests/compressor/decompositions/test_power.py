"""The tensor power method itself: planted components, the energy law, scale, exhaustion."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from compressor.decompositions.methods import METHODS
from compressor.decompositions.tensor_power_method import PowerMethod, SingularComponents


def rebuilt(components: PowerMethod | SingularComponents, rank: int) -> Tensor:
    return torch.einsum("ar,br,cr->abc", *components.vectors(rank))


@given(seed=st.integers(0, 1000), rank=st.integers(1, 5))
def test_planted_orthogonal_components_come_back(seed: int, rank: int) -> None:
    torch.manual_seed(seed)
    sides = [torch.linalg.qr(torch.randn(size, rank))[0] for size in (16, 12, 9)]
    strengths = torch.linspace(3, 1, rank)
    tensor = torch.einsum("r,ar,br,cr->abc", strengths, *sides)
    method = PowerMethod(tensor, seed)
    found = torch.stack([column.norm(dim=0) for column in method.vectors(rank)]).prod(0)
    torch.testing.assert_close(found.sort(descending=True).values, strengths, rtol=1e-3, atol=1e-3)
    assert (rebuilt(method, rank) - tensor).norm() < 1e-2 * tensor.norm()


@given(seed=st.integers(0, 1000), exponent=st.sampled_from([-30, 0, 15]))
def test_energy_is_what_the_components_take(seed: int, exponent: int) -> None:
    torch.manual_seed(seed)
    tensor = torch.randn(10, 14, 6) * 10.0**exponent
    method = PowerMethod(tensor, seed)
    for rank in (1, 7, 40):
        true = (rebuilt(method, rank) - tensor).double().square().sum()
        assert method.left(rank) == pytest.approx(float(true), rel=1e-4, abs=1e-9 * method.energy)


def test_components_after_the_last_are_zeros() -> None:
    tensor = torch.einsum("a,b,c->abc", torch.randn(6), torch.randn(5), torch.randn(4))
    method = PowerMethod(tensor, 0)
    torch.testing.assert_close(rebuilt(method, 1), tensor, rtol=1e-4, atol=1e-5)
    assert all(float(side[:, 3:].abs().max()) == 0.0 for side in method.vectors(12))
    assert method.left(12) < 1e-9 * method.energy


def test_one_seed_gives_one_result_and_two_give_two() -> None:
    tensor = torch.randn(20, 20, 9)
    first, again, other = (PowerMethod(tensor, seed).vectors(3)[0] for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_kernel_with_structure_is_explained_better_than_by_chance() -> None:
    torch.manual_seed(0)
    sides = [torch.randn(size, 6) for size in (40, 30, 9)]
    tensor = torch.einsum("ar,br,cr->abc", *sides) + 0.1 * torch.randn(40, 30, 9)
    method = PowerMethod(tensor, 0)
    assert 1 - method.left(12) / method.energy > 0.95


def test_stability_is_the_share_of_energy_taken() -> None:
    layer = nn.Conv2d(8, 8, 3)
    decomposition = METHODS["cp"].decompose(layer, 0)
    assert decomposition.stability((20,)) == pytest.approx(1 - decomposition.error((20,)) ** 2)
    nn.init.zeros_(layer.weight)
    assert METHODS["cp"].decompose(layer, 0).stability((20,)) == 0.0
    assert METHODS["svd"].decompose(nn.Linear(4, 4), 0).stability((2,)) is None


def test_svd_is_the_best_approximation_and_knows_every_error() -> None:
    torch.manual_seed(0)
    for sizes in ((30, 50), (50, 30)):
        layer = nn.Linear(*sizes)
        singular = torch.linalg.svdvals(layer.weight.detach().double())
        decomposition = METHODS["svd"].decompose(layer, 0)
        for rank in (1, 7, 29):
            best = float(singular[rank:].norm() / singular.norm())
            assert decomposition.error((rank,)) == pytest.approx(best, abs=1e-6)
            first, last = decomposition.factors((rank,))
            left = ((last.weight @ first.weight - layer.weight).norm() / layer.weight.norm()).item()
            assert left == pytest.approx(best, abs=1e-6)
