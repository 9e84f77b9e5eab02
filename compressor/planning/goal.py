"""What a plan is asked for: limits with their units, methods allowed, layers to keep, or ranks by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from compressor.decompositions.methods import METHODS
from compressor.layer_shape import PlanError
from compressor.planning.limits import UNITS, Limit, parse_limit

ANSWERED = {"vbmf": ("macs",), "sensitivity": ("params", "macs")}
"""Limits that a rule other than "budget" answers to; the others know parameters alone."""


DEFAULT_METHODS = ("cp-polished", "tucker", "spatial", "channel", "svd")
"""What a planner chooses among when nobody says: each variant once, CP at its best fit."""


@dataclass(frozen=True)
class Goal:
    """What a plan is made for. Limits are texts with their unit (see `parse_limit`), singly or together.

    The rule "budget" chooses method and rank of each layer so that the predicted loss is least within the limits. With
    `max_drop` (points of top-1 before fine-tuning, measured on held-out images) it is the size and time that become
    least. The other rules give every layer the method of Astrid & Lee 2018, or the first of `methods` that fits it, and
    answer to `max_params`, or to what `ANSWERED` has for them, one limit at a time. `ranks` gives ranks (for each
    group) by layer name and keeps every other layer; `ranks_from` says whose they are. `assumed` marks limits that
    nobody asked for.
    """

    rule: str = "budget"
    max_params: str | None = None
    max_size: str | None = None
    max_macs: str | None = None
    max_latency: str | None = None
    max_drop: str | None = None
    methods: tuple[str, ...] = DEFAULT_METHODS
    ranks: Mapping[str, int] = field(default_factory=dict)
    ranks_from: str = "ranks given"
    keep_layers: tuple[str, ...] = ()
    seed: int = 0
    assumed: bool = False

    def __post_init__(self) -> None:
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown:
            raise PlanError(f"there is no method {unknown[0]!r}; choose among {', '.join(METHODS)}")
        if not self.methods:
            raise PlanError(f"no method is allowed; choose among {', '.join(METHODS)}")
        answered = ANSWERED.get(self.rule, ("params",))
        others = [f"max-{name}" for name in self.limits if name not in answered]
        others += ["max-params"] if self.rule == "sensitivity" and {"params", "macs"} <= set(self.limits) else []
        others += ["methods"] if self.methods != DEFAULT_METHODS and (self.rule == "vbmf" or self.ranks) else []
        if others and (self.rule != "budget" or self.ranks):
            whose = self.ranks_from if self.ranks else f"the rank rule {self.rule}"
            raise PlanError(f"{whose} cannot answer to --{others[0]}; leave out one of the two")
        if self.rule not in ("budget", "vbmf") and "tucker" in self.rule_methods:
            raise PlanError(f"the rank rule {self.rule} gives a layer one rank, tucker has two; name other --methods")

    @property
    def limits(self) -> dict[str, Limit]:
        """The limits that were given, by quantity."""
        texts = {name: getattr(self, f"max_{name}") for name in UNITS}
        return {name: parse_limit(name, text) for name, text in texts.items() if text is not None}

    @property
    def rule_methods(self) -> tuple[str, ...]:
        """The methods of the rules that give each kind of layer one method: the first that fits a layer is its own."""
        return ("cp", "svd") if self.methods == DEFAULT_METHODS else self.methods

    @property
    def may_be_slower(self) -> bool:
        """Whether a slower variant is allowed: only where size alone is limited."""
        return bool(self.limits) and set(self.limits) <= {"params", "size"}

    def text(self) -> str:
        if self.ranks:
            return self.ranks_from
        texts = ", ".join(f"max-{name} {limit.text}" for name, limit in self.limits.items())
        return (f"{texts} (default)" if self.assumed else texts) or "default: size and time against errors"
