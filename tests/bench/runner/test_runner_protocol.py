"""The runner's line of JSON: read whole, or refused with what it said."""

import json

import pytest
from runner_line import LINE

from bench.measurement import BenchError, Memory
from bench.runner.protocol import parse


def test_the_answer_becomes_a_value() -> None:
    answer = parse(json.dumps(LINE) + "\n", "a.pte")
    assert (answer.samples_ms, answer.output_shape, answer.cores) == ((1.0, 1.25), (1, 2), "f0")
    assert answer.outputs is not None
    assert answer.outputs.tolist() == [[0.5, pytest.approx(-1e-30)], [3.0, 4.0]]
    assert answer.memory.loaded == Memory(peak=5, resident=4, anonymous=3, file=2, proportional=None)
    assert (answer.core_after, answer.mhz_before, answer.mhz_after, answer.preemptions) == (5, 1804.8, None, 7)


def test_answers_may_lie_in_a_file() -> None:
    assert parse(json.dumps(LINE | {"outputs": "answers.raw"}), "a.pte").outputs is None


@pytest.mark.parametrize(
    ("said", "text"),
    [
        ('{"error": "there is no file x"}', "a.pte was not measured: there is no file x"),
        (json.dumps(LINE | {"schema": 2}), "the runner speaks schema 2, this program 1; build the runner again"),
        ("", "the runner did not answer with its one line, but said nothing"),
        ("Segmentation\nfault", "but said Segmentation fault"),
        ("[]", "but said []"),
        (json.dumps({name: LINE[name] for name in LINE if name != "memory"}), "did not answer with its one line"),
    ],
)
def test_what_is_no_answer_is_refused(said: str, text: str) -> None:
    with pytest.raises(BenchError) as error:
        parse(said, "a.pte")
    assert text in str(error.value)
