"""Checks of settings that are right one by one and contradict each other, before a network is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench.devices import SIMULATED
from bench.measurement import Device
from compress_export.errors import InputError, nearest
from compress_export.settings import (
    DTYPES,
    BenchSettings,
    Costs,
    ExportSettings,
    PlanSettings,
    Quantize,
    ShareSettings,
    SourceSettings,
    TuneSettings,
    training_epochs,
)
from compressor.decompositions.methods import METHODS
from compressor.plan import Plan
from compressor.planning.goal import DEFAULT_METHODS, Goal
from compressor.planning.limits import parse_limit
from compressor.planning.options import OPTIONS
from compressor.planning.planner import RANK_RULES
from compressor.planning.recipes import PAPER_RANKS, ranks_for
from compressor.survey import LayerCost
from compressor.weight_sharing.product_quantization import Sharing
from compressor.weight_sharing.regularizers import REGULARIZERS, Regularization
from exporters.formats import FORMATS

CENTROIDS = "4x256"
"""The sharing that the centroid term follows where none is asked for."""


@dataclass(frozen=True)
class RunRequest:
    """The settings of a whole run."""

    source: SourceSettings
    plan: PlanSettings
    tune: TuneSettings
    formats: tuple[str, ...] = ()
    export: ExportSettings = field(default_factory=ExportSettings)
    bench: BenchSettings = field(default_factory=BenchSettings)
    share: ShareSettings = field(default_factory=ShareSettings)


def validated(request: RunRequest) -> RunRequest:
    """The request with its regularizer where it acts, and with the costs that its plan is made by. InputError for what
    its settings cannot do together."""
    request = replace(request, plan=with_costs(request.plan, request.bench.device, request.export.quantize))
    tune = with_centroids(request.tune, request.share)
    source = while_training(request.source, tune)
    check_goal(source, request.plan)
    check_regularizer(source, tune)
    _ = changes_of(tune)
    return replace(request, source=source, tune=tune)


def changes_of(settings: SourceSettings | TuneSettings) -> tuple[str, ...] | None:
    """The random changes of training images that are set, None where the data decide. InputError for others."""
    if settings.augment == "auto":
        return None
    names = () if settings.augment == "none" else tuple(name.strip() for name in settings.augment.split(","))
    foreign = [name for name in names if name not in ("crop", "flip")]
    if foreign:
        raise InputError(f"fine_tune.augment takes auto, none, crop, flip or crop,flip, not {settings.augment!r}")
    return names


def regularization_of(settings: SourceSettings | TuneSettings) -> Regularization | None:
    """The regularizer that the settings name, with its weight. InputError for a name that there is none of."""
    if settings.regularizer is None:
        return None
    name, _, sharing = settings.regularizer.partition(":")
    if name not in REGULARIZERS:
        raise InputError(f"there is no regularizer {name!r}: {nearest(name, REGULARIZERS)}")
    if sharing and not REGULARIZERS[name].follows:
        raise InputError(
            f"--set fine_tune.regularizer={settings.regularizer}: {name} follows no centroids; leave out :{sharing}"
        )
    weight = settings.regularizer_weight or REGULARIZERS[name].weight
    return Regularization(name, weight, Sharing.parse(sharing or CENTROIDS))


def check_regularizer(source: SourceSettings, tune: TuneSettings) -> None:
    """InputError for a regularizer where nothing is trained, or a weight without one."""
    _ = regularization_of(tune)
    if tune.regularizer is None:
        if tune.regularizer_weight is not None:
            raise InputError(
                "fine_tune.regularizer_weight is the weight of a term that fine_tune.regularizer names; pass both"
            )
        return
    if source.data is None:
        raise InputError("fine_tune.regularizer acts while a network trains, and without --data none does; pass --data")
    if source.regularizer is None and source.weights == "none":
        raise InputError(
            "fine_tune.regularizer acts while a network trains, and --weights none is not trained; pass --train"
        )
    if source.regularizer is None and tune.epochs == 0:
        raise InputError(
            "fine_tune.regularizer acts while a network trains, and --epochs 0 trains none; pass 1 or more"
        )


def with_costs(plan: PlanSettings, device: str | None = None, quantize: Quantize = "none") -> PlanSettings:
    """The settings with the costs that `auto` stands for: times where time is limited and files run on this machine or
    a phone, else instructions, which are the same on every machine and of the core and the number type that ship."""
    timed = plan.max_latency is not None and device not in SIMULATED
    costs: Costs = plan.costs if plan.costs != "auto" else "measured" if timed else "instructions"
    return replace(plan, costs=costs, dtype=DTYPES[quantize])


def with_centroids(tune: TuneSettings, share: ShareSettings) -> TuneSettings:
    """The settings with the centroid term following the centroids that will be shared, unless it names its own."""
    if tune.regularizer != "centroid" or share.share is None:
        return tune
    return replace(tune, regularizer=f"centroid:{share.share}")


def while_training(source: SourceSettings, tune: TuneSettings) -> SourceSettings:
    """The source with the term of the tuning, where the network is trained from scratch."""
    if training_epochs(source) is None:
        return source
    return replace(
        source, regularizer=tune.regularizer, regularizer_weight=tune.regularizer_weight, augment=tune.augment
    )


def check_goal(source: SourceSettings, plan: PlanSettings) -> None:
    """InputError or PlanError for a goal that cannot be read, names what there is none of, or has nothing to be
    measured by: accuracy without data, times while counting."""
    if plan.rank_rule not in RANK_RULES:
        raise InputError(f"there is no rank rule {plan.rank_rule!r}: {nearest(plan.rank_rule, RANK_RULES)}")
    if isinstance(plan.ranks, str) and plan.ranks not in PAPER_RANKS:
        known = nearest(plan.ranks, PAPER_RANKS)
        raise InputError(f"--ranks takes layer=rank,... or a paper's, not {plan.ranks!r}: {known}")
    if plan.plan is not None:
        if not Path(plan.plan).is_file():
            raise InputError(f"--plan {plan.plan}: there is no such file")
        Plan.read(Path(plan.plan))
    for name in plan.methods:
        if name not in METHODS:
            raise InputError(f"there is no method {name!r}: {nearest(name, METHODS)}")
    if not isinstance(plan.ranks, str):
        _ = goal_of(plan, (), 0, False).limits  # reads each of them
    blind = source.data is None or (source.weights == "none" and source.train is None)
    rule = plan.rank_rule == "sensitivity" and not plan.ranks and plan.plan is None
    for wanted, what in ((rule, "--set plan.rank_rule=sensitivity"), (plan.max_drop, "--max-drop")):
        if wanted and blind:
            raise InputError(
                f"{what} measures accuracy, and there is none to measure: it needs --data and trained weights"
            )
    timeless = plan.costs in ("counted", "instructions")
    if plan.max_latency and timeless and not parse_limit("latency", plan.max_latency).relative:
        why = "measures none" if plan.costs == "counted" else "predicts none, but instructions of a simulated core"
        raise InputError(
            f"--max-latency {plan.max_latency} needs times, and plan.costs={plan.costs} {why}; leave it out, or pass a "
            "fraction such as 0.5x"
        )


def goal_of(settings: PlanSettings, layers: Sequence[LayerCost], seed: int, measurable: bool) -> Goal:
    """The goal that the settings describe, for a network of these layers whose accuracy is `measurable` or not."""
    ranks, source = settings.ranks, "ranks given"
    if isinstance(ranks, str):
        source = f"ranks of {ranks} ({PAPER_RANKS[ranks].source})"
        ranks = ranks_for(PAPER_RANKS[ranks], layers)
        ranks = {name: rank for name, rank in ranks.items() if name not in settings.keep_layers}
    limits = [settings.max_params, settings.max_size, settings.max_macs, settings.max_latency, settings.max_drop]
    assumed = measurable and not ranks and settings.rank_rule == "budget" and not any(limits)
    return Goal(
        settings.rank_rule,
        settings.max_params,
        settings.max_size,
        settings.max_macs,
        settings.max_latency,
        OPTIONS.default_drop if assumed else settings.max_drop,
        settings.methods or DEFAULT_METHODS,
        ranks,
        source,
        settings.keep_layers,
        seed,
        assumed,
        settings.dtype,
    )


def check_latency(plan: PlanSettings, bench: BenchSettings, where: Device) -> str:
    """A note on a limit on time that is met here, while files are measured elsewhere ("" if nothing).

    InputError where a time in ms was asked for together with another device or more threads.
    """
    if not plan.max_latency or plan.costs == "counted":
        return ""
    if plan.costs == "instructions":
        core = SIMULATED["arm"]
        law = f"--max-latency {plan.max_latency} is met by instructions predicted of a {core}"
        note = f"{law}; the files' own figures on {where.name} ({where.kind}) may have another ratio"
        return "" if where.cpu == core else note
    if where.kind == "host" and bench.threads == 1:
        return ""
    threads = f" with {bench.threads} threads" if bench.threads > 1 else ""
    law = f"--max-latency {plan.max_latency} is met by times of layers on this machine, one thread"
    elsewhere = bench.threads > 1 or bench.device is not None or bench.serial is not None
    if elsewhere and not parse_limit("latency", plan.max_latency).relative:
        raise InputError(
            f"{law}, and files are to be measured on {where.name} ({where.kind}){threads}, where they take other "
            "times; pass a fraction such as --max-latency 0.5x, or --device host with one thread"
        )
    return f"{law}; the files' own times on {where.name} ({where.kind}){threads} may have another ratio"


def timed_type_note(plan: PlanSettings) -> str:
    """A note that times of layers are of another number type than the files; "" where they are not."""
    if plan.costs != "measured" or plan.dtype == "float32":
        return ""
    return (
        f"layers are timed in float32, and {plan.dtype} files take other times; pass --device arm, which plans by "
        f"{plan.dtype} instructions, with --max-latency as a fraction"
    )


def runtime_note(plan: PlanSettings, formats: tuple[str, ...]) -> str:
    """A note on the runtime that layers are timed in where no exported format runs here; "" where one does."""
    if (
        plan.costs != "measured"
        or plan.latency_format in formats
        or plan.ranks
        or plan.plan
        or plan.rank_rule != "budget"
    ):
        return ""
    titles = ", ".join(FORMATS[name].title for name in formats)
    timed = FORMATS[plan.latency_format].runtime
    return (
        f"layers are timed in {timed}, for {titles} does not run here: its times may differ "
        "(plan.latency_format, plan.costs)"
    )
