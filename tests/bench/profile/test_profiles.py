"""Profiles: what each engine's profiler writes, brought together with layers; worst first."""

import json
from pathlib import Path

import numpy as np
import pytest
from bench_files import IMAGES, artifact, onnx_file
from bench_rows import DEVICE

from bench.budgets.model_files import ModelFile
from bench.devices import DEVICES, find
from bench.measurement import BenchError, NotMeasured, Schedule
from bench.profile.profile import Call, Operator, Profile, append, layers_of_calls, read, read_calls

LAYERS = {"one": 3, "two": 4}
"""Two convolutions, and the channels that each reads."""
FILES = Path(__file__).parents[1] / "files"
CALLS = [("one", "a", 3.0), ("pool", "", 5.0), ("two", "a", 4.0), ("three", "b", 1.0)]
PROFILE = Profile(
    network="compressed",
    format="onnx",
    sha256="ab" * 32,
    device=DEVICE,
    runtime="ONNX Runtime",
    runtime_version="1.31.1",
    unit="ms",
    runs=30,
    operators=tuple(Operator(*call) for call in CALLS),
    joined=True,
    measured_at="2026-11-20T13:00:00+00:00",
)


def test_the_worst_layer_comes_first_and_what_has_no_layer_stands_for_itself() -> None:
    found = [(share.layer, share.amount, len(share.operators)) for share in PROFILE.layers()]
    assert found == [("a", 7.0, 2), ("(pool)", 5.0, 1), ("b", 1.0, 1)]
    assert PROFILE.total == 13.0


def test_a_profile_survives_its_line_and_a_damaged_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "profiles.jsonl"
    append(file, [PROFILE])
    append(file, [PROFILE])
    assert read(file) == (PROFILE, PROFILE)
    file.write_text(file.read_text() + '{"unit": "ms"}\n')
    text = r"profiles\.jsonl, line 3, is not a profile: ValidationError: Object missing required field `network`; "
    with pytest.raises(BenchError, match=text):
        read(file)


def events(path: Path, *names: str) -> Path:
    """The profile that ONNX Runtime writes of one run."""
    rows = [{"cat": "Session", "name": "session_initialization", "dur": 9, "args": {}}]
    for name in names:
        kind, _, node = name.partition(" ")
        rows.append({"cat": "Node", "name": f"{node}_kernel_time", "dur": 2, "args": {"op_name": kind}})
    path.write_text(json.dumps([*rows, {"cat": "Session", "name": "model_run", "dur": 9, "args": {}}]))
    return path


def test_onnx_runtimes_kernels_are_told_by_their_nodes(tmp_path: Path) -> None:
    (run,) = read_calls("onnx", events(tmp_path / "p", "Conv a_nchwc", "ReorderOutput Re_token_3", "FusedConv fused x"))
    assert [(call.name, call.ns, call.weighted) for call in run] == [
        ("Conv a", 2000, True),
        ("ReorderOutput Re", 2000, False),
        ("FusedConv x", 2000, True),
    ]


def test_a_profile_that_is_none_or_empty_is_refused(tmp_path: Path) -> None:
    (tmp_path / "p").write_text("{")
    with pytest.raises(BenchError, match=r"p is no profile of a \.onnx \(JSONDecodeError: .*\); profile it again"):
        read_calls("onnx", tmp_path / "p")
    with pytest.raises(BenchError, match=r"the profile of the \.onnx names no operator; build the runner anew"):
        read_calls("onnx", events(tmp_path / "q"))


def test_a_fused_chain_leads_back_to_its_weight(tmp_path: Path) -> None:
    file = onnx_file(tmp_path / "net.onnx", 8).path
    calls = [Call("Conv a", 1, True), Call("MaxPool b", 1, False), Call("Conv b", 1, True), Call("Conv z", 1, True)]
    subject = ModelFile("net", file, None)
    assert layers_of_calls("onnx", calls, subject) == ["one", "", "two", ""]
    unnamed = [Call("Conv ", 1, True), Call("Conv ", 1, True), Call("MaxPool ", 1, False)]
    assert layers_of_calls("onnx", unnamed, subject) == ["one", "two", ""]
    assert layers_of_calls("onnx", unnamed[1:], subject) is None


def test_a_quantized_kernel_leads_to_its_int8_weight_and_never_to_a_scale(tmp_path: Path) -> None:
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    number = [numpy_helper.from_array(np.float32(0.1).reshape(()), "scale")]
    kernels = [numpy_helper.from_array(np.ones((4, side, 3, 3), np.int8), name) for name, side in LAYERS.items()]
    nodes, last = [], "image"
    for name in LAYERS:
        nodes += [
            helper.make_node("QuantizeLinear", [last, "scale"], [f"{name} codes"]),
            helper.make_node("DequantizeLinear", [f"{name} codes", "scale"], [f"{name} input"]),
            helper.make_node("DequantizeLinear", [name, "scale"], [f"{name} kernel"]),
            helper.make_node("Conv", [f"{name} input", f"{name} kernel"], [f"{name} sums"], name=f"node {name}"),
            helper.make_node("Relu", [f"{name} sums"], [f"{name} relu"], name=f"relu {name}"),
        ]
        last = f"{name} relu"
    image = helper.make_tensor_value_info("image", TensorProto.FLOAT, (1, 3, 16, 16))
    logits = helper.make_tensor_value_info(last, TensorProto.FLOAT, (1, 4, 12, 12))
    graph = helper.make_graph(nodes, "net", [image], [logits], [*kernels, *number])
    onnx.save(helper.make_model(graph, ir_version=10), tmp_path / "net.onnx")
    subject = ModelFile("net", tmp_path / "net.onnx", None)
    calls = [Call("QLinearConv node one", 1, True), Call("QLinearConv relu two", 1, True), Call("Add x", 1, False)]
    assert layers_of_calls("onnx", calls, subject) == ["one", "two", ""]
    nameless = [Call("QuantizeLinear ", 1, False), Call("QLinearConv ", 1, True), Call("QLinearConv ", 1, True)]
    assert layers_of_calls("onnx", nameless, subject) == ["", "one", "two"]


def test_operators_without_names_are_told_by_their_place_or_shape() -> None:
    pte, ptl = (ModelFile(f"tiny.{form}", FILES / f"tiny.{form}", None) for form in ("pte", "ptl"))
    calls = [Call("Convolution", 1, True), Call("Mean", 1, False), Call("Fully Connected", 1, True)]
    assert layers_of_calls("pte", calls, pte) == ["#0", "", "#2"]
    assert layers_of_calls("pte", calls[:2], pte) is None
    shaped = [Call("convolution", 1, True, (4, 3, 3, 3)), Call("mean", 1, False), Call("linear", 1, True, (5, 4))]
    found = layers_of_calls("ptl", shaped, ptl)
    assert found is not None
    assert len(set(found)) == 3
    assert found[1] == ""
    assert layers_of_calls("ptl", [shaped[0], shaped[2]][::-1], ptl) is None


def test_two_threads_are_refused_on_the_simulated_core() -> None:
    with pytest.raises(BenchError, match=r"the simulated ARM CPU counts one thread, not 4: .*; leave --threads out"):
        DEVICES["arm"].profile([], IMAGES, Schedule(threads=4))


@pytest.mark.parametrize("inside", ["app", "app_process"])
def test_a_phone_is_profiled_in_its_shell_only(inside: str) -> None:
    text = rf"^a phone's profiles are taken in its shell, not in {inside}; leave --in {inside} out$"
    with pytest.raises(BenchError, match=text):
        find("phone", inside=inside).profile([], IMAGES)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["host", "arm"])
def test_every_engine_tells_what_its_operators_take(runner: Path, device: str, tmp_path: Path) -> None:
    assert runner.exists()
    files = [artifact(FILES / "tiny.pte"), onnx_file(tmp_path / "net.onnx", 32)]
    if device == "host":  # its libraries take 8 s to load under QEMU
        files.append(artifact(FILES / "tiny.ptl"))
    *found, other = DEVICES[device].profile([*files, artifact(FILES / "tiny.tflite")], IMAGES, Schedule())
    assert isinstance(other, NotMeasured)
    assert other.reason == "no profile of LiteRT is read here"
    for profile, file in zip(found, files, strict=True):
        assert isinstance(profile, Profile)
        assert (profile.format, profile.sha256, profile.joined) == (file.format, file.sha256, True)
        assert profile.unit == ("ms" if device == "host" else "instructions")
        assert len({operator.layer for operator in profile.operators} - {""}) == 2
        assert profile.total > 0
    two = next(operator for operator in found[1].operators if operator.layer == "two")  # type: ignore[union-attr]
    if device == "arm":
        assert two == max(found[1].operators, key=lambda each: each.amount)  # type: ignore[union-attr]
        assert two.amount > 32 * 32 * 9 * 25 / 4  # each instruction computes four multiplications at most
        assert DEVICES[device].profile(files[1:], IMAGES, Schedule())[0].operators == found[1].operators  # type: ignore[union-attr]
        counted = DEVICES[device].measure(files[:1], IMAGES)[0].run.instructions  # type: ignore[union-attr]
        assert 0.5 * counted < found[0].total < 1.5 * counted  # type: ignore[union-attr]
