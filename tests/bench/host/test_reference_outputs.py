from pathlib import Path

import numpy as np
import pytest
from bench_files import artifact
from phone_files import PHOTOS, matmul

from bench.host.reference_outputs import agree, reference_outputs
from bench.measurement import BenchError
from exporters.parity import compare


def test_a_file_answers_on_this_machine(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    file = matmul(tmp_path / "a.onnx", 7)
    weights = numpy_helper.to_array(onnx.load(file.path).graph.initializer[0])
    (answers,) = reference_outputs([file], PHOTOS, 60)
    assert answers == pytest.approx(PHOTOS.reshape(3, -1) @ weights, rel=1e-4, abs=1e-4)


def test_a_file_that_does_not_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"this is no protobuf")
    with pytest.raises(
        BenchError, match=r"^a\.onnx does not run on this machine, so there is nothing to hold the .*again$"
    ):
        reference_outputs([artifact(tmp_path / "a.onnx")], PHOTOS, 60)


def test_a_machine_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"^a\.onnx did not answer on this machine in 0\.01 s$"):
        reference_outputs([matmul(tmp_path / "a.onnx", 2)], PHOTOS, 0.01)


def test_answers_agree_up_to_rounding() -> None:
    reference = np.random.default_rng(0).standard_normal((4, 10)).astype(np.float32)
    assert agree(compare(reference * np.float32(1 + 1e-6), reference))
    assert not agree(compare(reference + np.float32(0.02) * reference[::-1], reference))
    assert not agree(compare(reference[:, ::-1], reference))
