"""How values are written on the command line, and the options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from compress_export.console import change_voice
from compress_export.errors import InputError

Command = TypeVar("Command", bound=Callable[..., Any])


def parse_image(text: str) -> tuple[int, int, int]:
    """ "3x224x224" as (3, 224, 224): channels, height, width."""
    parts = text.split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise InputError(f"--input takes channels x height x width, such as 3x224x224, not {text!r}")
    channels, height, width = (int(part) for part in parts)
    return channels, height, width


def parse_channels(text: str | None, option: str) -> tuple[float, ...] | None:
    """ "0.485,0.456,0.406" as a number for each channel; None stays None."""
    if text is None:
        return None
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{option} takes a number for each channel, such as 0.5,0.5,0.5, not {text!r}") from None


def parse_ranks(text: str) -> dict[str, int] | str:
    """ "layer=rank,layer=rank" as a mapping; a text without "=" names a paper's ranks."""
    if "=" not in text:
        return text
    ranks: dict[str, int] = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if not name or not number.isdigit() or int(number) < 1:
            raise InputError(f"--ranks takes layer=rank,layer=rank with whole numbers from 1, not {part!r}")
        ranks[name.strip()] = int(number)
    return ranks


def parse_names(text: str | None) -> tuple[str, ...]:
    """Names between commas."""
    return () if text is None else tuple(name.strip() for name in text.split(",") if name.strip())


def parse_latency_format(name: str | None, formats: tuple[str, ...]) -> str:
    """The format whose runtime layers are timed in: the one asked for, else the first exported that runs here."""
    from exporters.formats import FORMATS, find_format

    if name is None:
        return next((each for each in formats if FORMATS[each].runs_here), "pte")
    if not find_format(name).runs_here:
        raise InputError(f"--latency-format {name}: {FORMATS[name].runtime} does not run here; pass pte, onnx or ptl")
    return name


def options(*each: Callable[[Command], Command]) -> Callable[[Command], Command]:
    """Several options as one decorator, in the order in which help shows them."""

    def add(command: Command) -> Command:
        for option in reversed(each):
            command = option(command)
        return command

    return add


LOUDNESS = options(
    click.option("-q", "--quiet", is_flag=True, expose_value=False, callback=change_voice("quiet"),
                 help="Print nothing but "
                 "errors."),
    click.option("-v", "--verbose", is_flag=True, expose_value=False, callback=change_voice("verbose"), help="Say more "
                 "often how far a stage is; show where an error arose."),
)  # fmt: skip


JSON = click.option("--json", is_flag=True, expose_value=False, callback=change_voice("as_json"),
                    help="Print the result as "
                    "JSON instead of a table.")  # fmt: skip


SPOKEN = options(JSON, LOUDNESS)
"""The options of every command that prints a table."""


def listed(*words: str, metavar: str, help: str) -> Callable[[Command], Command]:
    """An option of names between commas that may also be given several times: none of them is dropped."""

    def together(_context: click.Context, _option: click.Parameter, texts: tuple[str, ...]) -> str | None:
        return ",".join(texts) if texts else None

    return click.option(*words, multiple=True, callback=together, metavar=metavar, help=help)


PLACE = options(
    click.option("--runs", default="runs", metavar="DIR", help="Folder of runs.", show_default=True),
    click.option("--name", metavar="NAME", help="Name of the run.  [default: NETWORK-TARGET, for plan NETWORK]"),
    click.option("--force", is_flag=True, help="Replace results that were made with other settings."),
)


SOURCE = options(
    click.option("--weights", default="default", metavar="FILE|none", help="A file of weights (state_dict or "
                 "safetensors), or none for an untrained network.  [default: the pretrained ones]"),
    click.option("--input", "image", metavar="CxHxW", help="Size of the image where the network does not tell it."),
    click.option("--mean", metavar="M,M,M", help="What images are normalized by, of pixels from 0 to 1.  [default: the "
                 "network's own, else ImageNet's]"),
    click.option("--std", metavar="S,S,S", help="Likewise, the deviation."),
    click.option("--data", metavar="NAME|DIR", help="digits, mnist, cifar10, imagenet, or a folder with "
                 "train/ and val/, whose class folders are outputs 0, 1, ... by name."),
    click.option("--data-root", default="data", metavar="DIR", help="Where torchvision keeps data.",
                 show_default=True),
    click.option("--train", type=click.IntRange(1), metavar="EPOCHS", help="Train from scratch on --data first."),
    click.option("--images", type=click.IntRange(2), metavar="N", help="Learn from at most so many training images."),
    click.option("--batch", type=click.IntRange(2), default=64, help="Images in a training batch.", show_default=True),
    click.option("--seed", type=click.IntRange(0), default=0, help="Seed of every random choice.", show_default=True),
)  # fmt: skip


PLAN = options(
    click.option("--max-params", metavar="LIMIT", help="At most so many parameters: 0.15x of the network's, or 8.7M."),
    click.option("--max-size", metavar="LIMIT", help="At most so large a float32 file: 0.15x, or 8MB."),
    click.option("--max-macs", metavar="LIMIT", help="At most so many multiply-accumulates: 0.4x, or 300M."),
    click.option("--max-latency", metavar="LIMIT", help="At most so long, one image, one thread: 0.5x, or 5ms."),
    click.option("--max-drop", metavar="LIMIT", help="At most so many points of top-1 lost before fine-tuning: 1%."),
    listed("--methods", metavar="NAME,...", help="Choose among these: cp, cp-polished, cp-als, tucker, spatial, "
           "channel, svd.  [default: all but cp and cp-als]"),
    listed("--keep-layers", metavar="LAYER,...", help="Layers to leave alone."),
    click.option("--costs", type=click.Choice(["measured", "counted"]), default="measured", show_default=True,
                 help="Time each form of a layer on this machine, or count its MACs and traffic."),
    click.option("--latency-format", metavar="FORMAT", help="The runtime that forms are timed in: pte, onnx or ptl.  "
                 "[default: the first exported that runs here]"),
    click.option("--fit", type=click.Choice(["outputs", "weights"]), help="With data: fit factors to each layer's "
                 "outputs, or to its weights.  [default: outputs]"),
    click.option("--rank-rule", metavar="RULE", help="budget (limits above), none, or equal-error, sensitivity, "
                 "vbmf: one form for each kind of layer.  [default: budget]"),
    listed("--ranks", metavar="LAYER=RANK,...", help="Ranks by layer (for each group), or a paper's: "
           "astrid-lee-2017."),
    click.option("--plan", "replay", metavar="FILE", help="Replay a plan.json on this network."),
)  # fmt: skip


RECIPE = click.option("--recipe", metavar="NAME", help="A whole system: how ranks are chosen, layers cut and tuned "
                      "(see list recipes). Options beside it go before it.  [default: default]")  # fmt: skip


RATE = options(
    click.option("--optimizer", type=click.Choice(["adamw", "sgd"]), help="The papers take sgd.  [default: adamw]"),
    click.option("--rate", type=click.FloatRange(0, min_open=True), help="Learning rate.  [default: 0.0003]"),
    click.option("--rate-shape", type=click.Choice(["cosine", "step", "one-cycle"]),
                 help="How the rate falls within a step of the schedule.  [default: cosine]"),
)  # fmt: skip


REGULARIZER = options(
    click.option("--regularizer", metavar="NAME", help="While training from scratch and tuning, pull fully connected "
                 "weights to few values: binarizing-l1, quartic, or centroid (centroid:8x16: of its own)."),
    click.option("--regularizer-weight", type=click.FloatRange(0, min_open=True), metavar="WEIGHT",
                 help="Weight of that term at its height.  [default: the regularizer's own]"),
)  # fmt: skip


TUNE = options(
    click.option("--schedule", metavar="NAME", help="iterative (cut a layer, tune, next), one-shot, hybrid (windows "
                 "one by one, then all others), or auto: one-shot for 3 times the epochs.  [default: auto]"),
    click.option("--epochs", type=click.IntRange(0), help="Epochs for each step; 0: no tuning.  [default: 2]"),
    click.option("--total-epochs", type=click.FloatRange(0, min_open=True), metavar="EPOCHS", help="Epochs that all "
                 "steps share, in place of --epochs for each; they may be parts of one."),
    click.option("--epochs-scale", type=click.FloatRange(0, min_open=True), metavar="FACTOR", help="The recipe's "
                 "epochs and the epochs between its falls of the rate, all so many times."),
    RATE,
    click.option("--rate-step", type=click.FloatRange(0, min_open=True), metavar="EPOCHS",
                 help="With --rate-shape step: epochs after which the rate falls to a tenth.  [default: 5]"),
    click.option("--patience", type=click.IntRange(1), metavar="EPOCHS", help="End a step when the held-out accuracy "
                 "has not risen for so long.  [default: run all epochs]"),
    click.option("--cut-order", type=click.Choice(["network", "sensitive"]), default="network", show_default=True,
                 help="Cut the layers as they run, or the most sensitive first."),
    click.option("--trained", type=click.Choice(["all", "new", "downstream"]), default="all", show_default=True,
                 help="After a cut train all layers, the new factors, or them and what runs after them."),
    click.option("--distill/--no-distill", default=None, help="Learn from the original network's answers too.  "
                 "[default: where more than 8 layers are cut]"),
    click.option("--unlabelled", metavar="DIR", help="With --distill: learn from the images of this folder too, which "
                 "need no labels."),
    click.option("--mixed-precision", is_flag=True, help="Train in half precision where it is safe; needs a CUDA GPU."),
    REGULARIZER,
)  # fmt: skip


SHARE = options(
    click.option("--share", metavar="LxK", help="Share weights after tuning: each L neighbouring ones become one of K "
                 "centroids, such as 4x256; 4x256,rows,block says more.  [default: do not share]"),
    listed("--share-layers", metavar="LAYER,...", help="Layers to share.  [default: fully connected ones]"),
    click.option("--share-epochs", type=click.IntRange(0), metavar="EPOCHS",
                 help="Epochs for which the centroids are tuned.  [default: 1]"),
    click.option("--share-rate", type=click.FloatRange(0, min_open=True), metavar="RATE",
                 help="Learning rate of these epochs.  [default: 0.0003]"),
)  # fmt: skip


EXPORT = options(
    click.option("--target", metavar="NAME", help="android (.pte .onnx .ptl), ios (.mlpackage) or all.  "
                 "[default: android]"),
    listed("--format", "formats", metavar="NAME,...", help="Single formats: pte, onnx, ptl, mlpackage."),
)  # fmt: skip


BENCH = options(
    click.option("--threads", type=click.IntRange(1), default=1, help="Threads (and cores) to run on.",
                 show_default=True),
    click.option("--cap", type=click.FloatRange(0, min_open=True), metavar="SECONDS",
                 help="Measure each file no longer than this; recorded."),
    click.option("--device", metavar="NAME", envvar="COMPRESS_EXPORT_DEVICE", help="Where to measure: phone, arm "
                 "(simulated), host.  [default: the connected phone, else arm if it is installed, else host]"),
    click.option("--serial", metavar="SERIAL", help="Which phone, where several are connected."),
    click.option("--in", "inside", metavar="PLACE", default="shell", show_default=True, help="Inside what a phone runs "
                 "the files: shell, app, app_process (the app's code without an installed app)."),
    click.option("--cores", metavar="CLUSTER", help="Cores of the phone: big, middle, little or a hexadecimal mask.  "
                 "[default: the fastest]"),
)  # fmt: skip
