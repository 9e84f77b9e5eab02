"""What a person asked for, a small value for each verb; what decides results is kept in a run's settings.json."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    pass

DEFAULT_RECIPE = "default"


DIGITS_EPOCHS = 12


def training_epochs(settings: SourceSettings) -> int | None:
    """Epochs to train from scratch: as asked, or the embedded default's when a named network meets the digits."""
    if settings.train is not None or settings.data != "digits" or settings.weights != "default":
        return settings.train
    return None if ".py:" in settings.network else DIGITS_EPOCHS


Optimizer = Literal["adamw", "sgd"]


RateShape = Literal["cosine", "step", "one-cycle"]


Costs = Literal["measured", "counted"]


Fit = Literal["outputs", "weights"]


Trained = Literal["all", "new", "downstream"]


CutOrder = Literal["network", "sensitive"]


@dataclass(frozen=True)
class SourceSettings:
    """The network, its weights and its data. `train` is the number of epochs a fresh network is trained for, `images`
    how many training images are learned from at most; `mean` and `std` are what its images are normalized by, a number
    for each channel, where it does not tell. The hashes tell a file of the user's from a later one of the same name.
    `regularizer` and its weight act while training."""

    network: str
    network_sha256: str | None = None
    weights: str = "default"
    weights_sha256: str | None = None
    input: tuple[int, int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    data: str | None = None
    data_root: str = "data"
    train: int | None = None
    images: int | None = None
    batch: int = 64
    seed: int = 0
    regularizer: str | None = None
    regularizer_weight: float | None = None


@dataclass(frozen=True)
class PlanSettings:
    """The goal of the plan, or the plan file that is replayed. Limits are texts with their unit ("0.15x", "5ms").

    No `methods` means the planner's own choice. `costs` says whether layers are timed on this machine in the runtime
    of `latency_format`, or counted. `fit` is what factors are fitted to where there is data: the layer's outputs or
    its weights. `optimizer`, `rate` and `rate_shape` train the probes of the sensitivity rule. `recipe` names the
    system whose settings the others are, where nothing else was asked for.
    """

    rank_rule: str = "budget"
    max_params: str | None = None
    max_size: str | None = None
    max_macs: str | None = None
    max_latency: str | None = None
    max_drop: str | None = None
    methods: tuple[str, ...] = ()
    ranks: Mapping[str, int] | str = field(default_factory=dict)
    keep_layers: tuple[str, ...] = ()
    costs: Costs = "measured"
    latency_format: str = "pte"
    fit: Fit = "outputs"
    plan: str | None = None
    plan_sha256: str | None = None
    optimizer: Optimizer = "adamw"
    rate: float = 3e-4
    rate_shape: RateShape = "cosine"
    recipe: str = "default"


@dataclass(frozen=True)
class TuneSettings:
    """How the cut network is tuned; `epochs` is for each step of the schedule, 0 leaves it untuned; with `total_epochs`
    all steps share so many. With the rate shape "step" the rate is divided by ten every `rate_step` epochs. No `rate`
    means that of each step in the recipe's paces.

    `cut_order` says which layer is cut first, `trained` what is trained after a cut. With `distill` the original
    network teaches, by default where many layers are cut; the images of the folder `unlabelled` are learned from too.
    `regularizer` and its weight act while tuning.
    """

    schedule: str = "auto"
    epochs: int = 2
    total_epochs: float | None = None
    optimizer: Optimizer = "adamw"
    rate: float | None = 3e-4
    rate_shape: RateShape = "cosine"
    rate_step: float = 5
    patience: int | None = None
    cut_order: CutOrder = "network"
    trained: Trained = "all"
    distill: bool | None = None
    unlabelled: str | None = None
    mixed_precision: bool = False
    recipe: str = "default"
    regularizer: str | None = None
    regularizer_weight: float | None = None


@dataclass(frozen=True)
class ShareSettings:
    """How weights are shared after tuning: "4x256" in `share` is length x centroids, None shares nothing.

    No `share_layers` means every fully connected layer. The centroids are tuned for `share_epochs` at `share_rate`.
    """

    share: str | None = None
    share_layers: tuple[str, ...] = ()
    share_epochs: int = 1
    share_rate: float = 3e-4


@dataclass(frozen=True)
class BenchSettings:
    """How latency is measured: threads, and seconds after which a measurement is cut short. Each row keeps its own.

    `device` is a name of bench.devices, None leaves it to what is connected; `serial` tells which phone, `cores` which
    of its cores, `inside` (of bench.phone.measure.PLACES) inside what it runs the files.
    """

    threads: int = 1
    cap: float | None = None
    device: str | None = None
    serial: str | None = None
    cores: str | None = None
    inside: str = "shell"


SCHEDULE_NAMES = ("auto", "iterative", "one-shot", "hybrid")
"""The keys of compressor.training.schedules.SCHEDULES, known without importing torch; a test compares the two."""


def keeps_best(origin: str, regularizer: str | None) -> bool:
    """Whether tuning keeps its best epoch on held-out images rather than its last.

    Those images are new to a network of the `origin` "trained", by this tool. One that was trained elsewhere may have
    seen them, and seems to lose by all that it learns anew; towards a regularizer the last epoch has come furthest.
    """
    return origin == "trained" and regularizer is None


Section = SourceSettings | PlanSettings | TuneSettings | ShareSettings


def differences(asked: Section, stored: Mapping[str, Any]) -> list[str]:
    """The options in which `asked` differs from what settings.json holds, as "--rate 0.1 (was 0.01)"."""
    found = []
    for name, value in plain(asked).items():
        before = stored.get(name)
        if before != value and not name.endswith("sha256"):
            found.append(f"--{name.replace('_', '-')} {_text(value)} (was {_text(before)})")
    changed_files = [name.removesuffix("_sha256") for name in plain(asked) if name.endswith("sha256")]
    return found or [
        f"the file of {'the network' if name == 'network' else f'--{name}'} has changed"
        for name in changed_files
        if stored.get(f"{name}_sha256") != plain(asked)[f"{name}_sha256"]
    ]


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ",".join(f"{name}={rank}" for name, rank in value.items()) or "none"
    if isinstance(value, list):
        return ("x" if all(isinstance(part, int) for part in value) else ",").join(map(str, value)) or "none"
    return "none" if value is None else str(value)


def plain(section: Section) -> dict[str, Any]:
    """The section as JSON gives it back: lists for tuples, plain dicts for mappings."""
    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(section).items()}
