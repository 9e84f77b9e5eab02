"""Goal: limits, methods, layers to keep, ranks by name. PlanningProblem: a goal with all that its plan is made from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from torch import nn

from compressor.calibration import Moments
from compressor.decompositions.methods import METHODS, Decompositions, decomposition
from compressor.layer_shape import PlanError
from compressor.plan import LayerVariant
from compressor.planning.cost_model import CostModel
from compressor.planning.limits import UNITS, Limit, parse_limit
from compressor.planning.loss_model import ErrorLosses, LossModel
from compressor.survey import Survey

ANSWERED = {"vbmf": ("macs",), "sensitivity": ("params", "macs")}
"""Limits that a rule other than "budget" answers to; the others know parameters alone."""


DEFAULT_METHODS = ("cp-polished", "tucker", "spatial", "channel", "svd")
"""Methods without --methods: each kind of factors once, CP at its best fit."""


@dataclass(frozen=True)
class Goal:
    """Limits on the network that a plan makes: texts with their unit (see `parse_limit`), singly or together.

    The rule "budget" chooses method and rank of each layer so that the predicted loss is least within the limits. With
    `max_drop` (points of top-1 before fine-tuning, measured on the validation split) it is size and time that become
    least. The other rules give every layer the method of Astrid & Lee 2018, or the first of `methods` that fits it, and
    answer to `max_params`, or to what `ANSWERED` has for them, one limit at a time. `ranks` gives ranks (for each
    group) by layer name and keeps every other layer; `ranks_from` says whose they are. `assumed` marks limits that
    nobody asked for. `dtype` is the number type of the file that `max_size` limits; a fraction is one of the original's
    float32 file.
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
    dtype: str = "float32"

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
        """True where size alone is limited: then a variant slower than its layer is allowed."""
        return bool(self.limits) and set(self.limits) <= {"params", "size"}

    @property
    def layers_may_be_slower(self) -> bool:
        """True where size or MACs are limited and neither time nor the drop: then no variant is thrown away for being
        slower than its layer. Where MACs are, the whole network may still not be slower."""
        return bool(self.limits) and set(self.limits) <= {"params", "size", "macs"}

    def text(self) -> str:
        if self.ranks:
            return self.ranks_from
        texts = ", ".join(f"max-{name} {limit.text}" for name, limit in self.limits.items())
        return (f"{texts} (default)" if self.assumed else texts) or "default: size and time against errors"


Errors = dict[tuple[str, LayerVariant], float]
"""Relative errors of variants, by kind: "estimate" (cheap, of many ranks) or "error" (exact)."""


@dataclass(frozen=True)
class PlanningProblem:
    """A network and a goal with all that its plan rests on: costs, losses, and what earlier plans taught.

    `drops` (points of top-1 lost by each layer alone, see `training.fine_tune.probe`) are for the rule "sensitivity".
    With `moments` of the layers' inputs factors are fitted to their outputs. `decompositions` and `errors` known before
    are not worked out again, and new ones are added to them.

    A network that was planned, measured and missed its goal changes the next problem: variants (or, where layers may be
    slower, all of them together) must be faster than before by `required_speedup` (beyond the noise), a network of
    variants takes `latency_offset` (in the costs' unit) more than the sum of its parts, or, when nothing else kept the
    goal, `keep_every_layer`.
    """

    network: nn.Module
    survey: Survey
    goal: Goal
    costs: CostModel
    losses: LossModel = field(default_factory=ErrorLosses)
    drops: Mapping[str, float] | None = None
    errors: Errors = field(default_factory=dict)
    decompositions: Decompositions = field(default_factory=dict)
    moments: Mapping[str, Moments] | None = None
    required_speedup: float = 1.0
    latency_offset: float = 0.0
    keep_every_layer: bool = False
    progress: Callable[[str, int, int, str], None] = lambda _what, _done, _total, _layer: None

    def exactly_known(self, variant: LayerVariant) -> bool:
        return ("error", variant) in self.errors

    def error(self, variant: LayerVariant) -> float:
        """The variant's relative error."""
        return self._worked_out("error", variant)

    def estimate(self, variant: LayerVariant) -> float:
        """An estimate of the variant's relative error, which costs less; the error itself where it is known."""
        return self._worked_out("error" if self.exactly_known(variant) else "estimate", variant)

    def _worked_out(self, kind: str, variant: LayerVariant) -> float:
        if (kind, variant) not in self.errors:
            inputs = (self.moments or {}).get(variant.layer)
            found = decomposition(
                self.decompositions, self.network, variant.layer, variant.method, self.goal.seed, inputs
            )
            self.errors[kind, variant] = (found.error if kind == "error" else found.estimate)(variant.rank)
        return self.errors[kind, variant]
