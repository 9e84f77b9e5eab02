import numpy as np
import pytest
from exporter_networks import images, small_network

from exporters.artifact import ExportError
from exporters.parity import check, compare, logits_of

GOLDEN = np.array([[0.0, 1.0, 3.0], [2.0, 0.0, 1.0]], dtype=np.float32)


def test_equal_logits_agree():
    parity = compare(GOLDEN, GOLDEN)
    assert (parity.max_error, parity.relative_error, parity.top1_agreement) == (0.0, 0.0, 1.0)
    assert parity.cosine == pytest.approx(1.0)
    assert parity.images == 2
    assert parity.executed


def test_the_error_is_relative_to_the_spread_of_all_logits():
    given = GOLDEN.copy()
    given[1, 2] += 0.5
    parity = compare(given, GOLDEN)
    assert parity.max_error == pytest.approx(0.5)
    assert parity.relative_error == pytest.approx(0.5 / GOLDEN.std())
    assert parity.top1_agreement == 1.0


def test_the_least_cosine_counts_and_ignores_the_mean():
    given = GOLDEN + 100
    given[1] = 100 - GOLDEN[1]
    assert compare(GOLDEN + 100, GOLDEN).cosine == pytest.approx(1.0)
    parity = compare(given, GOLDEN)
    assert parity.cosine == pytest.approx(-1.0)
    assert parity.top1_agreement == 0.5


@pytest.mark.parametrize(
    ("gap", "dtype", "agreement"),
    [
        (0.0, "float32", 1.0),
        (1e-6, "float32", 1.0),
        (1e-2, "float32", 0.5),
        (1e-2, "float16", 1.0),
        (5e-2, "float16", 0.5),
        (1e-2, "int8", 0.5),
    ],
)
def test_logits_of_the_module_that_the_type_cannot_tell_apart_are_a_tie(gap, dtype, agreement):
    tied, given = GOLDEN.copy(), GOLDEN.copy()
    tied[0] = (3.0, 1.0, 3.0 - gap)
    given[0] = (3.0, 1.0, 3.0 + 1e-6)
    assert compare(given, tied, dtype).top1_agreement == agreement


def test_logits_without_spread_prove_nothing():
    flat = np.zeros((2, 3), dtype=np.float32)
    parity = compare(flat, flat)
    assert parity.note == "the module gives the same logit everywhere, which proves nothing"
    assert parity.cosine == 1.0
    assert compare(flat + 1e-3, flat).verdict("float32") == "failed"
    assert compare(GOLDEN[:1], flat[:1]).cosine == 0.0


@pytest.mark.parametrize("given", [GOLDEN[:1], GOLDEN[:, :2], GOLDEN[0]])
def test_logits_of_another_shape_are_refused(given):
    with pytest.raises(ExportError, match=r"the file gave \(.*\), the module \(2, 3\)"):
        compare(given, GOLDEN)


def test_no_images_are_refused():
    with pytest.raises(ExportError, match=r"logits to compare have one shape"):
        compare(GOLDEN[:0], GOLDEN[:0])


def test_logits_that_are_not_finite_are_an_error_with_the_image():
    broken = GOLDEN.copy()
    broken[1, 0] = np.nan
    with pytest.raises(ExportError, match=r"the file gives logits .* for 1 of 2 images \(first: image 1\)"):
        compare(broken, GOLDEN)
    with pytest.raises(ExportError, match=r"the module gives logits that are not finite"):
        compare(GOLDEN, broken)


def test_answers_are_given_in_eval_mode_and_leave_the_mode_alone():
    module = small_network()
    expected = module(images()).detach().numpy()
    module[1].train()
    assert np.allclose(logits_of(module, images().numpy()), expected, atol=1e-6)
    assert module[1].training
    assert not module[0].training


def test_a_file_that_its_runtime_refuses_is_named(tmp_path):
    (tmp_path / "broken.onnx").write_bytes(b"not a model")
    with pytest.raises(ExportError, match=r"ONNX Runtime cannot run broken.onnx: .*leave the onnx format out"):
        check(tmp_path / "broken.onnx", "onnx", images().numpy(), np.zeros((5, 10), np.float32))


def test_the_rms_error_is_that_of_all_logits():
    given = GOLDEN.copy()
    given[0, 0] += 2.0
    found = compare(given, GOLDEN)
    assert found.rms_error == pytest.approx(2.0 / np.sqrt(GOLDEN.size) / GOLDEN.std(), rel=1e-5)
    assert found.rms_error < found.relative_error
