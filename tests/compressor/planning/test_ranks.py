import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.decompositions.methods import METHODS
from compressor.layer_shape import LayerShape, PlanError, dense_cost
from compressor.planning.rank_rules import FactorableLayer, break_even, equal_errors, in_proportion, price

STEM = LayerShape("conv", 3, 64, 1, (11, 11), (224, 224), (55, 55), True)
MIDDLE = LayerShape("conv", 64, 192, 1, (5, 5), (27, 27), (27, 27), True)
FULL = LayerShape("linear", 9216, 4096, 1, (1, 1), (1, 1), (1, 1), True)
DEPTHWISE = LayerShape("conv", 32, 32, 32, (3, 3), (14, 14), (14, 14), False)


@pytest.mark.parametrize("concern", ["parameters", "work"])
@pytest.mark.parametrize("shape", [STEM, MIDDLE, FULL])
def test_break_even_is_the_last_rank_that_pays(shape, concern):
    method = "svd" if shape is FULL else "cp"
    rank = break_even(shape, method, concern)
    dense = dense_cost(shape)

    def pays(rank):
        cost = METHODS[method].cost(shape, (rank,))
        return cost.parameters < dense.parameters and price(cost, concern) < price(dense, concern)

    assert pays(rank)
    assert not pays(rank + 1)


def test_a_stem_pays_far_less_in_work_than_in_parameters():
    # The 1x1 factor in front of it runs at 224x224: that is why the papers' recipe makes AlexNet slower.
    assert break_even(STEM, "cp", "parameters") == 123
    assert break_even(STEM, "cp", "work") < 35


def test_a_depthwise_layer_never_pays():
    assert break_even(DEPTHWISE, "cp", "parameters") == 0


def layers_of(*most):
    return {f"l{i}": FactorableLayer(f"l{i}", FULL, "svd", rank) for i, rank in enumerate(most)}


def parameters(found, ranks):
    return sum(found[name].parameters(rank) for name, rank in ranks.items())


@given(
    st.lists(st.tuples(st.integers(1, 2500), st.floats(0.01, 50)), min_size=1, max_size=6),
    st.floats(0.02, 1.2),
)
def test_proportional_ranks_keep_the_limit_and_the_proportion(layers, share):
    found = layers_of(*(most for most, _ in layers))
    shares = {name: drop for name, (_, drop) in zip(found, layers, strict=True)}
    limit = int(share * parameters(found, dict.fromkeys(found)))
    ranks = in_proportion(found, shares, limit)
    assert parameters(found, ranks) <= limit
    cut = {name: rank for name, rank in ranks.items() if rank is not None}
    assert all(1 <= rank <= found[name].break_even for name, rank in cut.items())
    for one in cut:
        for other in cut:
            if min(cut[one], cut[other]) > 20:
                assert cut[one] / cut[other] == pytest.approx(shares[one] / shares[other], rel=0.11)


def test_what_a_kept_layer_does_not_need_raises_the_others():
    found, shares = layers_of(2, 2500, 2500), {"l0": 1.0, "l1": 1.0, "l2": 2.0}
    ranks = in_proportion(found, shares, int(0.6 * parameters(found, dict.fromkeys(found))))
    assert ranks["l0"] is None
    assert ranks["l2"] == pytest.approx(2 * ranks["l1"], abs=2)
    assert ranks["l1"] > 300


def test_a_limit_below_rank_one_is_refused_with_the_least():
    found = layers_of(100, 100)
    with pytest.raises(PlanError, match=r"1,000 parameters are not enough: rank 1 .* leaves 34,816"):
        in_proportion(found, {"l0": 1.0, "l1": 1.0}, 1000)
    with pytest.raises(PlanError, match="1,000 parameters are not enough"):
        equal_errors(found, lambda _name, rank: 1 / rank[0], 1000)


@given(st.lists(st.tuples(st.integers(5, 2500), st.floats(0.3, 3)), min_size=2, max_size=5), st.floats(0.05, 0.9))
def test_equal_errors_are_equal_and_keep_the_limit(layers, share):
    found = layers_of(*(most for most, _ in layers))
    powers = dict(zip(found, (power for _, power in layers), strict=True))

    def error(name, rank):
        return rank[0] ** -powers[name]

    limit = int(share * parameters(found, dict.fromkeys(found)))
    ranks = equal_errors(found, error, limit)
    assert parameters(found, ranks) <= limit
    free = {name: rank for name, rank in ranks.items() if rank is not None and 20 < rank < found[name].break_even}
    errors = [error(name, (rank,)) for name, rank in free.items()]
    if errors:
        # A step is a sixteenth of the rank, so errors may differ by what one step brings.
        assert max(errors) <= min(errors) * (17 / 16) ** (2 * max(powers.values()))


def test_components_are_asked_for_only_as_far_as_they_are_used():
    found = layers_of(2000, 2000)
    asked = {name: [] for name in found}

    def error(name, rank):
        asked[name].append(rank[0])
        return 1 / rank[0]

    ranks = equal_errors(found, error, parameters(found, dict.fromkeys(found)) // 10)
    assert {name: max(seen) for name, seen in asked.items()} == ranks


def test_a_layer_whose_error_is_nought_takes_no_more():
    found = layers_of(2000, 2000)

    def error(name, rank):
        return 1 / rank[0] if name == "l1" else 0.0 if rank[0] >= 3 else 0.9

    ranks = equal_errors(found, error, parameters(found, dict.fromkeys(found)) // 10)
    assert ranks["l0"] == 3
    assert ranks["l1"] > 300
