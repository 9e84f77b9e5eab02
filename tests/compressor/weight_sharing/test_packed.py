"""The packed file: its size is the counted one, its content comes back bit for bit, and a damaged one is refused."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import save_file
from sharing_strategies import problems
from torch import nn

from compressor.surgery import WeightsError
from compressor.survey import survey
from compressor.weight_sharing.layers import (
    KEY,
    load_shared,
    pack,
    plain,
    plan_sharing,
    put,
    save_shared,
    share,
    shared_weights,
    unpack,
)
from compressor.weight_sharing.product_quantization import Sharing, bits, quantize


@given(st.integers(1, 16).flatmap(lambda width: st.tuples(st.just(width), st.lists(st.integers(0, 2**width - 1)))))
def test_packed_numbers_come_back(problem):
    width, values = problem
    packed = pack(np.array(values, dtype=np.int32), width)
    assert len(packed) == (len(values) * width + 7) // 8
    assert unpack(packed, len(values), width).tolist() == values


def lenet():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 5), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(256, 96), nn.ReLU(), nn.Linear(96, 10)
    ).eval()


SHARING = Sharing(4, 20)
IMAGES = torch.rand(16, 1, 12, 12, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def written(tmp_path):
    """(the network with shared weights, its file)"""
    module = lenet()
    model = share(module, plan_sharing(survey(module, IMAGES), SHARING), SHARING)
    save_shared(model.module, tmp_path / "shared.safetensors")
    return model, tmp_path / "shared.safetensors"


def header_of(path):
    (size,) = struct.unpack("<Q", path.read_bytes()[:8])
    return 8 + size


def test_it_is_decoded_bit_for_bit(written):
    model, path = written
    back = lenet()
    with torch.no_grad():
        for value in back.parameters():
            value.add_(1)
    load_shared(back, path)
    one, other = plain(back).state_dict(), plain(model.module).state_dict()
    assert list(one) == list(other)
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert all(torch.equal(a.indices, shared_weights(model.module)[n].indices) for n, a in shared_weights(back).items())


def test_its_size_is_the_counted_one(written):
    model, path = written
    shared = sum(row.bits.total for row in model.shared)
    assert [row.name for row in model.shared] == ["3", "5"]
    others = 4 * sum(value.numel() for name, value in lenet().state_dict().items() if "num_batches" not in name) + 8
    dense = sum(row.bits.dense for row in model.shared)
    counted = others + (shared - dense) / 8
    assert 0 <= path.stat().st_size - header_of(path) - counted < len(model.shared)
    assert header_of(path) < 1500


@given(problems())
def test_any_sharing_is_written_and_read(tmp_path_factory, problem):
    weight, sharing = problem
    path = tmp_path_factory.getbasetemp() / "any.safetensors"

    def layer():
        kind = nn.Linear(weight.shape[1], weight.shape[0]) if weight.dim() == 2 else None
        return nn.Sequential(kind or nn.Conv2d(weight.shape[1], weight.shape[0], tuple(weight.shape[2:])))

    module, back = layer(), layer()
    put(module[0], quantize("0", weight, sharing))
    save_shared(module, path)
    load_shared(back, path)
    assert torch.equal(plain(back)[0].weight, plain(module)[0].weight)
    assert torch.equal(back[0].bias, module[0].bias)
    counted = bits(tuple(weight.shape), sharing).total / 8 + 4 * len(weight)
    assert 0 <= path.stat().st_size - header_of(path) - counted < 1


def rewritten(path, about=None, **changed):
    """The file with other metadata, or other tensors."""
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is not iterable
    tensors = {name: value for name, value in {**tensors, **changed}.items() if value is not None}
    layers = json.loads(metadata[KEY])
    save_file(tensors, path, {KEY: json.dumps(layers | about if about is not None else layers)})


def refused(path, match):
    module = lenet()
    with pytest.raises(WeightsError, match=match):
        load_shared(module, path)
    assert shared_weights(module) == {}


def test_a_file_cut_short_is_refused(written):
    _, path = written
    path.write_bytes(path.read_bytes()[:-7])
    refused(path, "is not a safetensors file: .*; write it again")


def test_a_file_of_something_else_is_refused(written, tmp_path):
    other = tmp_path / "plain.safetensors"
    save_file({"a": torch.zeros(3)}, other)
    refused(other, "holds no shared weights: it has no compress-export.shared; write it with save_shared")
    _, path = written
    rewritten(path, {"version": 2})
    refused(path, "is of version 2, this tool reads version 1; write it again, or take")


ROW = {"weight": [96, 256], "length": 4, "centroids": 20, "split": "columns", "codebook": "layer"}


@pytest.mark.parametrize(
    ("row", "match"),
    [
        ({"weight": [96, 256]}, "does not say how its weights are shared: KeyError: 'split'; write it again"),
        ({**ROW, "split": "slantwise"}, "ValueError: split 'slantwise' with a codebook for each 'layer'"),
        ({**ROW, "centroids": 1}, "the centroids from 2 to 65536, not 4x1"),
        (
            {**ROW, "length": 8},
            r"3.weight.indices is \(3840,\) of torch.uint8, \(1920,\) of torch.uint8 were announced",
        ),
        ({**ROW, "weight": [9600000, 256]}, "3 is 9600000x256 in the file and 96x256 in the network; load it with"),
        ([], "does not say how its weights are shared: TypeError"),
    ],
)
def test_metadata_that_does_not_fit_is_refused(written, row, match):
    _, path = written
    rewritten(path, {"layers": {"3": row}})
    refused(path, match)


def test_a_layer_that_the_network_lacks_is_refused(written):
    _, path = written
    rewritten(path, {"layers": {"9": ROW}})
    refused(path, "does not fit the network: the network has no layer '9'")


def test_tensors_that_do_not_fit_are_refused(written):
    _, path = written
    whole = path.read_bytes()
    rewritten(path, **{"3.weight.codebook": None})
    refused(path, r"3.weight.codebook is missing, \(1, 20, 4\) of torch.float32 were announced")
    path.write_bytes(whole)
    rewritten(path, **{"3.weight.indices": torch.full((3840,), 255, dtype=torch.uint8)})
    refused(path, "3 points to centroid 31 of a codebook of 20; the file is damaged, write it again")
    path.write_bytes(whole)
    rewritten(path, **{"5.bias": None})
    refused(path, "does not fit the network: 5.bias is missing in the file and 10 of float32 in the network")
    path.write_bytes(whole)
    rewritten(path, extra=torch.zeros(2))
    refused(path, "extra is 2 of float32 in the file and missing in the network")
