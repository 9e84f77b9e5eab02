import numpy as np
import pytest
import torch

from compressor.planning.vbmf import evbmf_rank, evbmf_rank_of, free_energy, threshold


def test_the_threshold_of_a_square_matrix_is_the_published_one():
    # Nakajima et al. 2013, Corollary 1: tau = 2.5129 at alpha = 1, so (1 + tau)(1 + 1 / tau) = 4.9108.
    assert threshold(1.0) == pytest.approx(3.5129 * (1 + 1 / 2.5129), rel=1e-4)
    # Their approximation tau = 2.5129 sqrt(alpha) stays within a few percent below 1.
    for alpha in (0.1, 0.3, 0.7):
        tau = 2.5129 * alpha**0.5
        assert threshold(alpha) == pytest.approx((1 + tau) * (1 + alpha / tau), rel=0.03)


@pytest.mark.parametrize("sides", [(60, 60), (40, 200), (300, 50)])
@pytest.mark.parametrize("rank", [1, 5, 20])
def test_planted_components_are_counted_whatever_the_shape_and_scale(sides, rank):
    random = torch.Generator().manual_seed(rank)
    rows, columns = (torch.linalg.qr(torch.randn(side, rank, generator=random))[0] for side in sides)
    signal = 40 * rows @ torch.diag(torch.linspace(1, 2, rank)) @ columns.T
    noisy = signal + torch.randn(*sides, generator=random)
    assert evbmf_rank(noisy) == rank
    assert evbmf_rank(1e-4 * noisy) == rank
    assert evbmf_rank(noisy.T.contiguous()) == rank


def test_noise_alone_and_nothing_have_no_components():
    assert evbmf_rank(torch.randn(80, 120, generator=torch.Generator().manual_seed(0))) == 0
    assert evbmf_rank(torch.zeros(8, 9)) == 0


def test_the_noise_found_has_the_leastfree_energy():
    random = np.random.default_rng(0)
    matrix = random.normal(size=(30, 90))
    matrix += 12 * np.outer(random.normal(size=30), random.normal(size=90)) / 10
    squares = np.linalg.svd(matrix, compute_uv=False) ** 2
    least = threshold(1 / 3)
    energies = {v: free_energy(squares / (90 * v), 1 / 3, least) for v in np.geomspace(0.05, 5, 2000)}
    best = min(energies, key=energies.__getitem__)
    assert best == pytest.approx(1.0, rel=0.1)  # the variance that was put in
    assert evbmf_rank_of(squares, 30, 90) == int((squares > 90 * best * least).sum()) == 1
