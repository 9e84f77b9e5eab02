"""Fine-tuning schedules, as data: the layers that are factorized before each step's epochs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from compressor.plan import LayerPlan, Plan
from compressor.planning.recipes import Pace

FEW = 8
"""Layers that a title names, and that learn from labels alone unless more is asked for: AlexNet has as many."""
ONCE = 3
"""Times the epochs of a step that all layers get together when they are factorized at once."""


@dataclass(frozen=True)
class Step:
    """Layers to factorize, then epochs of training. `batch` and `rate`, where given, replace those of the fit;
    `images` are those of one epoch, drawn anew each time, where it is not all of them."""

    layers: tuple[LayerPlan, ...]
    epochs: int
    batch: int | None = None
    rate: float | None = None
    images: int | None = None

    @property
    def title(self) -> str:
        names = [layer.name for layer in self.layers]
        return ", ".join(names) if len(names) <= FEW else f"{names[0]} to {names[-1]}, {len(names)} layers"


def iterative(plan: Plan, epochs: int) -> tuple[Step, ...]:
    """Factorize one layer, tune, factorize the next, in the order of the plan (Astrid & Lee 2017)."""
    return tuple(Step((layer,), epochs) for layer in plan.factored)


def one_shot(plan: Plan, epochs: int) -> tuple[Step, ...]:
    """Factorize every layer, then tune."""
    return (Step(plan.factored, epochs),) if plan.factored else ()


def hybrid(plan: Plan, epochs: int) -> tuple[Step, ...]:
    """The windows one by one, then all that the SVD factorizes in one step (Astrid & Lee 2018)."""
    windows = tuple(layer for layer in plan.factored if layer.method != "svd")
    rest = tuple(layer for layer in plan.factored if layer.method == "svd")
    return (*(Step((layer,), epochs) for layer in windows), *((Step(rest, epochs),) if rest else ()))


def auto(plan: Plan, epochs: int) -> tuple[Step, ...]:
    """All at once, for three times the epochs: better than one by one in fewer epochs (docs/study.md)."""
    return one_shot(plan, ONCE * epochs)


SCHEDULES: dict[str, Callable[[Plan, int], tuple[Step, ...]]] = {
    "auto": auto,
    "iterative": iterative,
    "one-shot": one_shot,
    "hybrid": hybrid,
}


def paced(steps: Sequence[Step], paces: Sequence[Pace]) -> tuple[Step, ...]:
    """The steps at the batch and rate of a recipe's paces; those that no pace reaches stay as they are."""
    done: list[Step] = []
    for pace in paces:
        last = len(steps) if pace.steps is None else len(done) + pace.steps
        done += [replace(step, batch=pace.batch, rate=pace.rate) for step in steps[len(done) : last]]
    return (*done, *steps[len(done) :])


def within(steps: Sequence[Step], total: float, images: int) -> tuple[Step, ...]:
    """The steps with `total` epochs of `images` shared evenly among them; where that is no whole number for each, the
    epochs are shorter."""
    mean = total / max(1, len(steps))
    epochs = max(1, round(mean))
    part = None if epochs == mean else max(1, round(images * mean / epochs))
    return tuple(replace(step, epochs=epochs, images=part) for step in steps)


def reordered(plan: Plan, losses: dict[str, float]) -> Plan:
    """The plan with its factored layers in order of the loss that each causes alone, the most sensitive first."""
    first = sorted(plan.factored, key=lambda layer: -losses[layer.name])
    return replace(plan, layers=(*first, *(layer for layer in plan.layers if layer.kept)))
