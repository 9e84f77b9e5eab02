"""Product quantization: what is counted, what is decoded, and what k-means is asked for."""

import math

import pytest
import torch
from hypothesis import given
from sharing_strategies import problems
from torch import nn

from compressor.calibration import collect
from compressor.layer_shape import PlanError
from compressor.weight_sharing.product_quantization import (
    Sharing,
    bits,
    check_sharing,
    grid,
    joined,
    looked_up,
    quantize,
    relative_error,
    second_moment,
    subvectors,
)


@given(problems())
def test_subvectors_and_back(problem):
    weight, sharing = problem
    assert torch.equal(joined(subvectors(weight, sharing), tuple(weight.shape), sharing), weight)


@given(problems())
def test_bits_are_those_of_the_indices_and_codebooks_there_are(problem):
    weight, sharing = problem
    shared = quantize("fc", weight, sharing)
    counted = bits(tuple(weight.shape), sharing)
    assert counted.indices == shared.indices.numel() * math.ceil(math.log2(sharing.centroids))
    assert counted.codebooks == 32 * shared.codebook.numel()
    assert counted.dense == 32 * weight.numel()
    assert int(shared.indices.max()) < sharing.centroids


def test_a_codebook_for_each_block_gives_gongs_rate():
    m, n, length, k = 4096, 9216, 4, 256
    blocks = n // length
    rate = 32 * m * n / (32 * k * n + m * blocks * math.log2(k))
    assert bits((m, n), Sharing(length, k, codebook="block")).factor == rate


def test_a_length_that_does_not_divide_fills_the_last_block_with_zeros():
    weight = torch.arange(1.0, 11).reshape(2, 5)
    vectors = subvectors(weight, Sharing(3, 2))
    assert vectors.tolist() == [[[1, 2, 3], [6, 7, 8]], [[4, 5, 0], [9, 10, 0]]]
    assert subvectors(weight, Sharing(3, 2, "rows")).shape == (1, 5, 3)
    assert bits((2, 5), Sharing(3, 2)).indices == 2 * 2
    assert bits((2, 5), Sharing(3, 2, codebook="block")).codebooks == 32 * 2 * 2 * 3


def test_as_many_centroids_as_subvectors_is_exact():
    weight = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
    shared = quantize("fc", weight, Sharing(4, 12))
    assert torch.equal(shared.decoded(), weight)
    assert shared.error == 0


def test_planted_centroids_come_back():
    generator = torch.Generator().manual_seed(3)
    planted = torch.randn(16, 4, generator=generator)
    weight = planted[torch.randint(16, (40, 10), generator=generator)].reshape(40, 40)
    shared = quantize("fc", weight, Sharing(4, 16))
    assert shared.error < 1e-6
    assert torch.allclose(shared.codebook[0].sort(0).values, planted.sort(0).values, atol=1e-6)


@pytest.mark.parametrize("codebook", ["layer", "block"])
@pytest.mark.parametrize("split", ["columns", "rows"])
def test_moments_lower_the_error_of_the_outputs(split, codebook):
    torch.manual_seed(0)
    layer = nn.Linear(48, 64)
    images = torch.randn(400, 48) * torch.logspace(-1.5, 0.5, 48)
    images[:, 1::2] += images[:, ::2]
    moments = collect(nn.Sequential(layer), [images], ["0"])["0"]
    second = second_moment(moments, centred=True)
    sharing = Sharing(4, 8, split, codebook)
    plain, aware = (quantize("0", layer.weight, sharing, second=each) for each in (None, second))
    errors = [relative_error(layer.weight.detach(), each.decoded(), second) for each in (plain, aware)]
    assert errors[1] < 0.95 * errors[0]
    assert aware.error == errors[1]


def test_relative_error_is_that_of_the_outputs():
    generator = torch.Generator().manual_seed(1)
    weight, other = torch.randn(5, 7, generator=generator), torch.randn(5, 7, generator=generator)
    images = torch.randn(900, 7, generator=generator).double()
    second = images.T @ images / len(images)
    outputs, lost = (images @ each.double().T for each in (weight, weight - other))
    assert relative_error(weight, other, second) == pytest.approx(float(lost.norm() / outputs.norm()))
    assert relative_error(weight, other) == pytest.approx(float((weight - other).norm() / weight.norm()))


def test_a_centroids_gradient_is_the_mean_over_its_members():
    """By differences: the loss per unit of a centroid's shift, over how many sub-vectors it moved."""
    torch.manual_seed(0)
    sharing = Sharing(3, 4)
    shared = quantize("fc", torch.randn(8, 9), sharing)
    images, wanted = torch.randn(20, 9, dtype=torch.float64), torch.randn(20, 8, dtype=torch.float64)

    def loss(codebook):
        weight = joined(looked_up(codebook, shared.indices), (8, 9), sharing)
        return ((images @ weight.T - wanted) ** 2).mean()

    codebook = shared.codebook.double().requires_grad_()
    (gradient,) = torch.autograd.grad(loss(codebook), codebook)
    members = torch.bincount(shared.indices.flatten(), minlength=4)
    assert members.min() > 1
    for centroid in range(4):
        for place in range(3):
            shift = torch.zeros_like(codebook)
            shift[0, centroid, place] = 1e-6
            slope = (loss(codebook + shift) - loss(codebook - shift)) / 2e-6
            assert gradient[0, centroid, place].item() == pytest.approx(slope.item() / members[centroid].item(), 1e-5)


def test_equal_subvectors_need_no_more_centroids_than_there_are_values():
    shared = quantize("fc", torch.ones(4, 8), Sharing(2, 8))
    assert torch.equal(shared.decoded(), torch.ones(4, 8))


def test_what_cannot_be_shared_is_refused():
    law = r"256 centroids do not fit fc \(10x48\): a codebook has at most as many centroids as sub-vectors to serve, "
    with pytest.raises(PlanError, match=law + "here 120 of length 4; lower the number, or leave fc out"):
        check_sharing("fc", (10, 48), Sharing(4, 256))
    with pytest.raises(PlanError, match="here 10 of length 4; leave out block, so that one codebook"):
        check_sharing("fc", (10, 48), Sharing(4, 16, codebook="block"))
    for length, centroids in ((0, 16), (4, 1), (4, 65537)):
        with pytest.raises(PlanError, match=rf"the length from 1 .* from 2 to 65536, not {length}x{centroids}; take"):
            Sharing(length, centroids)
    broken = torch.ones(4, 4)
    broken[0, 0] = math.nan
    with pytest.raises(PlanError, match=r"the weight of fc holds NaN or infinity, .* mend the checkpoint"):
        quantize("fc", broken, Sharing(2, 2))


def test_a_large_codebook_is_found_on_a_sample():
    weight = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    shared = quantize("fc", weight, Sharing(2, 8))  # 8,192 sub-vectors, 2,048 looked at
    assert grid((64, 256), shared.sharing).served == 8192
    assert len(shared.indices.unique()) == 8
    assert shared.error < 0.5


@pytest.mark.parametrize(
    ("text", "both"), [("4x256,rows,columns", "columns and rows"), ("4x8,block,layer", "block and l")]
)
def test_words_that_contradict_each_other_are_refused(text, both):
    with pytest.raises(PlanError, match=f"a codebook serves the layer or a block, and '{text}' asks for {both}"):
        Sharing.parse(text)
    assert Sharing.parse("8x16,rows,block") == Sharing(8, 16, "rows", "block")
