import pytest

from compressor.layer_shape import PlanError
from compressor.planning.goal import Goal
from compressor.planning.limits import parse_limit


@pytest.mark.parametrize(
    ("quantity", "text", "original", "most"),
    [
        ("params", "0.15x", 1000, 150),
        ("params", "8.7M", 1000, 8_700_000),
        ("macs", "900k", 1, 900_000),
        ("size", "8MB", 1, 8_000_000),
        ("size", "8 MiB", 1, 8 * 2**20),
        ("size", "0.5x", 44, 22),
        ("latency", "5ms", 1, 5),
        ("latency", "0.5s", 1, 500),
        ("latency", "250us", 1, 0.25),
        ("drop", "1%", 93, 1),
        ("drop", "0%", 93, 0),
    ],
)
def test_a_limit_is_a_share_or_an_absolute_figure(quantity, text, original, most):
    assert parse_limit(quantity, text).most(original) == pytest.approx(most)


@pytest.mark.parametrize(
    ("quantity", "text", "message"),
    [
        ("params", "0.5", r"--max-params takes a limit with its unit, such as 0.15x or 8.7M; '0.5' has no unit"),
        ("params", "many", "such as 0.15x or 8.7M; 'many' is none"),
        ("params", "-1M", "'-1M' is none"),
        ("params", "1.5x", "--max-params 1.5x: a fraction lies above 0x and is at most 1x"),
        ("macs", "0x", "a fraction lies above 0x"),
        ("latency", "5M", r"'M' is no unit of it \(units: x, us, ms, s\)"),
        ("size", "8mb", r"'mb' is no unit of it \(units: x, B, kB, MB, GB, KiB, MiB, GiB\)"),
        ("size", "0MB", "--max-size 0MB: a limit lies above 0"),
        ("drop", "0.5x", r"'x' is no unit of it \(units: %\)"),
    ],
)
def test_a_limit_without_unit_or_range_says_what_it_takes(quantity, text, message):
    with pytest.raises(PlanError, match=message):
        parse_limit(quantity, text)


def test_a_goal_says_its_limits_and_when_a_slower_form_is_allowed():
    assert Goal(max_params="0.2x", max_size="8MB").may_be_slower
    assert not Goal(max_params="0.2x", max_latency="0.5x").may_be_slower
    assert not Goal(max_macs="0.5x").may_be_slower
    assert not Goal().may_be_slower
    assert Goal(max_params="0.2x", max_drop="1%").text() == "max-params 0.2x, max-drop 1%"
    assert Goal(max_drop="5%", assumed=True).text() == "max-drop 5% (default)"
    assert Goal().text() == "default: size and time against errors"


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"methods": ("cp", "tuker")}, "there is no method 'tuker'; choose among cp, cp-polished"),
        ({"methods": ()}, "no method is allowed; choose among cp"),
        ({"rule": "vbmf", "max_size": "0.5x"}, "the rank rule vbmf cannot answer to --max-size; leave out one"),
        ({"rule": "vbmf", "max_params": "0.5x"}, "the rank rule vbmf cannot answer to --max-params"),
        ({"rule": "vbmf", "methods": ("svd",)}, "the rank rule vbmf cannot answer to --methods"),
        ({"ranks": {"0": 3}, "max_drop": "1%"}, "ranks given cannot answer to --max-drop"),
    ],
)
def test_goals_that_contradict_themselves_are_refused(fields, message):
    with pytest.raises(PlanError, match=message):
        Goal(**fields)
