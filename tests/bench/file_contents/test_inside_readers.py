"""The readers on real files, and that a file which is cut short or foreign is found out."""

import contextlib
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from bench_files import onnx_file
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from bench.file_contents.contents import ContentError, Contents, Weight, duplicates
from bench.file_contents.readers import READERS, input_shape, read
from exporters.formats import FORMATS

FILES = Path(__file__).resolve().parents[1] / "files"


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    """A real file of every kind that can be opened."""
    folder = tmp_path_factory.mktemp("samples")
    onnx_file(folder / "sample.onnx", 4)
    save_file(
        {"a.weight": np.ones((4, 3), np.float32), "a.bias": np.zeros(4, np.float16)}, folder / "sample.safetensors"
    )
    for name in ("pte", "tflite", "ptl"):
        shutil.copy(FILES / f"tiny.{name}", folder / f"sample.{name}")
    shutil.copytree(FILES / "tiny.mlpackage", folder / "sample.mlpackage")
    return folder


def test_every_format_can_be_opened():
    assert set(FORMATS) <= set(READERS)


def found(contents):
    return [(weight.dtype, weight.shape, weight.bytes) for weight in contents.weights]


def test_a_pte_tells_the_weights_inside_its_delegate():
    contents = read(FILES / "tiny.pte")
    assert found(contents) == [
        ("float32", (4, 3, 3, 3), 432),
        ("float32", (4,), 16),
        ("float32", (5, 4), 80),
        ("float32", (5,), 20),
    ]
    assert contents.operators["XNNPACK Conv2d"] == contents.operators["XNNPACK FullyConnected"] == 1
    assert contents.bytes == 4116
    assert [weight.name for weight in contents.weights] == ["#0", "#1", "#2", "#3"]


def test_a_ptl_tells_its_constants_and_the_operators_of_its_bytecode():
    contents = read(FILES / "tiny.ptl")
    assert found(contents) == found(read(FILES / "tiny.pte"))
    assert contents.operators == {
        "aten::_convolution": 1, "aten::relu": 1, "aten::adaptive_avg_pool2d": 1, "aten::flatten": 1, "aten::linear": 1,
    }  # fmt: skip


def test_a_tflite_tells_weights_by_layer_and_operators():
    contents = read(FILES / "tiny.tflite")
    weights = {weight.name: weight for weight in contents.weights if weight.dtype == "float32"}
    assert {name: (weight.shape, weight.bytes) for name, weight in weights.items()} == {
        "0.weight": ((4, 3, 3, 3), 432), "0.bias": ((4,), 16), "4.weight": ((5, 4), 80), "4.bias": ((5,), 20),
    }  # fmt: skip
    assert contents.operators == {"TRANSPOSE": 1, "CONV_2D": 1, "MEAN": 1, "FULLY_CONNECTED": 1}
    assert contents.number_type == "float32"
    assert input_shape(FILES / "tiny.tflite") == (1, 3, 16, 16)
    theirs = read(FILES / "tiny.ptl").weights[0]
    kernel = weights["0.weight"]
    stored = np.fromfile(kernel.place, np.float32, 108, offset=kernel.offset).reshape(4, 3, 3, 3)
    given = np.fromfile(theirs.place, np.float32, 108, offset=theirs.offset).reshape(4, 3, 3, 3)
    assert np.array_equal(stored, given.transpose(0, 2, 3, 1))


def test_a_tflite_whose_data_lie_beyond_its_end_is_found_out(tmp_path):
    content = bytearray((FILES / "tiny.tflite").read_bytes())
    kernel = next(weight for weight in read(FILES / "tiny.tflite").weights if weight.name == "0.weight")
    content[kernel.offset - 4 : kernel.offset] = (2000).to_bytes(4, "little")
    (tmp_path / "a.tflite").write_bytes(content)
    with pytest.raises(ContentError, match=r"it speaks of 3,\d\d\d bytes, and has 2,\d\d\d"):
        read(tmp_path / "a.tflite")


def test_an_mlpackage_tells_its_blobs_and_short_constants():
    contents = read(FILES / "tiny.mlpackage")
    assert ("float16", (4, 3, 3, 3), 216) in found(contents)
    assert contents.parameters == 4 * 27 + 4 + 20 + 5
    assert contents.operators["linear"] == 1


def test_the_same_weights_are_stored_in_pte_and_ptl():
    """The bytes at the places that the readers name: XNNPACK keeps a kernel's channels last."""
    pte, ptl = read(FILES / "tiny.pte"), read(FILES / "tiny.ptl")
    ours, theirs = (
        np.fromfile(file.weights[0].place, np.float32, 108, offset=file.weights[0].offset) for file in (pte, ptl)
    )
    assert (ours.reshape(4, 3, 3, 3) == theirs.reshape(4, 3, 3, 3)).all() or sorted(ours) == sorted(theirs)


def test_an_onnx_tells_names_operators_and_constants(samples):
    contents = read(samples / "sample.onnx")
    assert found(contents) == [("float32", (4, 3, 3, 3), 432), ("float32", (4, 4, 3, 3), 576)]
    assert [weight.name for weight in contents.weights] == ["one", "two"]
    assert contents.operators == {"Conv": 2, "GlobalAveragePool": 1, "Flatten": 1}


def test_an_onnx_with_numbers_that_are_not_raw_is_counted_too(tmp_path):
    import onnx
    from onnx import TensorProto, helper

    floats = helper.make_tensor("w", TensorProto.FLOAT, [2, 3], [1.0] * 6)
    constant = helper.make_node("Constant", [], ["c"], value=helper.make_tensor("v", TensorProto.INT64, [2], [1, 300]))
    onnx.save(helper.make_model(helper.make_graph([constant], "g", [], [], [floats])), tmp_path / "a.onnx")
    weights = {weight.name: weight for weight in read(tmp_path / "a.onnx").weights}
    assert (weights["w"].shape, weights["w"].bytes, weights["w"].dtype) == ((2, 3), 24, "float32")
    assert (weights["c"].shape, weights["c"].bytes, weights["c"].dtype) == ((2,), 3, "int64")


def test_safetensors_tell_every_tensor(samples):
    contents = read(samples / "sample.safetensors")
    assert sorted(found(contents)) == [("float16", (4,), 8), ("float32", (4, 3), 48)]
    assert contents.dtypes == {"float32": 48, "float16": 8}
    assert contents.bytes == contents.other_bytes + 56


def test_a_kind_that_no_reader_knows_is_none(tmp_path):
    (tmp_path / "model.caffemodel").write_bytes(b"")
    assert read(tmp_path / "model.caffemodel") is None


def test_what_is_stored_twice_is_found(tmp_path):
    same = np.arange(64, dtype=np.float32)
    save_file(
        {"a": same, "b": same.copy(), "c": same + 1, "tiny": same[:2], "tiny2": same[:2].copy()},
        tmp_path / "w.safetensors",
    )
    (group,) = duplicates(read(tmp_path / "w.safetensors"))
    assert [weight.name for weight in group] == ["a", "b"]


def test_two_names_for_one_place_are_one_copy(tmp_path):
    (tmp_path / "w").write_bytes(bytes(256))
    weights = tuple(Weight(name, "float32", (32,), 128, tmp_path / "w", 0) for name in "ab")
    assert duplicates(Contents(256, weights)) == ()


@pytest.mark.parametrize("suffix", ["pte", "onnx", "tflite", "ptl", "safetensors"])
@pytest.mark.parametrize("share", [0.02, 0.3, 0.6, 0.9, 0.99])
def test_a_file_that_is_cut_short_is_found_out(samples, tmp_path, suffix, share):
    content = (samples / f"sample.{suffix}").read_bytes()
    (tmp_path / f"cut.{suffix}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ContentError, match=rf"cut\.{suffix} is no whole \.{suffix}: "):
        read(tmp_path / f"cut.{suffix}")


@pytest.mark.parametrize("suffix", ["pte", "onnx", "tflite", "ptl", "safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"<html>404</html>", b"version https://git-lfs.github.com/spec/v1\noid sha256:0"]
)
def test_a_foreign_file_is_found_out(tmp_path, suffix, content):
    (tmp_path / f"a.{suffix}").write_bytes(content)
    with pytest.raises(ContentError, match=rf"a\.{suffix} is no whole"):
        read(tmp_path / f"a.{suffix}")


@pytest.mark.parametrize(
    ("suffix", "content", "text"),
    [
        ("onnx", b"\x0a\x05abc", "ends in the middle of a field of 5 bytes at byte 2"),
        ("onnx", b"\x08\xff", "ends in the middle of a number at byte 2"),
        ("onnx", b"\x08" + b"\xff" * 11, "begins no number of a protocol buffer"),
        ("onnx", b"\x0b", "byte 0 begins no field of a protocol buffer"),
        ("onnx", b"\x08\x08", "it has no graph"),
        ("pte", b"\0\0\0\0ET12eh00" + bytes(40), "it has no method that could be run"),
        ("pte", b"\x20\0\0\0TFL3" + bytes(40), "it does not begin as an ExecuTorch program does"),
        ("tflite", b"\x20\0\0\0ET12" + bytes(40), "it does not begin as a LiteRT model does"),
        ("tflite", b"\x10\0\0\0TFL3" + bytes(40), "it has no graph"),
        ("safetensors", (99).to_bytes(8, "little"), "its header of 99 bytes does not fit into 8 bytes"),
        ("safetensors", (4).to_bytes(8, "little") + b"nope", "its header cannot be read"),
        ("safetensors", (2).to_bytes(8, "little") + b"{}more", "speaks of 10 bytes, and it has 14"),
        ("ptl", b"PK", "it is no archive of the lite interpreter"),
    ],
)
def test_what_is_wrong_with_it_is_said(tmp_path, suffix, content, text):
    (tmp_path / f"a.{suffix}").write_bytes(content)
    with pytest.raises(ContentError, match=text):
        read(tmp_path / f"a.{suffix}")


def test_a_pte_whose_numbers_point_outside_is_found_out(tmp_path):
    content = bytearray((FILES / "tiny.pte").read_bytes())
    content[0:4] = (2**31).to_bytes(4, "little")
    (tmp_path / "a.pte").write_bytes(content)
    with pytest.raises(ContentError, match="it ends before byte 2,147,483,648, which it points to"):
        read(tmp_path / "a.pte")
    content = bytearray((FILES / "tiny.pte").read_bytes())
    for place in range(40, 400, 4):
        content[place : place + 4] = (2**27).to_bytes(4, "little")
    (tmp_path / "b.pte").write_bytes(content)
    with pytest.raises(ContentError, match=r"b\.pte is no whole \.pte"):
        read(tmp_path / "b.pte")


def test_a_pte_whose_parts_lie_beyond_its_end_is_found_out(tmp_path):
    content = (FILES / "tiny.pte").read_bytes()
    (tmp_path / "a.pte").write_bytes(content[:-4])
    with pytest.raises(ContentError, match="it speaks of 4,116 bytes, and has 4,112"):
        read(tmp_path / "a.pte")


@given(st.sampled_from(["pte", "tflite"]), st.integers(8, 3200), st.binary(min_size=1, max_size=8))
@settings(max_examples=300, deadline=None)
def test_a_flatbuffer_with_any_fault_is_read_or_found_out(tmp_path_factory, suffix, place, fault):
    path = tmp_path_factory.getbasetemp() / f"fault.{suffix}"
    content = bytearray((FILES / f"tiny.{suffix}").read_bytes())
    place = min(place, len(content) - len(fault))
    content[place : place + len(fault)] = fault
    path.write_bytes(content)
    with contextlib.suppress(ContentError):  # any other error fails
        assert read(path).bytes == len(content)


def test_a_list_that_does_not_fit_is_found_out():
    import struct

    from bench.file_contents.flatbuffer import Flat

    # a table with one field, a vector of a thousand million entries
    data = struct.pack("<IHHHHiII", 12, 6, 8, 4, 0, 8, 4, 10**9)
    with pytest.raises(ContentError, match="a list of 1,000,000,000 entries at byte 20 does not fit into it"):
        Flat.root(data).tables(0)


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda folder: (folder / "Manifest.json").unlink(), "it has no Manifest.json and .mlmodel"),
        (lambda folder: next(folder.rglob("weight.bin")).unlink(), "its weight.bin is missing"),
        (
            lambda folder: next(folder.rglob("weight.bin")).write_bytes(bytes(150)),
            "its weight.bin is cut short: p_0_weight",
        ),
        (lambda folder: next(folder.rglob("*.mlmodel")).write_bytes(b"\x08\x07"), "it holds no ML program"),
    ],
)
def test_a_package_that_is_not_whole_is_found_out(tmp_path, spoil, text):
    shutil.copytree(FILES / "tiny.mlpackage", tmp_path / "a.mlpackage")
    spoil(tmp_path / "a.mlpackage")
    with pytest.raises(ContentError, match=rf"a\.mlpackage is no whole \.mlpackage: {text}"):
        read(tmp_path / "a.mlpackage")


class Harm:
    """Unpickled in the ordinary way, it would write a file."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, "w")


def test_nothing_that_a_pickle_names_is_called(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.ptl", "w") as archive:
        archive.writestr("a/data.pkl", pickle.dumps(Harm(tmp_path / "harm")))
        archive.writestr("a/bytecode.pkl", pickle.dumps((8,)))
    assert read(tmp_path / "a.ptl").weights == ()
    assert not (tmp_path / "harm").exists()


def test_reading_imports_no_toolkit():
    code = (
        "import sys; from pathlib import Path; from bench.file_contents.readers import read; "
        f"[read(path) for path in Path({str(FILES)!r}).glob('tiny.*')]; "
        "print(*(name for name in ('torch', 'numpy', 'onnx', 'coremltools', 'executorch') if name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split() == []
