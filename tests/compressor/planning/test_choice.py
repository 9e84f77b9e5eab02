import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.plan import LayerVariant
from compressor.planning.knapsack import Candidate, choose, least, total, undominated

figures = st.integers(1, 60)


def option(layer, params, latency, loss):
    return Candidate(LayerVariant(f"l{layer}", "svd", (params, latency, loss)), params, params, latency, loss)


layers = st.lists(st.lists(st.tuples(figures, figures, figures), min_size=1, max_size=4), min_size=1, max_size=4)


@given(layers, st.floats(0.2, 1.2), st.floats(0.2, 1.2))
def test_no_other_choice_within_the_limits_is_better(rows, tightness, fraction):
    options = {f"l{i}": [option(i, *figures) for figures in row] for i, row in enumerate(rows)}
    limits = {
        "params": tightness * sum(max(p for p, _, _ in row) for row in rows),
        "latency": fraction * sum(max(t for _, t, _ in row) for row in rows),
    }
    found = choose(options, {"loss": 1.0}, limits)
    every = [dict(zip(options, combination, strict=True)) for combination in itertools.product(*options.values())]
    # A hair below the limit: the solver keeps clear of it by its own tolerance.
    within = [c for c in every if all(total(c, q) <= limit * (1 - 1e-5) for q, limit in limits.items())]
    if found is None:
        assert not within
    else:
        assert set(found) == set(options)
        assert all(total(found, q) <= limit for q, limit in limits.items())
        assert total(found, "loss") <= min((total(c, "loss") for c in within), default=float("inf")) * (1 + 1e-3)
        assert least(options, "loss", limits) <= total(found, "loss") * (1 + 1e-6)


def test_weights_say_what_is_made_least():
    options = {"l0": [option(0, 10, 1, 1), option(0, 1, 10, 1)]}
    assert choose(options, {"params": 1.0}, {})["l0"].params == 1
    assert choose(options, {"latency": 1.0}, {})["l0"].latency == 1


def test_the_least_is_that_of_mixed_options():
    options = {"l0": [option(0, 10, 1, 2), option(0, 2, 1, 10)]}
    assert least(options, "loss", {"params": 6.0}) == pytest.approx(6.0, rel=1e-4)
    assert least(options, "loss", {}) == pytest.approx(2.0)
    assert least(options, "loss", {"params": 1.0}) == least({}, "loss", {}) == 0


def test_nothing_to_choose_is_a_choice_unless_the_rest_is_above_the_limit():
    assert choose({}, {"loss": 1.0}, {"params": 5.0}) == {}
    assert choose({}, {"loss": 1.0}, {"params": -5.0}) is None


@given(st.lists(st.tuples(figures, figures, figures), min_size=1, max_size=12))
def test_what_is_left_beats_or_equals_what_is_left_out(rows):
    every = [option(0, *row) for row in rows]
    left = undominated(every, ("params", "latency", "loss"))
    row = [(o.params, o.latency, o.loss) for o in left]
    for each in rows:
        assert any(all(a <= b for a, b in zip(own, each, strict=True)) for own in row)
    for one, other in itertools.permutations(row, 2):
        assert any(a < b for a, b in zip(one, other, strict=True))
    assert len(left) == len(set(row)) == pytest.approx(len(row))
