"""Estimates of latency, a sentence for each core: what they are of, and how far such estimates were off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.estimate import CoreModel, estimate_ms, operators_of, read_models


def estimate_notes(before: Mapping[str, Any], after: Mapping[str, Any], cores: Iterable[str]) -> list[str]:
    """A note for each of the simulated cores that figures of real devices could judge; the others get none.

    `before` and `after` are the surveys of the original and the compressed network.
    """
    runtime, models = read_models()
    return [_note(runtime, models[core], before, after) for core in cores if core in models]


def _note(runtime: str, model: CoreModel, before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    first, last = (estimate_ms(model, operators_of(survey)) for survey in (before, after))
    return (
        f"Estimate, not measured: {runtime} on a {model.core} at {model.mhz:g} MHz would take about {first:.0f} ms for "
        f"the original and {last:.0f} ms for the compressed network. On devices that the fit had not seen such "
        f"estimates were off by {_share(model.device_error)} in the mean, on devices and networks that it had not seen "
        f"by {_share(model.error)}, and ratios of two such networks by {_share(model.ratio_error)}."
    )


def _share(error: float) -> str:
    return f"{100 * error:.0f} %"
