"""Instructions of each operator of networks in ExecuTorch on the simulated Cortex-A76: results/instructions.jsonl.

    make runner && python results/instructions.py

Chains of random layers, which instructions are fitted on, and whole networks, which judge: each in float32, int8 and
float16, with random weights (counts do not depend on them). A line for each file: the instructions of every operator
(of one run, by the engine's own profiler), of a whole run, the lines that the second level of cache missed, and the
layers in the order in which they run. Lines that are there are not counted again. Takes two hours on one core.
"""

from __future__ import annotations

import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from bench.profile.profile import read_calls
from bench.runner.bundle import open_bundle
from bench.runner.protocol import write_images
from bench.simulator.cores import read_cores
from bench.simulator.emulator import Machine, find, profile_file, trace
from compressor.decompositions.methods import METHODS
from compressor.layers import find_layer, replace_module
from compressor.survey import survey
from exporters.capture import capture
from exporters.export import export_program
from exporters.quantization.half import halve
from exporters.quantization.post_training import PLAIN, quantize

TABLE = Path(__file__).with_name("instructions.jsonl")
CORE = "cortex-a76"
DTYPES = ("float32", "int8", "float16")
WINDOWS = ((1, 1), (1, 1), (3, 3), (3, 3), (1, 3), (3, 1), (5, 5), (1, 5), (7, 7))
CHANNELS = (3, 4, 6, 8, 10, 12, 16, 20, 24, 30, 32, 40, 48, 64, 72, 96, 112, 128, 160, 192, 256, 320, 384, 512)
FEATURES = (1, 2, 10, 16, 33, 64, 100, 128, 250, 256, 512, 1000, 1024, 2048, 4096)
MOST_MACS = 12_000_000


def chain(seed: int) -> tuple[nn.Module, tuple[int, ...]]:
    """A chain of random layers, some of them depthwise or in groups, and the shape of its image."""
    chance = random.Random(seed)
    if seed < SMALL and seed % 5 == 4:
        sizes = [chance.choice(FEATURES[4:])] + [chance.choice(FEATURES) for _ in range(12)]
        layers: list[nn.Module] = [nn.Flatten()]
        for a, b in pairwise(sizes):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers), (1, sizes[0], 1, 1)
    size = chance.choice((1, 2, 2, 3, 4) if SMALL <= seed < ODD else (7, 8, 14, 16, 19, 28, 32, 56))
    widths = CHANNELS if seed < ODD else ODD_CHANNELS if seed < MIXED else CHANNELS + ODD_CHANNELS
    channels = chance.choice(widths)
    shape = (1, channels, size, size)
    layers = []
    while len(layers) < (40 if seed < LARGE else 16) and (size > 2 or SMALL <= seed < ODD):
        window, kind = chance.choice(WINDOWS), chance.choice(("dense", "dense", "dense", "depthwise", "grouped"))
        if seed >= LARGE:
            window, kind = chance.choice(LARGE_WINDOWS), "depthwise"
        stride = 2 if chance.random() < 0.12 and size > 6 else 1
        padding = (window[0] // 2, window[1] // 2) if chance.random() < 0.85 else (0, 0)
        outputs, groups = chance.choice(widths), 1
        if kind == "depthwise":
            outputs, groups = channels, channels
        elif kind == "grouped":
            if channels % 2 or channels < 8 or outputs % 2 or chance.random() < 0.6:
                continue
            groups = 2
        out = [(size + 2 * p - w) // stride + 1 for p, w in zip(padding, window, strict=True)]
        if min(out) < (1 if SMALL <= seed < ODD else 2) or out[0] != out[1]:
            continue
        if out[0] * out[1] * outputs * channels // groups * window[0] * window[1] > MOST_MACS:
            continue
        layers += [nn.Conv2d(channels, outputs, window, stride, padding, groups=groups), nn.ReLU()]
        size, channels = out[0], outputs
    return nn.Sequential(*layers), shape


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (He et al. 2015, option A)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm2d(outputs)
        self.conv2, self.bn2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs)
        self.grow = (outputs - inputs) // 2

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inner = self.bn2(self.conv2(nn.functional.relu(self.bn1(self.conv1(images)))))
        if self.grow:
            images = nn.functional.pad(images[:, :, ::2, ::2], (0, 0, 0, 0, self.grow, self.grow))
        return nn.functional.relu(images + inner)


class CifarResNet(nn.Module):
    """ResNet of He et al. 2015 for 32x32 images."""

    def __init__(self, depth: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16)
        widths = [16, *(width for width in (16, 32, 64) for _ in range((depth - 2) // 6))]
        self.blocks = nn.Sequential(*(Block(a, b, 1 if a == b else 2) for a, b in pairwise(widths)))
        self.linear = nn.Linear(64, 10)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features: torch.Tensor = self.blocks(nn.functional.relu(self.bn1(self.conv1(images))))
        logits: torch.Tensor = self.linear(features.mean((2, 3)))
        return logits


NETWORKS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "alexnet": (torchvision.models.alexnet, 64),
    "resnet20": (lambda: CifarResNet(20), 32),
    "resnet18": (torchvision.models.resnet18, 224),
    "mobilenet_v2": (torchvision.models.mobilenet_v2, 224),
    "squeezenet1_1": (torchvision.models.squeezenet1_1, 128),
    "mobilenet_v3_small": (torchvision.models.mobilenet_v3_small, 224),
    "efficientnet_b0": (torchvision.models.efficientnet_b0, 224),
}
FORMS = ("dense", "spatial", "channel", "tucker", "cp")
COMPRESSED = ("alexnet", "resnet20", "resnet18", "mobilenet_v2")
CHAINS = 30
SMALL = 20
"""From this seed on chains are of small images, whose layers have kernels of their own."""
ODD = 24
"""From this seed on channels are odd numbers, which fill no step."""
MIXED = 27
"""From this seed on chains have both kinds of channels."""
LARGE = 29
"""From this seed on chains are depthwise, of large windows, which take several passes."""
LARGE_WINDOWS = ((7, 7), (9, 9), (11, 11))
ODD_CHANNELS = (1, 3, 5, 7, 9, 11, 13, 15, 18, 21, 27, 31, 37, 45, 50, 63, 75, 99, 131, 187)


def network(name: str) -> tuple[nn.Module, tuple[int, ...]]:
    """The network of a line and the shape of its image: chain-SEED, NAME, or NAME-METHOD, all layers compressed."""
    torch.manual_seed(0)
    base, _, form = name.partition("-")
    if base == "chain":
        return chain(int(form))
    build, size = NETWORKS[base]
    module, shape = build().eval(), (1, 3, size, size)
    return (compressed(module, shape, form) if form else module), shape


def compressed(module: nn.Module, shape: tuple[int, ...], form: str) -> nn.Module:
    """The network with each layer at a half of its MACs by the form (1x1 and fully connected ones by svd)."""
    for layer in survey(module, torch.zeros(shape)).layers:
        for method in (form, "svd"):
            if METHODS[method].supports(layer.shape) is not None or layer.must_keep:
                continue
            full = METHODS[method].full_rank(layer.shape)
            rank, least = None, layer.cost.macs / layer.calls / 2
            for part in range(1, 65):
                found = tuple(max(1, each * part // 64) for each in full)
                if METHODS[method].cost(layer.shape, found).macs <= least:
                    rank = found
            if rank is not None:
                replace_module(module, layer.name, METHODS[method].layers(find_layer(module, layer.name), rank))
            break
    return module.eval()


def names() -> Iterator[str]:
    """Every network: those that judge last."""
    yield from (f"chain-{seed}" for seed in range(CHAINS))
    yield from NETWORKS
    yield from (f"{base}-{form}" for base in COMPRESSED for form in FORMS[1:])


def layers_of(module: nn.Module, shape: tuple[int, ...]) -> list[dict[str, Any]]:
    """Geometry of each layer, in the order in which they run."""
    found: list[dict[str, Any]] = []

    def see(layer: nn.Module, arguments: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        (inputs,) = arguments
        if isinstance(layer, nn.Linear):
            found.append({"kind": "linear", "inputs": layer.in_features, "outputs": layer.out_features,
                          "positions": inputs.numel() // layer.in_features})  # fmt: skip
        elif isinstance(layer, nn.Conv2d):
            found.append({"kind": "conv", "inputs": layer.in_channels, "outputs": layer.out_channels,
                          "groups": layer.groups, "window": layer.kernel_size, "stride": layer.stride,
                          "padding": layer.padding, "in": tuple(inputs.shape[2:]),
                          "out": tuple(output.shape[2:])})  # fmt: skip

    hooks = [each.register_forward_hook(see) for each in module.modules() if isinstance(each, nn.Linear | nn.Conv2d)]
    with torch.no_grad():
        module(torch.zeros(shape))
    for hook in hooks:
        hook.remove()
    return found


def counted(machine: Machine, name: str, dtype: str) -> dict[str, Any]:
    """The line of one file."""
    module, shape = network(name)
    module.eval()
    images = np.random.default_rng(0).standard_normal((8, *shape[1:])).astype(np.float32)
    program = capture(module, torch.from_numpy(images[:1]))
    if dtype == "int8":
        program = quantize(program, images, PLAIN).program
    elif dtype == "float16":
        program = halve(program)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        artifact = export_program(program, "pte", folder / "model.pte")
        inputs, words = write_images(images[:1], folder), "x".join(map(str, shape))
        chained = name.startswith("chain-")
        whole = None if chained else trace(machine, "pte", artifact.path, inputs, words, 3600)
        profile_file(machine, artifact, inputs, words, 3600, folder / "profile")
        calls = read_calls("pte", folder / "profile")[-1]
    return {
        "network": name,
        "dtype": dtype,
        "core": CORE,
        "instructions": whole and whole.run.instructions,
        "l2_misses": whole and whole.traffic and whole.traffic.l2_misses,
        "layers": layers_of(module, shape),
        "operators": [[call.name, round(call.ns / 1000)] for call in calls],
    }


def main() -> None:
    known = {(row["network"], row["dtype"]) for row in rows()}
    machine = Machine(find(), open_bundle("aarch64"), read_cores()[CORE])
    asked = sys.argv[1:] or list(names())
    for name in asked:
        for dtype in DTYPES:
            if (name, dtype) not in known:
                line = json.dumps(counted(machine, name, dtype))
                with TABLE.open("a", encoding="utf-8") as file:
                    file.write(line + "\n")
                print(name, dtype, flush=True)


def rows() -> list[dict[str, Any]]:
    """The lines of the table."""
    return [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []


if __name__ == "__main__":
    main()
