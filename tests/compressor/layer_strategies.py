"""Everything that nn.Conv2d and nn.Linear can express, in small sizes, for property tests."""

from __future__ import annotations

import torch
from hypothesis import strategies as st
from torch import nn

WINDOWS = [(3, 3), (1, 1), (3, 5), (1, 7), (5, 1), (2, 2), (4, 3)]
STRIDES = [(1, 1), (2, 1), (1, 2), (2, 2), (3, 2)]
DILATIONS = [(1, 1), (2, 1), (2, 3)]
MODES = ["zeros", "reflect", "replicate", "circular"]


@st.composite
def convolutions(draw: st.DrawFn, windows: list[tuple[int, int]] | None = None) -> nn.Conv2d:
    """A convolution with random weights in float64, so that a law holds to many digits or not at all."""
    groups = draw(st.sampled_from([1, 1, 2, 3, 4]))
    inputs = 1 if draw(st.integers(0, 4)) == 0 else draw(st.integers(1, 5))
    outputs = draw(st.integers(1, 5))
    padding = draw(st.sampled_from(["same", "valid", (0, 0), (1, 0), (1, 2), (2, 2)]))
    stride = (1, 1) if padding == "same" else draw(st.sampled_from(STRIDES))
    torch.manual_seed(draw(st.integers(0, 10_000)))
    return nn.Conv2d(
        groups * inputs,
        groups * outputs,
        draw(st.sampled_from(windows or WINDOWS)),
        stride=stride,
        padding=padding,
        dilation=draw(st.sampled_from(DILATIONS)),
        groups=groups,
        bias=draw(st.booleans()),
        padding_mode=draw(st.sampled_from(MODES)),
        dtype=torch.float64,
    )


@st.composite
def linears(draw: st.DrawFn) -> nn.Linear:
    torch.manual_seed(draw(st.integers(0, 10_000)))
    sizes = draw(st.integers(1, 9)), draw(st.integers(1, 9))
    return nn.Linear(*sizes, bias=draw(st.booleans()), dtype=torch.float64)


def example_for(layer: nn.Conv2d | nn.Linear) -> torch.Tensor:
    """Two random inputs, large enough for the window, the dilation and every padding mode."""
    if isinstance(layer, nn.Linear):
        return torch.randn(2, layer.in_features, dtype=layer.weight.dtype)
    return torch.randn(2, layer.in_channels, 21, 23, dtype=layer.weight.dtype)
