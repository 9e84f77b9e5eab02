"""RangeObserver: the range of an activation by least squared error. Imports torchao; loaded only to quantize."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torchao.quantization.pt2e.observer import UniformQuantizationObserverBase

STEPS = 40
"""Ranges tried, from the whole one down to half of it."""


class RangeObserver(UniformQuantizationObserverBase):  # type: ignore[misc]  # torchao publishes no types
    """Observes the extremes of an activation and a sample of its values; the range is the one that loses least.

    Each end of the range is moved towards zero in turn, and the range with the least squared error of the sampled
    values is taken. With `least_error` off it is the extremes. A range never reaches above `highest`.
    """

    def __init__(self, samples: int = 4096, least_error: bool = True, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.samples = samples
        self.least_error = least_error
        self.highest: float | None = None
        self.low = torch.tensor(float("inf"))
        self.high = torch.tensor(float("-inf"))
        self.values: list[Tensor] = []
        self.chance = torch.Generator().manual_seed(0)

    def forward(self, value: Tensor) -> Tensor:
        flat = value.detach().flatten()
        self.low = torch.minimum(self.low, flat.min())
        self.high = torch.maximum(self.high, flat.max())
        if self.samples:
            chosen = torch.randint(len(flat), (min(self.samples, len(flat)),), generator=self.chance)
            self.values.append(flat[chosen])
        return value

    def calculate_qparams(self) -> tuple[Tensor, Tensor]:
        high = self.high if self.highest is None else self.high.clamp(max=self.highest)
        low = self.low.clamp(max=0.0)
        high = high.clamp(min=0.0)
        if self.least_error and self.values:
            low, high = self._least_error(low, high)
        scale, zero_point = self._calculate_qparams(low, high)
        return scale, zero_point

    def _least_error(self, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
        values = torch.cat(self.values).clamp(max=float(high))
        steps = 1 - 0.5 * torch.arange(STEPS) / STEPS
        levels = self.quant_max - self.quant_min

        def error(bottom: Tensor, top: Tensor) -> float:
            scale = ((top - bottom) / levels).clamp_min(1e-12)
            zero = (-bottom / scale).round()
            codes = (values / scale + zero).round().clamp(0, levels)
            return float(((codes - zero) * scale - values).square().mean())

        best = min(steps.tolist(), key=lambda step: error(low, step * high))
        high = best * high
        best = min(steps.tolist(), key=lambda step: error(step * low, high))
        return best * low, high
