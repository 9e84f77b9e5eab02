"""The slicewise SVD: orthogonal components, their energies at every rank, exact at the full one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from compressor.decompositions.cp import rebuilt, strengths
from compressor.decompositions.slicewise_svd import SlicewiseComponents


def kernels_of(seed: int, sizes: tuple[int, int, int], groups: int = 1) -> Tensor:
    torch.manual_seed(seed)
    return torch.randn(groups, *sizes, dtype=torch.float64)


SIZES = st.tuples(st.integers(1, 7), st.integers(1, 7), st.integers(1, 7))


@given(seed=st.integers(0, 1000), sizes=SIZES, groups=st.integers(1, 3), data=st.data())
def test_what_is_left_is_known_at_every_rank(
    seed: int, sizes: tuple[int, int, int], groups: int, data: st.DataObject
) -> None:
    kernels, (first, second, _) = kernels_of(seed, sizes, groups), sorted(sizes)
    components = SlicewiseComponents(kernels)
    count = data.draw(st.integers(1, first * second))
    sides = components.sides(count)
    lost = float((kernels.flatten(2) - rebuilt(sides)).square().sum() / kernels.square().sum())
    assert components.left(count) == pytest.approx(lost, abs=1e-12)
    # Orthogonal terms: their energies add up to that of the sum.
    assert float(strengths(sides).sum() / kernels.square().sum()) == pytest.approx(1 - lost, abs=1e-12)
    assert components.left(first * second) < 1e-12


def test_the_first_components_are_those_of_a_larger_rank() -> None:
    components = SlicewiseComponents(kernels_of(0, (8, 6, 4)))
    for few, many in zip(components.sides(5), components.sides(20), strict=True):
        assert torch.equal(few, many[:, :, :5])


@pytest.mark.parametrize("sizes", [(1, 9, 7), (9, 1, 7), (9, 7, 1)])
def test_a_matrix_has_the_errors_of_its_singular_values(sizes: tuple[int, int, int]) -> None:
    kernels = kernels_of(1, sizes)
    energies = torch.linalg.svdvals(kernels.squeeze()).square()
    left = [SlicewiseComponents(kernels).left(count) for count in range(8)]
    expected = [float(energies[count:].sum() / energies.sum()) for count in range(8)]
    assert left == pytest.approx(expected, abs=1e-12)


def test_a_group_is_found_by_itself_whatever_its_scale() -> None:
    single = kernels_of(2, (8, 6, 4), 4).float()
    kernels = single * torch.tensor([1.0, 1e-25, 0.0, 1e25])[:, None, None, None]
    together = SlicewiseComponents(kernels).sides(24)
    for group, kernel in enumerate(kernels):
        made = rebuilt(together)[group]
        torch.testing.assert_close(made, kernel.flatten(1), rtol=1e-3, atol=1e-5 * float(kernel.abs().max()))
    assert SlicewiseComponents(torch.zeros(1, 3, 3, 3)).left(2) == 0.0
