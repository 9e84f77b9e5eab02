from hypothesis import given
from hypothesis import strategies as st

from compressor.decompositions.methods import METHODS
from compressor.layer_shape import LayerShape, dense_cost
from compressor.planning.budget_rule import anchors, candidate_ranks
from compressor.planning.options import OPTIONS

FC6 = LayerShape("linear", 9216, 4096, 1, (1, 1), (1, 1), (1, 1), True)
MIDDLE = LayerShape("conv", 64, 192, 1, (5, 5), (27, 27), (27, 27), True)
DEPTHWISE = LayerShape("conv", 32, 32, 32, (3, 3), (14, 14), (14, 14), False)

shapes = st.builds(
    lambda groups, inputs, outputs, window, size: LayerShape(
        "conv", groups * inputs, groups * outputs, groups, window, (size, size), (size, size), True
    ),
    st.integers(1, 3),
    st.integers(1, 90),
    st.integers(1, 90),
    st.sampled_from([(3, 3), (5, 5), (1, 1), (1, 7), (11, 11)]),
    st.integers(1, 56),
)


@given(shapes, st.sampled_from(list(METHODS)), st.sampled_from([1, 4, 8, 16]))
def test_every_candidate_rank_pays_and_fits_the_kernels_step(shape, method, multiple):
    if METHODS[method].supports(shape):
        return
    full, dense = METHODS[method].full_rank(shape), dense_cost(shape)
    ranks = candidate_ranks(shape, method, multiple)
    assert list(ranks) == sorted(set(ranks))
    for rank in ranks:
        cost = METHODS[method].cost(shape, rank)
        assert cost.parameters < dense.parameters or cost.macs < dense.macs
        for number, most in zip(rank, full, strict=True):
            assert 1 <= number <= most
            step = multiple if number > 4 * multiple else max(1, multiple // 4)
            assert number % step == 0 or number == 1 or number == most or len(full) == 1
    cheapest = METHODS[method].cost(shape, (1,) * len(full))
    assert ranks or (cheapest.parameters >= dense.parameters and cheapest.macs >= dense.macs)


def test_a_large_layer_has_more_candidate_ranks_and_they_reach_the_break_even():
    coarse, fine = candidate_ranks(FC6, "svd", 8), candidate_ranks(FC6, "svd", 8, fraction=0.5)
    assert len(coarse) < len(fine) <= OPTIONS.ranks_of_large
    assert fine[-1][0] >= 2830
    assert METHODS["svd"].cost(FC6, (fine[-1][0] + 8,)).parameters > dense_cost(FC6).parameters


def test_tucker_gets_pairs_that_differ():
    ranks = candidate_ranks(MIDDLE, "tucker", 8)
    assert len(ranks) > 15
    assert len({first / second for first, second in ranks}) > 3


def test_a_depthwise_layer_has_no_candidate_rank():
    assert candidate_ranks(DEPTHWISE, "cp", 1) == ()


def test_anchors_are_spread_from_end_to_end():
    ranks = [(n,) for n in range(1, 21)]
    assert anchors(ranks, 4) == [(1,), (7,), (14,), (20,)]
    assert anchors(ranks[:3], 4) == ranks[:3]
