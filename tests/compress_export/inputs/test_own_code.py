"""Networks of users' own code: what it imports is found as python finds it, and what goes wrong is one sentence."""

import sys

import pytest
import torch

import bench
import compressor
from compress_export.errors import InputError
from compress_export.models.networks import NetworkRequest, load_network

LINEAR = "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(48, {}))\n"
PARTS = "from torch import nn\ndef head(outputs):\n    return nn.Sequential(nn.Flatten(), nn.Linear(48, outputs))\n"
USES = "from {} import head\ndef build():\n    return head({})\n"
LATE = """
from torch import nn
class Late(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, 5)
    def forward(self, image):
        from helpers import flat
        return self.layer(flat(image))
def build():
    return Late()
"""
DATACLASS = """
from __future__ import annotations
from dataclasses import dataclass
from torch import nn
@dataclass
class Shape:
    outputs: int = 5
def build():
    return nn.Sequential(nn.Flatten(), nn.Linear(48, Shape().outputs))
"""

WORKING = {
    "a neighbour": ({"net.py": USES.format("parts", 5), "parts.py": PARTS}, "net.py:build"),
    "a neighbour, from another folder": (
        {"sub/net.py": USES.format("parts", 5), "sub/parts.py": PARTS}, "sub/net.py:build",
    ),
    "from the working folder": (
        {"sub/net.py": USES.format("common.parts", 5), "common/parts.py": PARTS}, "sub/net.py:build",
    ),
    "imported in forward": ({"net.py": LATE, "helpers.py": "def flat(x):\n    return x.flatten(1)\n"}, "net.py:build"),
    "a package, by its module": (
        {"pkg/__init__.py": "", "pkg/models/__init__.py": "", "pkg/parts.py": PARTS,
         "pkg/models/net.py": USES.format("..parts", 5)}, "pkg.models.net:build",
    ),
    "a package, by its file": (
        {"pkg/__init__.py": "", "pkg/parts.py": PARTS, "pkg/net.py": USES.format(".parts", 5)}, "pkg/net.py:build",
    ),
    "a package itself": ({"pkg/__init__.py": USES.format(".parts", 5), "pkg/parts.py": PARTS}, "pkg:build"),
    "a folder without __init__": ({"models/net.py": LINEAR.format(5)}, "models.net:build"),
    "called compressor.py": ({"compressor.py": DATACLASS}, "compressor.py:build"),
    "called bench.py": ({"bench.py": LINEAR.format(5)}, "bench.py:build"),
    "called torch.py": ({"torch.py": "import torch.nn as nn\n" + LINEAR.format(5)}, "torch.py:build"),
    "a neighbour called bench": ({"net.py": USES.format("bench", 5), "bench.py": PARTS}, "net.py:build"),
    "a neighbour called exporters": (
        {"net.py": USES.format("exporters.parts", 5), "exporters/__init__.py": "", "exporters/parts.py": PARTS},
        "net.py:build",
    ),
    "with a dot and a dash": ({"my-net.v2.py": LINEAR.format(5)}, "my-net.v2.py:build"),
}  # fmt: skip


@pytest.fixture
def write(tmp_path, monkeypatch):
    """write(files) -> the folder, which is the working one, with these files in it."""
    monkeypatch.chdir(tmp_path)

    def written(files):
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_text(text)
        return tmp_path

    return written


@pytest.mark.parametrize(("files", "name"), WORKING.values(), ids=WORKING)
def test_code_finds_what_it_imports(write, files, name):
    write(files)
    network = load_network(NetworkRequest(name, input=(3, 4, 4)))
    assert network.module(torch.zeros(2, 3, 4, 4)).shape == (2, 5)
    assert (sys.modules["bench"], sys.modules["compressor"], sys.modules["torch"]) == (bench, compressor, torch)


def test_neighbours_of_one_name_are_those_of_their_own_folder(write):
    write({f"{name}/{file}": text for name, outputs in (("a", 5), ("b", 7)) for file, text in (
        ("net.py", "from sizes import OUTPUTS\n" + LINEAR.format("OUTPUTS")), ("sizes.py", f"OUTPUTS = {outputs}\n"))
    })  # fmt: skip
    found = [load_network(NetworkRequest(f"{name}/net.py:build", input=(3, 4, 4))).outputs for name in "aba"]
    assert found == [5, 7, 5]


BROKEN = {
    "no such module": ({}, "pkg.net:build", "pkg.net:build: there is no file pkg/net.py"),
    "no such neighbour": ({"net.py": "import partz\n"}, "net.py:build", r"No module named 'partz' \(.*net.py:1\)"),
    "a relative import of no package": (
        {"models/net.py": "from .parts import head\n"}, "models/net.py:build",
        r"no known parent package \(.*\); name it as a module of its package: models.net:build",
    ),
    "no such function": ({"pkg/net.py": LINEAR.format(5)}, "pkg.net:bild", "pkg.net has no function bild: did you"),
    "it reads the command line": (
        {"net.py": "import argparse\nargparse.ArgumentParser().parse_args(['-x'])\n"}, "net.py:build", "SystemExit: 2",
    ),
    "a slip of the pen": ({"net.py": "def build(:\n"}, "net.py:build", r"raised SyntaxError: .*\(net.py, line 1\)"),
}  # fmt: skip


@pytest.mark.parametrize(("files", "name", "message"), BROKEN.values(), ids=BROKEN)
def test_code_that_fails_is_one_sentence(write, files, name, message):
    write(files)
    with pytest.raises(InputError, match=message):
        load_network(NetworkRequest(name, input=(3, 4, 4)))


TYPES = """
import torch
from torch import nn
class Casting(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.layer, self.kind = nn.Linear(48, 5).to(kind), kind
    def forward(self, image):
        return self.layer(image.flatten(1).to(self.kind))
class Ending(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(48, 5)
    def forward(self, image):
        return self.layer(image.flatten(1)).double()
def plain(kind):
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(48, 5)).to(kind)
def double():
    return plain(torch.float64)
def half():
    return plain(torch.float16)
def casting():
    return Casting(torch.bfloat16)
def ending():
    return Ending()
"""


@pytest.mark.parametrize(("function", "said"), [("double", "float64"), ("half", "float16")])
def test_weights_of_another_type_are_converted_and_that_is_said(write, function, said):
    write({"net.py": TYPES})
    network = load_network(NetworkRequest(f"net.py:{function}", input=(3, 4, 4)))
    assert network.module(torch.zeros(1, 3, 4, 4)).dtype == torch.float32
    assert network.notes == (f"the weights of net.py:{function} are {said}, and are converted to float32 here",)


CASTS = {
    "casting": "net.py:casting computes in bfloat16 by casts of its own .*: take the casts out of its forward",
    "ending": "net.py:ending answers in float64, and files hold float32: take the cast out of its forward",
}


@pytest.mark.parametrize(("function", "message"), CASTS.items(), ids=CASTS)
def test_a_forward_that_casts_is_one_sentence(write, function, message):
    write({"net.py": TYPES})
    with pytest.raises(InputError, match=message):
        load_network(NetworkRequest(f"net.py:{function}", input=(3, 4, 4)))


OTHERS = {
    "fasterrcnn_resnet50_fpn": "is one of torchvision.models.detection, and by name this tool takes classifiers and",
    "r3d_18": "is one of torchvision.models.video",
    "quantized_resnet18": "is one of torchvision.models.quantization, and by name this tool takes",
}


@pytest.mark.parametrize(("name", "message"), OTHERS.items(), ids=OTHERS)
def test_torchvisions_other_networks_are_known(name, message):
    with pytest.raises(InputError, match=message):
        load_network(NetworkRequest(name, "none"))


NO_LAYER = """
import torch
from torch import nn
class Rows(nn.Module):
    def __init__(self):
        super().__init__()
        self.rows = nn.Conv1d(24, 5, 8)
    def forward(self, image):
        return self.rows(image.flatten(1, 2)).mean(2)
def pooled():
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""


@pytest.mark.parametrize(
    ("function", "limit", "status", "said"),
    [
        ("Rows", (), 0, "parameters: 965 -> 965"),
        ("pooled", (), 0, "parameters: 0 -> 0"),
        ("Rows", ("--max-params", "0.5x"), 1, "max-params 0.5x cannot be met: max-params 965 (1.000x) is the least"),
    ],
)
def test_a_network_without_a_layer_to_factor_is_planned_as_it_is(write, call, function, limit, status, said):
    words = ("--input", "3x8x8", "--weights", "none", "--set", "plan.costs=counted", *limit)
    found, out, err = call(write({"net.py": NO_LAYER}), "plan", f"net.py:{function}", *words)
    assert (found, said in f"{out}{err}", "Traceback" in err) == (status, True, False)
