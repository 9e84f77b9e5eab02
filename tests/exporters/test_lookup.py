"""Weights stored as indices and codebook: in the value itself, in an ONNX file that ONNX Runtime runs, in a package."""

import math
from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch
from torch import nn

from exporters import capture as program
from exporters.lookup import Lookup, pack, read_lookups, write_lookups
from exporters.mil.program import read
from exporters.writers import to_coreml, to_onnx
from exporters.writers.coreml_lookups import tables_of
from exporters.writers.onnx_lookups import store_lookups


def lookup_of(shape, length, centroids, rows=False, books="layer"):
    """Any indices into any codebook for a weight of that shape."""
    numbers = np.random.default_rng(0)
    members, cut = shape[0], math.prod(shape[1:])
    members, cut = (cut, members) if rows else (members, cut)
    blocks = math.ceil(cut / length)
    codebook = numbers.standard_normal((blocks if books == "block" else 1, centroids, length)).astype(np.float32)
    return Lookup(shape, numbers.integers(0, centroids, (members, blocks)).astype(np.int32), codebook, rows)


class TwoLayers(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.fc = nn.Conv2d(3, 21, 3, bias=False), nn.BatchNorm2d(21), nn.Linear(84, 130)
        nn.init.uniform_(self.norm.running_var, 0.5, 2.0)
        nn.init.uniform_(self.norm.weight, 0.5, 2.0)

    def forward(self, image):
        return self.fc(self.norm(self.conv(image)).relu().flatten(1))


@pytest.mark.parametrize("rows", [False, True])
def test_a_weight_is_what_its_indices_and_vectors_say(rows):
    found = lookup_of((5, 7), 2, 4, rows)
    decoded, matrix = found.decoded(), np.zeros((5, 7))
    for output in range(5):
        for source in range(7):
            member, place = (source, output) if rows else (output, source)
            matrix[output, source] = found.codebook[0, found.indices[member, place // 2], place % 2]
    assert np.array_equal(decoded, matrix)


@pytest.mark.parametrize("width", [1, 2, 4, 8])
def test_packed_numbers_lie_bit_by_bit(width):
    numbers = np.random.default_rng(1).integers(0, 2**width, 21).astype(np.int32)
    packed = pack(numbers, width)
    assert len(packed) == math.ceil(21 * width / 8)
    whole = int.from_bytes(packed.tobytes(), "little")
    assert [(whole >> place * width) & (2**width - 1) for place in range(21)] == numbers.tolist()


def test_lookups_come_back_from_their_file(tmp_path):
    written = {"fc.weight": lookup_of((130, 84), 4, 16), "0.conv.weight": lookup_of((8, 3, 3, 3), 2, 5, True, "block")}
    write_lookups(tmp_path / "x.npz", written)
    found = read_lookups(tmp_path / "x.npz")
    assert list(found) == list(written)
    for name, own in written.items():
        assert (found[name].shape, found[name].rows) == (own.shape, own.rows)
        assert np.array_equal(found[name].decoded(), own.decoded())


@pytest.mark.parametrize(
    ("length", "centroids", "rows", "books", "stored"),
    [
        (4, 256, False, "layer", {"indices": 2730}),
        (2, 16, False, "layer", {"indices0": 2730}),
        (2, 32, False, "layer", {"indices": 5460}),
        (4, 32, False, "layer", {"indices": 2730}),
        (1, 7, True, "layer", {"indices0": 2730, "indices2": 1365}),
        (1, 4, True, "block", {"indices0": 2730}),
        (8, 4, False, "block", {"indices": 1430}),
        (1, 300, False, "layer", {"indices": 10920, "indices8": 1365}),
        (2, 300, True, "layer", {"indices": 5460, "indices8": 683}),
        (4, 20, True, "block", {"indices": 2772}),
    ],
)
def test_an_onnx_file_looks_its_weights_up(tmp_path, length, centroids, rows, books, stored):
    """A fully connected layer; 84 and 130 are divided by few of the lengths. Few indices are not worth the operators
    that unpack them."""
    module = TwoLayers().eval()
    own = lookup_of((130, 84), length, centroids, rows, books)
    module.fc.weight.data = torch.from_numpy(own.decoded())
    images = torch.randn(1, 3, 4, 4)
    path = tmp_path / "x.onnx"
    assert to_onnx.export(program.capture(module, images), path, {"fc.weight": own}).tables == ("fc.weight",)
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in onnx.load(path).graph.initializer}
    assert "fc.weight" not in tensors
    indices = {name.removeprefix("fc.weight."): value for name, value in tensors.items() if ".indices" in name}
    assert {name: value.nbytes for name, value in indices.items()} == stored
    found = to_onnx.load(path, 1)(images.numpy())
    assert found == pytest.approx(module(images).detach().numpy(), rel=1e-5, abs=1e-5)


def test_a_batch_norm_may_be_folded_into_a_shared_weight(tmp_path):
    module = TwoLayers().eval()
    own = lookup_of((21, 3, 3, 3), 3, 8)
    module.conv.weight.data = torch.from_numpy(own.decoded())
    images = torch.randn(1, 3, 4, 4)
    path = tmp_path / "x.onnx"
    assert to_onnx.export(program.capture(module, images), path, {"conv.weight": own}).tables == ("conv.weight",)
    assert "conv.weight.scale" in {tensor.name for tensor in onnx.load(path).graph.initializer}
    found = to_onnx.load(path, 1)(images.numpy())
    assert found == pytest.approx(module(images).detach().numpy(), rel=1e-5, abs=1e-5)


def test_a_weight_of_other_values_or_too_small_a_one_stays_as_it_is():
    numbers = np.random.default_rng(2)
    other = numbers.standard_normal((64, 64)).astype(np.float32)
    small = lookup_of((4, 8), 4, 16)
    tensors = [onnx.numpy_helper.from_array(value, name) for name, value in
               (("other", other), ("small", small.decoded()))]  # fmt: skip
    model = onnx.ModelProto(graph=onnx.GraphProto(initializer=tensors))
    assert store_lookups(model, {"other": lookup_of((64, 64), 4, 16), "small": small, "none": small}) == ()
    assert [tensor.name for tensor in model.graph.initializer] == ["other", "small"]


@pytest.mark.parametrize(
    ("lookups", "stored", "ios", "macos"),
    [
        ({"fc.weight": ((130, 84), 1, 16)}, [(5460, 16)], 16, 13),
        ({"fc.weight": ((130, 84), 1, 5, True)}, [(5460, 16)], 16, 13),
        ({"fc.weight": ((130, 84), 4, 33)}, [(130 * 21 * 6 / 8, 64 * 4)], 18, 15),
        ({"fc.weight": ((130, 84), 2, 7, True, "block")}, [(65 * 84 * 3 / 8, 65 * 8 * 2)], 18, 15),
        ({"fc.weight": ((130, 84), 4, 2, False, "block")}, [(130 * 21 / 8, 21 * 2 * 4)], 18, 15),
        (
            {"fc.weight": ((130, 84), 1, 9), "conv.weight": ((21, 3, 3, 3), 3, 16, True)},
            [(7 * 27 / 2, 16 * 3), (5460, 16)],
            18,
            15,
        ),
    ],
)
def test_a_coreml_package_looks_its_weights_up(tmp_path, lookups, stored, ios, macos):
    """`stored` are the bytes of the indices and the numbers of the entries."""
    module = TwoLayers().eval()
    module.norm = nn.Identity()
    own = {name: lookup_of(*arguments) for name, arguments in lookups.items()}
    for name, each in own.items():
        module.get_parameter(name).data = torch.from_numpy(each.decoded())
    images = torch.randn(1, 3, 4, 4)
    path = tmp_path / "x.mlpackage"
    written = to_coreml.export(program.capture(module, images), path, own)
    assert (sorted(written.tables), written.notes) == (
        sorted(own),
        (f"its look-up tables want iOS {ios} or macOS {macos}",),
    )
    assert written.inspected.startswith("3 of 3 stored weights match within float16")
    tables = [each.arguments for each in read(path).operations if each.operator == "constexpr_lut_to_dense"]
    sizes = []
    for table in tables:
        (indices,), (entries,) = table["indices"], table["lut"]
        packed = "shape" in table  # of iOS 16
        bits = 8 if packed else (entries.shape[-2] - 1).bit_length()
        sizes.append((indices.size * bits / 8, entries.size))
    assert sizes == stored
    logits = module(images).detach().numpy()
    assert np.abs(to_coreml.load(path, 1)(images.numpy()) - logits).max() < 4e-3 * logits.std()


@pytest.mark.parametrize(
    ("lookup", "stored"),
    [
        (lookup_of((64, 32, 1, 1), 2, 256), ["0.weight"]),
        (lookup_of((64, 32, 1, 1), 2, 300), []),  # more vectors than an index counts
        (lookup_of((64, 33, 1, 1), 2, 16), []),  # the last vector is cut off
        (lookup_of((64, 8, 3, 3), 4, 16), []),  # vectors along the axes of a window
        (lookup_of((4, 8, 1, 1), 4, 16), []),  # larger than the weight
    ],
)
def test_what_core_ml_has_no_table_for_is_stored_as_it_is(lookup, stored):
    outputs, inputs, side, _ = lookup.shape
    module = nn.Sequential(nn.Conv2d(inputs, outputs, side), nn.Flatten()).eval()
    module[0].weight.data = torch.from_numpy(lookup.decoded())
    network = program.capture(module, torch.randn(1, inputs, side, side))
    assert list(tables_of(network, {"0.weight": lookup, "1.weight": lookup})) == stored
    assert tables_of(network, {"0.weight": replace(lookup, codebook=lookup.codebook + 1)}) == {}
