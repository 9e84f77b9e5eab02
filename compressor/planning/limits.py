"""Limits on a network with their units: parse_limit(). Imports no toolkit, so that a typing error is told at once."""

from __future__ import annotations

import re
from dataclasses import dataclass

from compressor.layer_shape import PlanError

COUNTS = {"k": 1e3, "M": 1e6, "G": 1e9}


UNITS: dict[str, dict[str, float]] = {
    "params": COUNTS,
    "size": {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2.0**10, "MiB": 2.0**20, "GiB": 2.0**30},
    "macs": COUNTS,
    "latency": {"us": 1e-3, "ms": 1.0, "s": 1e3},
    "drop": {"%": 1.0},
}
"""Quantities that can be limited, with their units; each but the drop also takes a fraction of the original (0.5x)."""


EXAMPLES = {
    "params": "0.15x or 8.7M",
    "size": "0.15x or 8MB",
    "macs": "0.4x or 300M",
    "latency": "0.5x or 5ms",
    "drop": "1% (points of top-1)",
}


@dataclass(frozen=True)
class Limit:
    """At most `amount`: parameters, bytes, MACs, ms or points of top-1, or a fraction of the original's figure."""

    text: str
    amount: float
    relative: bool

    def most(self, original: float) -> float:
        """The limit as a figure, for an original network of `original`."""
        return self.amount * original if self.relative else self.amount


def parse_limit(quantity: str, text: str) -> Limit:
    """The limit that a text such as "0.15x", "8.7M" or "5ms" says. PlanError without unit, or out of range."""
    law = f"--max-{quantity} takes a limit with its unit, such as {EXAMPLES[quantity]}"
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z%]*)\s*", text)
    if found is None:
        raise PlanError(f"{law}; {text!r} is none")
    number, unit = float(found[1]), found[2]
    if not unit:
        raise PlanError(f"{law}; {text!r} has no unit")
    if unit == "x" and quantity != "drop":
        if not 0 < number <= 1:
            raise PlanError(f"--max-{quantity} {text}: a fraction lies above 0x and is at most 1x")
        return Limit(text, number, True)
    if unit not in UNITS[quantity]:
        shares = "" if quantity == "drop" else "x, "
        raise PlanError(f"{law}; {unit!r} is no unit of it (units: {shares}{', '.join(UNITS[quantity])})")
    if number == 0 and quantity != "drop":
        raise PlanError(f"--max-{quantity} {text}: a limit lies above 0")
    return Limit(text, number * UNITS[quantity][unit], False)
