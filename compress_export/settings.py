"""Settings of a run: a dataclass for each section, whose fields are what the command line and recipe files set.

A field made by `setting` can be set: by an option of its own where it has one, always by `--set SECTION.FIELD=VALUE` or
in a recipe file. The other fields are derived.
"""
# ruff: noqa: RUF009  # `setting` makes a dataclass's field, and no value that instances would share

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin, get_type_hints

from compress_export.errors import InputError

if TYPE_CHECKING:
    from compressor.planning.recipes import Recipe

DEFAULT_RECIPE = "default"
DIGITS_EPOCHS = 8

Optimizer = Literal["adamw", "sgd"]
RateSchedule = Literal["cosine", "step", "one-cycle"]
Costs = Literal["auto", "measured", "instructions", "counted"]
Quantize = Literal["none", "int8", "fp16", "auto"]
DTYPES: dict[str, str] = {"none": "float32", "int8": "int8", "auto": "int8", "fp16": "float16"}
"""The number type that a format must take, a plan is made for and a file is named by, for each value of --quantize;
layers that auto keeps in float32 are few. What is int8 is calibrated on images."""
Fit = Literal["outputs", "weights"]
Trainable = Literal["all", "new", "downstream"]
LayerOrder = Literal["network", "sensitive"]
Interpolation = Literal["bilinear", "bicubic"]

LIMIT = "a limit with its unit"
NAMES = "names between commas"
ABOVE_0 = 5e-324
"""The least number above 0, for settings that may be as small as they like, but not 0."""


def setting(
    default: object, help: str, option: str = "", takes: str = "", least: float | None = None, group: str = ""
) -> Any:
    """A dataclass field that can be set. `option` is that of its own, with its metavar ("--max-params LIMIT"); `takes`
    says what values it has where its type does not tell, `least` the smallest; `group` its heading in `--help` where
    that is not its section's."""
    metadata = {"help": help, "option": option, "takes": takes, "least": least, "group": group}
    if default is dict:
        return dataclasses.field(default_factory=dict, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclass(frozen=True)
class SourceSettings:
    """The network, its weights and its data. The hashes tell a user's file from a later one of the same name;
    `regularizer`, its weight and `augment` are those of the fine-tuning, where the network is trained from scratch."""

    network: str
    network_sha256: str | None = None
    weights: str = setting("default", "Weights (FILE#NAME: one of several); none: untrained.  [default: pretrained]",
                           "--weights FILE|none", "a file, FILE#NAME, none or default")  # fmt: skip
    weights_sha256: str | None = None
    input: tuple[int, int, int] | None = setting(
        None, "Size of the image, where the network does not tell it.", "--input CxHxW",
        "channels x height x width, such as 3x224x224", least=1)  # fmt: skip
    mean: tuple[float, ...] | None = setting(
        None, "Mean that images are normalized by, pixels from 0 to 1.  [default: the network's, else ImageNet's]",
        takes="a number for each channel, such as 0.5,0.5,0.5")  # fmt: skip
    std: tuple[float, ...] | None = setting(
        None, "Standard deviation that images are normalized by.  [default: the network's, else ImageNet's]",
        takes="a number for each channel, such as 0.5,0.5,0.5")  # fmt: skip
    resize: tuple[int, ...] | None = setting(
        None, "Pixels of a picture's shorter side, or of both (224x320), before its centre is cropped.  [default: as "
        "the weights publish; exactly --input for a network of your file]",
        takes="a number of pixels from 1, such as 256, or height x width", least=1)  # fmt: skip
    crop_pct: float | None = setting(
        None, "Fraction of the resized picture's side that the centre crop keeps, in place of resize.", least=ABOVE_0
    )
    interpolation: Interpolation | None = setting(
        None, "Interpolation that pictures are resized with.  [default: as the weights publish, else bilinear]"
    )
    data: str | None = setting(None, "digits, mnist, cifar10, imagenet, or a folder with train/ and val/.",
                               "--data NAME|DIR", "a name or a folder")  # fmt: skip
    data_root: str = setting("data", "Where torchvision keeps data.", "--data-root DIR", "a folder")
    task: str | None = setting(None, "The outputs' purpose: classify, segment, embed, or outputs, which is any.  "
                               "[default: the network's]", takes="the name of a task")  # fmt: skip
    evaluate: str | None = setting(None, "A metric of yours, FILE.py:FUNCTION: FUNCTION(model, images) gives a number "
                                   "or a dict.", takes="FILE.py:FUNCTION")  # fmt: skip
    evaluate_sha256: str | None = None
    lower_is_better: bool = setting(False, "The first figure of evaluate is better the lower it is, as an error is.")
    train: int | None = setting(None, "Train from scratch on --data first.", "--train EPOCHS", least=1)
    images: int | None = setting(None, "Training images to learn from, at most.", least=2)
    batch: int = setting(64, "Images in a training batch.", least=2)
    seed: int = setting(0, "Seed of every random choice.", "--seed N", least=0, group="The run")
    regularizer: str | None = None
    regularizer_weight: float | None = None
    augment: str = "auto"


@dataclass(frozen=True)
class PlanSettings:
    """The goal of the plan, or the plan file that is replayed. `recipe` names the system whose settings the others are,
    where nothing else was set; `dtype` is the number type that instructions are predicted of
    and that a limit on size counts. `optimizer`, `rate` and
    `rate_schedule` train the probes of the sensitivity rule."""

    rank_rule: str = setting("budget", "budget (the limits), none, or equal-error, sensitivity, vbmf: one method for "
                             "each kind of layer.", takes="the name of a rank rule")  # fmt: skip
    max_params: str | None = setting(None, "Parameters: 0.15x of the network's, or 8.7M.", "--max-params LIMIT", LIMIT)
    max_size: str | None = setting(None, "Size of a file: 0.15x of a float32 one, or 8MB.", "--max-size LIMIT", LIMIT)
    max_macs: str | None = setting(None, "Multiply-accumulates: 0.4x, or 300M.", "--max-macs LIMIT", LIMIT)
    max_latency: str | None = setting(None, "Latency of one image, one thread: 0.5x, or 5ms.", "--max-latency LIMIT",
                                      LIMIT)  # fmt: skip
    max_drop: str | None = setting(None, "Points of top-1 lost before fine-tuning: 1%.", "--max-drop LIMIT", LIMIT)
    methods: tuple[str, ...] = setting((), "Methods to choose among (see list methods).  [default: all but cp, cp-als]",
                                       "--methods NAME,...", NAMES)  # fmt: skip
    ranks: Mapping[str, int] | str = setting(
        dict, "Ranks by layer (for each group), or a paper's (see list ranks).", "--ranks LAYER=RANK,...",
        "layer=rank,layer=rank with whole numbers from 1", least=1)  # fmt: skip
    keep_layers: tuple[str, ...] = setting((), "Layers to leave alone.", "--keep-layers LAYER,...", NAMES)
    costs: Costs = setting("auto", "A layer's variant costs what it takes here (measured), instructions predicted of "
                           "a phone's core, or MACs and traffic (counted); auto: measured for --max-latency here, else "
                           "instructions.")  # fmt: skip
    latency_format: str = setting("pte", "Format in whose runtime layers are timed.  "
                                  "[default: the first exported that runs here]",
                                  takes="the name of a format")  # fmt: skip
    fit: Fit = setting("outputs", "With data: fit factors to each layer's outputs, or to its weights.")
    plan: str | None = setting(None, "Replay a plan.json on this network.", "--plan FILE", "a file")
    plan_sha256: str | None = None
    dtype: str = "float32"
    optimizer: Optimizer = setting("adamw", "Optimizer of the sensitivity rule's probes.")
    rate: float = setting(3e-4, "Learning rate of the sensitivity rule's probes.", least=ABOVE_0)
    rate_schedule: RateSchedule = setting("cosine", "Learning-rate schedule of the sensitivity rule's probes.")
    recipe: str = DEFAULT_RECIPE


@dataclass(frozen=True)
class TuneSettings:
    """The fine-tuning of the compressed network. No `rate` means that of each step in the recipe's paces."""

    schedule: str = setting("auto", "iterative (compress a layer, tune, next), one-shot, hybrid (windows one by one, "
                            "then all others), or auto: one-shot for 3 times the epochs.",
                            takes="the name of a schedule")  # fmt: skip
    epochs: int = setting(2, "Epochs of fine-tuning for each step; 0: none.  [default: the recipe's, 2]", "--epochs N",
                          least=0)  # fmt: skip
    total_epochs: float | None = setting(None, "Epochs that all steps share, in place of epochs for each; may be "
                                         "parts of one.", least=ABOVE_0)  # fmt: skip
    optimizer: Optimizer = setting("adamw", "Optimizer; the papers take sgd.")
    rate: float | None = setting(3e-4, "Learning rate.", least=ABOVE_0)
    rate_schedule: RateSchedule = setting("cosine", "Learning-rate schedule within a step.")
    rate_step: float = setting(
        5, "With rate_schedule step: epochs after which the rate falls to a tenth.", least=ABOVE_0
    )
    patience: int | None = setting(None, "End a step when the accuracy on the validation split has not risen for so "
                                   "many epochs.  [default: run all]", least=1)  # fmt: skip
    order: LayerOrder = setting("network", "Compress layers in the order in which they run, or the most sensitive "
                                  "first.")  # fmt: skip
    trainable: Trainable = setting("all", "Trainable layers: all, the new factors, or them and what runs after them.")
    distill: bool | None = setting(None, "Learn from the original network's logits too.  [default: where more than 8 "
                                   "layers are compressed]")  # fmt: skip
    unlabelled: str | None = setting(None, "With distill: a folder of images without labels to learn from too.",
                                     takes="a folder")  # fmt: skip
    augment: str = setting("auto", "Random changes of training images: none, crop, flip (mirrored) or crop,flip; auto: "
                           "those usual for the set; pictures of a folder are mirrored only where the network is as "
                           "right on mirrored ones.", takes="auto, none, crop, flip or crop,flip")  # fmt: skip
    mixed_precision: bool = setting(False, "Train in half precision where it is safe; needs a CUDA GPU.")
    recipe: str = DEFAULT_RECIPE
    regularizer: str | None = setting(
        None, "While training and tuning, pull fully connected weights to few values: binarizing-l1, quartic, "
        "centroid (centroid:8x16: of its own).", takes="the name of a regularizer")  # fmt: skip
    regularizer_weight: float | None = setting(None, "Weight of that term at its height.  [default: its own]",
                                               least=ABOVE_0)  # fmt: skip


@dataclass(frozen=True)
class ShareSettings:
    """Weight sharing after tuning. No `share` shares nothing; no `share_layers` means every fully connected layer."""

    share: str | None = setting(None, "Share weights: each L neighbouring ones become one of K centroids, as 4x256.",
                                "--share LxK", "length x centroids, such as 4x256 or 4x256,rows,block")  # fmt: skip
    share_layers: tuple[str, ...] = setting((), "Layers to share.  [default: fully connected ones]", takes=NAMES)
    share_epochs: int = setting(1, "Epochs for which the centroids are tuned.", least=0)
    share_rate: float = setting(3e-4, "Learning rate of these epochs.", least=ABOVE_0)


@dataclass(frozen=True)
class ExportSettings:
    """The number type of further files beside those in float32, and the images that files are calibrated and judged
    on."""

    quantize: Quantize = setting("none", "Files of this number type too: int8, fp16, auto (by layer), or none.",
                                 "--quantize TYPE")  # fmt: skip
    calibration: int = setting(512, "Images of the validation split (or photographs) that int8 is calibrated on, at "
                               "most.", least=8)  # fmt: skip
    epochs: int = setting(1, "Epochs of tuning the compressed network in int8, where that lost accuracy and --epochs "
                          "allows any; 0: none.", least=0)  # fmt: skip
    rate: float = setting(0.01, "Learning rate of that tuning, in steps of the weights' scales.", least=ABOVE_0)
    signal_to_noise: float = setting(20.0, "With auto: the least signal-to-noise ratio of the logits, in dB, that "
                                     "layers in int8 leave.", least=0)  # fmt: skip
    test_images: int | None = setting(None, "Test images that each file classifies, at most.  [default: all that take "
                                      "4 GB]", least=1)  # fmt: skip


@dataclass(frozen=True)
class BenchSettings:
    """The device that measures, and how. No `device` takes the one that is connected."""

    threads: int = setting(1, "Threads (and cores) to run on.", "--threads N", least=1)
    cap: float | None = setting(None, "Seconds after which the measurement of a file is cut short; recorded.",
                                least=ABOVE_0)  # fmt: skip
    device: str | None = setting(None, "phone, arm (simulated) or host.  [default: a connected phone, else host]",
                                 "--device NAME", "the name of a device")  # fmt: skip
    serial: str | None = setting(None, "Which phone, where several are connected.", "--serial SERIAL", "a serial")
    cores: str | None = setting(None, "Cores of the phone: big, middle, little or a mask.  [default: the fastest]",
                                "--cores CLUSTER", "big, middle, little or a hexadecimal mask")  # fmt: skip
    inside: str = setting("shell", "What runs the files on a phone: shell, app, app_process.", "--in PLACE",
                          "shell, app or app_process")  # fmt: skip


Section = SourceSettings | PlanSettings | TuneSettings | ShareSettings | ExportSettings
SECTIONS: dict[str, type[Section | BenchSettings]] = {
    "source": SourceSettings,
    "plan": PlanSettings,
    "fine_tune": TuneSettings,
    "share": ShareSettings,
    "export": ExportSettings,
    "bench": BenchSettings,
}
"""Settings by the first part of their dotted names. settings.json calls the fine-tuning "tune"."""

GROUPS = {
    "source": "Network and data",
    "plan": "What to reach, at most",
    "fine_tune": "Tuning",
    "share": "Tuning",
    "export": "Files",
    "bench": "Measuring",
}
"""The heading of each section in `--help`."""


@dataclass(frozen=True)
class Setting:
    """A field that can be set, by its dotted name. `option` is "" where `--set` alone sets it."""

    name: str
    kind: Any
    optional: bool
    default: object
    help: str
    option: str
    metavar: str
    takes: str
    least: float | None
    group: str

    def parse(self, text: str) -> object:
        """The value that a text of the command line or of a recipe file means. InputError if it means none."""
        shape, parts = get_origin(self.kind), get_args(self.kind)
        if text == "none" and (self.optional or shape is tuple):
            return None if self.optional else ()
        try:
            if shape is Literal or self.kind is bool:
                return {said(choice): choice for choice in parts or (True, False)}[text]
            if shape is tuple and parts == (int, Ellipsis):
                return tuple(self._number(int, part) for part in text.split("x"))
            if shape is tuple and Ellipsis not in parts:  # an image
                channels, height, width = (self._number(int, part) for part in text.split("x"))
                return channels, height, width
            if shape is tuple and parts[0] is float:
                return tuple(float(part) for part in text.split(","))
            if shape is tuple:
                return tuple(part.strip() for part in text.split(",") if part.strip())
            if shape is Mapping and "=" in text:
                pairs = [part.partition("=") for part in text.split(",")]
                if all(layer.strip() for layer, _, _ in pairs):
                    return {layer.strip(): self._number(int, rank) for layer, _, rank in pairs}
                raise ValueError
            return text if shape is Mapping or self.kind is str else self._number(self.kind, text)
        except (ValueError, KeyError):
            raise InputError(f"{self.option or self.name} takes {self.takes}, not {text!r}") from None

    def _number(self, kind: type[int] | type[float], text: str) -> float:
        number = kind(text)
        if self.least is not None and not self.least <= number < float("inf"):
            raise ValueError
        return number

    def words(self, value: object) -> tuple[str, str]:
        """The two words of the command line that give the setting this value."""
        return (self.option, said(value)) if self.option else ("--set", f"{self.name}={said(value)}")


def said(value: object) -> str:
    """A value as the command line takes it."""
    if value is None or isinstance(value, bool):
        return {None: "none", True: "true", False: "false"}[value]
    if isinstance(value, Mapping):
        return ",".join(f"{layer}={rank}" for layer, rank in value.items()) or "none"
    if isinstance(value, list | tuple):
        return ("x" if all(isinstance(part, int) for part in value) else ",").join(map(str, value)) or "none"
    return str(value)


def _settable() -> Iterator[Setting]:
    for section, settings in SECTIONS.items():
        types = get_type_hints(settings)
        for field in dataclasses.fields(settings):
            if not field.metadata:
                continue
            facts, hint = field.metadata, types[field.name]
            kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
            option, _, metavar = facts["option"].partition(" ")
            takes = " or ".join(get_args(kinds[0])) if get_origin(kinds[0]) is Literal else facts["takes"]
            takes = takes or {int: f"a whole number from {facts['least']}", bool: "true or false"}.get(kinds[0], "")
            yield Setting(
                f"{section}.{field.name}",
                kinds[0],
                NoneType in kinds,
                {} if field.default is dataclasses.MISSING else field.default,
                facts["help"],
                option,
                metavar,
                takes or "a number above 0",
                facts["least"],
                facts["group"] or GROUPS[section],
            )
    scale = "Factor of the recipe's epochs, and of those between two falls of its rate."
    group = GROUPS["fine_tune"]
    yield Setting("fine_tune.epochs_scale", float, True, None, scale, "", "", "a number above 0", ABOVE_0, group)


SETTINGS = {each.name: each for each in _settable()}
"""Every setting by its dotted name, in the order of the sections and of their fields."""

RENAMED = {"rate_shape": "rate_schedule", "cut_order": "order", "trained": "trainable"}
"""Fields by their earlier names, which settings.json of earlier runs has; options and `--set` say the new one."""


def recipe_values(recipe: Recipe) -> dict[str, object]:
    """The settings of a built-in recipe by dotted name. A field of one name serves the plan and the fine-tuning."""
    own = {field.name for field in dataclasses.fields(recipe)}
    found: dict[str, object] = {}
    for name in SETTINGS:
        section, _, field = name.partition(".")
        if section in ("plan", "fine_tune", "share") and field in own:
            found[name] = getattr(recipe, field)
    return found | ({"fine_tune.rate": None} if recipe.paces else {})


def own_code(network: str) -> bool:
    """True if the network is a function of the user's own code: FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION."""
    return ":" in network and not network.startswith("timm:")


def weights_file(weights: str) -> tuple[Path, str]:
    """The file of --weights FILE#NAME, and the name of the state dict within it; "" where none is named."""
    path, _, name = weights.rpartition("#")
    return (Path(path), name) if path and not Path(weights).is_file() else (Path(weights), "")


def training_epochs(settings: SourceSettings) -> int | None:
    """Epochs of training from scratch: as set, or the embedded default's when a named network meets the digits."""
    if settings.train is not None or settings.data != "digits" or settings.weights != "default":
        return settings.train
    return None if own_code(settings.network) else DIGITS_EPOCHS


SCHEDULE_NAMES = ("auto", "iterative", "one-shot", "hybrid")
"""The keys of compressor.training.schedules.SCHEDULES, known without importing torch; a test compares the two."""


def keeps_best(origin: str, regularizer: str | None) -> bool:
    """True if tuning keeps its best epoch on the validation split rather than its last.

    Those images are new to a network of the `origin` "trained", by this tool. One that was trained elsewhere may have
    seen them, and seems to lose by all that it learns anew; towards a regularizer the last epoch has come furthest.
    """
    return origin == "trained" and regularizer is None


def differences(wanted: Section, stored: Section) -> list[str]:
    """The settings in which `wanted` differs from those of settings.json, as "--epochs 3 (was 1)"."""
    section = next(name for name, kind in SECTIONS.items() if isinstance(wanted, kind))
    values, earlier, found = plain(wanted), plain(stored), []
    for name, value in values.items():
        before = earlier[name]
        if name == "dtype" and before != value:  # follows from --quantize
            found.append(f"a plan for {value} files (was {before})")
        elif before != value and not name.endswith("sha256"):
            setting = SETTINGS.get(f"{section}.{name}") or SETTINGS.get(f"fine_tune.{name}")
            words = (f"--{name}", said(value)) if setting is None else setting.words(value)
            found.append(f"{' '.join(words)} (was {said(before)})")
    return found or [
        f"the file of {'the network' if name == 'network_sha256' else '--' + name.removesuffix('_sha256')} has changed"
        for name in values
        if name.endswith("sha256") and earlier[name] != values[name]
    ]


def plain(section: Section) -> dict[str, Any]:
    """The section as JSON gives it back: lists for tuples, plain dicts for mappings."""
    return {
        name: list(value) if isinstance(value, tuple) else value for name, value in dataclasses.asdict(section).items()
    }
