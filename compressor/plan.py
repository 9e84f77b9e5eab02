"""Plan: method and rank of each layer, and why. A frozen value and a JSON file that a person can edit."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import msgspec

from compressor.layer_shape import PlanError, Rank

KEEP = "keep"


@dataclass(frozen=True)
class LayerVariant:
    """One way to compute a layer of the network: a method at a rank (for each group), or KEEP with the rank ()."""

    layer: str
    method: str = KEEP
    rank: Rank = ()


@dataclass(frozen=True)
class LayerPlan:
    """One layer's method and rank (for each group), with the reason a person reads.

    `weight` is the shape of the layer's weight, so that a plan cannot be replayed on another network unnoticed.
    `error` is the relative error of the weight (or, fitted to data, of the output) at this rank, where the planner
    knows it, or an estimate where the choice needed no more; `ms` what the layer takes in this form and `dense_ms` as
    it was, where that was measured on a device.
    """

    name: str
    weight: tuple[int, ...]
    method: str
    rank: Rank
    reason: str
    error: float | None = None
    ms: float | None = None
    dense_ms: float | None = None

    @property
    def kept(self) -> bool:
        return self.method == KEEP


@dataclass(frozen=True)
class Point:
    """A whole network as a planner predicts it: `ms` is None where no device was asked, `drop` where none was measured.

    `loss` is in the unit of the plan's `loss_source`; `drop` is top-1 in points, before fine-tuning. `instructions` are
    those of one image on the core that the plan was made for, where it was made by instructions.
    """

    parameters: int
    macs: int
    ms: float | None
    loss: float
    drop: float | None = None
    instructions: int | None = None


class PlanFits:
    """Decompositions that a plan was made from: an opaque handle here, see `decompositions.methods`."""


@dataclass(frozen=True)
class Plan:
    """A LayerPlan for every convolution and fully connected layer, in the order in which they run.

    `rule` names the rank rule, `goal` what it was asked for ("max-params 0.15x", "ranks given"). A plan with a budget
    says where its times and losses come from, what it predicts (`chosen`, beside the `original`), and the
    `pareto_front` of other networks that were within reach. `timed` is the planned network's time over the
    original's, both files measured in turns in that runtime, where that was done. `fits` are the decompositions that a
    plan was made from, for `surgery.compress`; no file has them.
    """

    layers: tuple[LayerPlan, ...]
    rule: str
    goal: str
    seed: int = 0
    notes: tuple[str, ...] = field(default=())
    cost_source: str = ""
    loss_source: str = ""
    original: Point | None = None
    chosen: Point | None = None
    pareto_front: tuple[Point, ...] = ()
    timed: float | None = None
    fits: PlanFits | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = [layer.name for layer in self.layers]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise PlanError(f"the plan names a layer twice: {', '.join(twice)}; leave one line for each layer")

    @property
    def factored(self) -> tuple[LayerPlan, ...]:
        return tuple(layer for layer in self.layers if not layer.kept)

    def layer(self, name: str) -> LayerPlan:
        return next(layer for layer in self.layers if layer.name == name)

    def to_json(self) -> str:
        content = asdict(replace(self, fits=None))
        del content["fits"]
        return json.dumps(content, indent=2) + "\n"

    @staticmethod
    def from_json(text: str, where: str = "plan") -> Plan:
        """The plan that `to_json` wrote. PlanError names what is missing or of the wrong kind."""
        try:
            content = msgspec.json.decode(text)
            if isinstance(content, dict) and "front" in content:  # its earlier name
                content["pareto_front"] = content.pop("front")
            return msgspec.convert(content, Plan)
        except msgspec.DecodeError as error:
            if isinstance(error.__cause__, PlanError):
                raise error.__cause__ from None
            raise PlanError(f"{where} is not a plan: {error}; write one with `compress-export plan NETWORK`") from error

    @staticmethod
    def read(path: Path) -> Plan:
        """The plan in a file. PlanError if it is none."""
        return Plan.from_json(path.read_text(encoding="utf-8", errors="replace"), str(path))
