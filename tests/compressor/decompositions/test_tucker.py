"""Tucker-2: planted kernels, the fit of TensorLy's, and 1x1 layers left out at full rank."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from compressor.decompositions.methods import METHODS
from compressor.layers import layer_shape

TUCKER = METHODS["tucker"]


@given(seed=st.integers(0, 1000), first=st.integers(1, 5), last=st.integers(1, 5))
def test_a_planted_kernel_comes_back_at_its_rank(seed: int, first: int, last: int) -> None:
    torch.manual_seed(seed)
    layer = nn.Conv2d(12, 20, 3, groups=2)
    core, inputs, outputs = torch.randn(2, last, first, 9), torch.randn(2, 6, first), torch.randn(2, 10, last)
    layer.weight.data = torch.einsum("gqrd,gsr,gtq->gtsd", core, inputs, outputs).reshape(layer.weight.shape)
    assert TUCKER.decompose(layer, 0).error((first, last)) < 1e-4


def test_it_fits_as_well_as_tensorly() -> None:
    from tensorly.decomposition import partial_tucker

    torch.manual_seed(0)
    layer = nn.Conv2d(16, 24, 3)
    layer.weight.data *= torch.linspace(1, 0.1, 24)[:, None, None, None]
    rank = (5, 7)
    _, errors = partial_tucker(layer.weight.detach().flatten(2).numpy(), rank[::-1], modes=[0, 1])
    assert TUCKER.decompose(layer, 0).error(rank) <= float(errors[-1]) + 1e-3


@pytest.mark.parametrize(
    ("rank", "sizes"),
    [
        ((3, 4), [(8, 3, 1), (3, 4, 3), (4, 12, 1)]),
        ((8, 4), [(8, 4, 3), (4, 12, 1)]),
        ((3, 12), [(8, 3, 1), (3, 12, 3)]),
        ((8, 12), [(8, 12, 3)]),
    ],
)
def test_a_pointwise_layer_of_full_rank_is_left_out(rank: tuple[int, int], sizes: list[tuple[int, int, int]]) -> None:
    layer = nn.Conv2d(8, 12, 3, stride=2, padding=1)
    factors = TUCKER.decompose(layer, 0).factors(rank)
    assert [(own.in_channels, own.out_channels, own.kernel_size[0]) for own in factors] == sizes
    assert [own.bias is not None for own in factors] == [False] * (len(sizes) - 1) + [True]
    parameters = sum(own.numel() for own in factors.parameters())
    assert TUCKER.cost(layer_shape(layer), rank).parameters == parameters


def test_no_rank_is_worked_out_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    solve = torch.linalg.eigh
    monkeypatch.setattr(torch.linalg, "eigh", lambda matrix: asked.append(1) or solve(matrix))
    decomposition = TUCKER.decompose(nn.Conv2d(8, 12, 3), 0)
    decomposition.error((3, 4))
    solved = len(asked)
    decomposition.factors((3, 4))
    decomposition.error((3, 4))
    assert len(asked) == solved > 0
    decomposition.error((3, 5))
    assert len(asked) > solved
