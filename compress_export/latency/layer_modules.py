"""A layer's geometry and its variants as modules with random weights: what is exported to be timed."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor, nn

from compressor.decompositions.methods import METHODS
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import Layer
from compressor.plan import KEEP

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]


@dataclass(frozen=True)
class Geometry:
    """All that a layer's time depends on: its settings and the size of what it reads.

    `in_size` is (height, width), for a fully connected layer (positions, 1). Layers that agree in it are measured once.
    """

    kind: str
    inputs: int
    outputs: int
    bias: bool
    in_size: tuple[int, int]
    groups: int = 1
    window: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    padding: str | tuple[int, int] = (0, 0)
    dilation: tuple[int, int] = (1, 1)
    padding_mode: PaddingMode = "zeros"

    @cached_property
    def text(self) -> str:
        """One line that tells this geometry from every other: the key under which its times are kept."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @property
    def title(self) -> str:
        """A few words for a person: "conv 64->128 3x3 at 56x56"."""
        if self.kind == "linear":
            return f"linear {self.inputs}->{self.outputs}"
        return f"conv {self.inputs}->{self.outputs} {'x'.join(map(str, self.window))} at {_by(self.in_size)}"

    @property
    def image(self) -> tuple[int, int, int, int]:
        """Shape of what the file of one variant takes. A fully connected layer reads one position or a sequence."""
        if self.kind == "conv":
            return 1, self.inputs, *self.in_size
        positions = self.in_size[0]
        return (1, self.inputs, 1, 1) if positions == 1 else (1, 1, positions, self.inputs)


def geometry_of(layer: Layer, shape: LayerShape) -> Geometry:
    """The geometry of a layer of the network as the survey saw it run."""
    if isinstance(layer, nn.Linear):
        return Geometry("linear", layer.in_features, layer.out_features, layer.bias is not None, shape.in_size)
    return Geometry(
        kind="conv",
        inputs=layer.in_channels,
        outputs=layer.out_channels,
        bias=layer.bias is not None,
        in_size=shape.in_size,
        groups=layer.groups,
        window=_pair(layer.kernel_size),
        stride=_pair(layer.stride),
        padding=layer.padding if isinstance(layer.padding, str) else _pair(layer.padding),
        dilation=_pair(layer.dilation),
        padding_mode=layer.padding_mode,
    )


def geometry_from(text: str) -> Geometry:
    """The geometry whose `text` this is."""
    fields: dict[str, Any] = json.loads(text)
    fields |= {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
    return Geometry(**fields)


def build(geometry: Geometry, method: str, rank: Rank) -> nn.Module:
    """The variant as a module with random weights, which takes what `Geometry.image` says. Times do not see weights.

    Never zeros or what the memory held: denormal numbers are slow.
    """
    layer = _layer(geometry)
    variant: nn.Module = layer if method == KEEP else METHODS[method].layers(layer, rank)
    chance = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in variant.parameters():
            weight.copy_(0.05 * torch.randn(weight.shape, generator=chance))
    single = geometry.kind == "linear" and geometry.in_size[0] == 1
    return (nn.Sequential(nn.Flatten(), variant) if single else variant).eval()


def example(geometry: Geometry) -> Tensor:
    """An image of the shape that the variant takes; its values are never looked at."""
    return torch.zeros(geometry.image)


def _layer(geometry: Geometry) -> Layer:
    if geometry.kind == "linear":
        return nn.Linear(geometry.inputs, geometry.outputs, bias=geometry.bias)
    return nn.Conv2d(
        geometry.inputs,
        geometry.outputs,
        geometry.window,
        stride=geometry.stride,
        padding=geometry.padding,
        dilation=geometry.dilation,
        groups=geometry.groups,
        bias=geometry.bias,
        padding_mode=geometry.padding_mode,
    )


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    height, width = sizes
    return height, width


def _by(sizes: tuple[int, ...]) -> str:
    return "x".join(map(str, sizes))
