import pytest
from hypothesis import given
from hypothesis import strategies as st

from compressor.layer_shape import PlanError
from compressor.plan import LayerPlan, Plan

rows = st.builds(
    LayerPlan,
    name=st.text(min_size=1),
    weight=st.lists(st.integers(1, 99), min_size=2, max_size=4).map(tuple),
    method=st.sampled_from(["keep", "cp", "svd"]),
    rank=st.lists(st.integers(1, 99), max_size=2).map(tuple),
    reason=st.text(),
    error=st.none() | st.floats(0, 1),
)


@given(st.lists(rows, unique_by=lambda row: row.name).map(tuple), st.text(), st.text(), st.integers(0, 9))
def test_a_plan_comes_back_from_its_file(layers, rule, goal, seed):
    plan = Plan(layers, rule, goal, seed, ("a note",))
    assert Plan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"layers": [{}]}', '{"layers": [{"name": "a", "rank": ["x"]}]}'])
def test_another_file_is_refused(text):
    with pytest.raises(PlanError, match=r"here is not a plan: .*; write one with `compress-export plan NETWORK`"):
        Plan.from_json(text, "here")


def test_a_layer_named_twice_is_refused():
    row = LayerPlan("features.0", (4, 3, 3, 3), "cp", (2,), "rank given")
    with pytest.raises(PlanError, match=r"names a layer twice: features\.0"):
        Plan((row, row), "given", "ranks given")
