"""What a command was asked, as the settings of each verb. What contradicts itself is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from pathlib import Path
from typing import TYPE_CHECKING, Any

from compress_export.cli.options import parse_channels, parse_image, parse_latency_format, parse_names, parse_ranks
from compress_export.errors import InputError, nearest
from compress_export.settings import DEFAULT_RECIPE

if TYPE_CHECKING:
    from compress_export.settings import BenchSettings, PlanSettings, ShareSettings, SourceSettings, TuneSettings
    from compressor.planning.recipes import Recipe

AS_ASKED = (
    "patience", "cut_order", "trained", "unlabelled", "mixed_precision", "regularizer_weight",
)  # fmt: skip
INSTEAD = {"epochs": "total_epochs", "total_epochs": "epochs", "unlabelled": "distill"}
"""Settings of an earlier tuning that no longer hold once another one is given."""
LIMITS = ("max_params", "max_size", "max_macs", "max_latency", "max_drop")


def source_of(network: str, asked: dict[str, Any]) -> SourceSettings:
    """The network, weights and data asked for; files by their hash, so that a changed one counts as another setting."""
    from compress_export.settings import SourceSettings

    if asked["train"] is not None and asked["data"] is None:
        raise InputError("--train needs --data to train on, such as --data digits")
    if asked["weights"] not in ("default", "none") and not Path(asked["weights"]).is_file():
        raise InputError(f"--weights {asked['weights']}: there is no such file")
    if asked["data"] is not None and "/" in asked["data"] and not Path(asked["data"]).is_dir():
        raise InputError(f"--data {asked['data']}: there is no such folder")
    return SourceSettings(
        network=network,
        network_sha256=_sha256(network.rpartition(":")[0]),
        weights=asked["weights"],
        weights_sha256=_sha256(asked["weights"]),
        input=None if asked["image"] is None else parse_image(asked["image"]),
        mean=parse_channels(asked["mean"], "--mean"),
        std=parse_channels(asked["std"], "--std"),
        data=asked["data"],
        data_root=asked["data_root"],
        train=asked["train"],
        images=asked["images"],
        batch=asked["batch"],
        seed=asked["seed"],
    )


def plan_of(asked: dict[str, Any], formats: tuple[str, ...] = ("pte",)) -> PlanSettings:
    """What the plan is asked for. InputError for options that exclude each other, PlanError for what is no limit."""
    from compress_export.settings import PlanSettings
    from compressor.planning.limits import UNITS, parse_limit

    recipe = recipe_of(asked)
    for quantity in UNITS:
        if asked[f"max_{quantity}"] is not None:
            parse_limit(quantity, asked[f"max_{quantity}"])
    chosen = next((name for name in LIMITS if asked[name]), None) or ("methods" if asked["methods"] else None)
    chosen = chosen or ("rank_rule" if asked["rank_rule"] not in (None, "budget") else None)
    for name, does in (("replay", "--plan replays ranks that are chosen already"), ("ranks", "--ranks chooses them")):
        if asked[name] is not None and chosen is not None:
            raise InputError(f"{does}; leave out --{chosen.replace('_', '-')}")
    if asked["replay"] is not None and asked["ranks"]:
        raise InputError("--plan replays ranks that are chosen already; leave out --ranks")
    ruled = asked["replay"] is None and asked["ranks"] is None
    return PlanSettings(
        **{name: asked[name] for name in LIMITS},
        rank_rule=asked["rank_rule"] or (recipe.rank_rule if ruled else "budget"),
        methods=parse_names(asked["methods"]) or (recipe.methods if ruled and asked["rank_rule"] is None else ()),
        ranks={} if asked["ranks"] is None else parse_ranks(asked["ranks"]),
        keep_layers=parse_names(asked["keep_layers"]),
        costs=asked["costs"],
        latency_format=parse_latency_format(asked["latency_format"], formats),
        fit=asked["fit"] or recipe.fit,
        plan=asked["replay"],
        plan_sha256=_sha256(asked["replay"]),
        optimizer=asked["optimizer"] or recipe.optimizer,
        rate=asked["rate"] or recipe.rate,
        rate_shape=asked["rate_shape"] or recipe.rate_shape,
        recipe=asked["recipe"] or DEFAULT_RECIPE,
    )


def recipe_of(asked: dict[str, Any]) -> Recipe:
    """The recipe asked for, or ours. InputError for a name that there is none of."""
    from compressor.planning.recipes import RECIPES

    name = asked["recipe"] or DEFAULT_RECIPE
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}: {nearest(name, RECIPES)}")
    return RECIPES[name]


def _sha256(file: str | None) -> str | None:
    """The hash of a file that the user names, so that a change of its content counts as another setting."""
    import hashlib

    if file is None or not Path(file).is_file():
        return None
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def tune_of(asked: dict[str, Any]) -> TuneSettings:
    """How to tune: as asked, else as the recipe says. InputError for a schedule that there is none of, for a scale
    beside what it would scale, and for images without labels where nothing is learned from them."""
    from compress_export.settings import SCHEDULE_NAMES, TuneSettings

    recipe = recipe_of(asked)
    schedule = asked["schedule"] or recipe.schedule
    if schedule not in SCHEDULE_NAMES:
        raise InputError(f"there is no schedule {schedule!r}: {nearest(schedule, SCHEDULE_NAMES)}")
    epochs, total, rate_step = _epochs_of(asked, recipe)
    distill = recipe.distill if asked["distill"] is None else asked["distill"]
    if asked["unlabelled"] is not None and distill is None:
        distill = True
    if asked["unlabelled"] is not None and not distill:
        raise InputError("--unlabelled images teach nothing without the original network's answers; pass --distill too")
    return TuneSettings(
        schedule,
        epochs,
        total,
        asked["optimizer"] or recipe.optimizer,
        asked["rate"] or (None if recipe.paces else recipe.rate),
        asked["rate_shape"] or recipe.rate_shape,
        rate_step,
        distill=distill,
        recipe=asked["recipe"] or DEFAULT_RECIPE,
        regularizer=asked["regularizer"] or recipe.regularizer,
        **{name: asked[name] for name in AS_ASKED},
    )


def tune_again_of(asked: dict[str, Any], given: AbstractSet[str], stored: Mapping[str, Any]) -> TuneSettings:
    """The settings asked for, where something is not `given` with those of the last tuning, or of the plan's recipe, as
    the run's settings are `stored`."""
    from dataclasses import replace

    before: Mapping[str, Any] = stored.get("tune", {})
    recipe = asked["recipe"] or before.get("recipe") or stored["plan"].get("recipe")
    settings = tune_of({**asked, "recipe": recipe})
    if "recipe" in given or "epochs_scale" in given:
        return settings
    settled = set(given) | {other for name, other in INSTEAD.items() if name in given}
    return replace(settings, **{name: value for name, value in before.items() if name not in settled})


def _epochs_of(asked: dict[str, Any], recipe: Recipe) -> tuple[int, float | None, float]:
    """Epochs of each step, of all steps together, and between two falls of the rate: as asked, or the recipe's, all
    times --epochs-scale."""
    scale = asked["epochs_scale"]
    given = [name for name in ("epochs", "total_epochs", "rate_step") if asked[name] is not None]
    if {"epochs", "total_epochs"} <= set(given):
        raise InputError("--epochs is for each step and --total-epochs for all together; pass one of the two")
    if scale is None:
        epochs = recipe.epochs if asked["epochs"] is None else asked["epochs"]
        total = recipe.total_epochs if asked["epochs"] is None else None
        return epochs, asked["total_epochs"] or total, asked["rate_step"] or recipe.rate_step
    if given:
        option = given[0].replace("_", "-")
        raise InputError(f"--epochs-scale scales the recipe's epochs, and --{option} sets them; pass one of them")
    epochs = max(1, round(scale * recipe.epochs))
    total = None if recipe.total_epochs is None else scale * recipe.total_epochs
    return epochs, total, recipe.rate_step * epochs / recipe.epochs


def share_of(asked: dict[str, Any]) -> ShareSettings:
    """How weights are shared: as asked, else as the recipe says. PlanError for a text that means no sharing; InputError
    for layers to share, and no way to."""
    from compress_export.settings import ShareSettings
    from compressor.weight_sharing.product_quantization import Sharing

    recipe = recipe_of({"recipe": None, **asked})
    share = asked["share"] or recipe.share
    if share is not None:
        Sharing.parse(share)
    elif asked["share_layers"] is not None:
        raise InputError("--share-layers names layers to share, and --share says how; pass it too, such as 4x256")
    layers = parse_names(asked["share_layers"])
    epochs = recipe.share_epochs if asked["share_epochs"] is None else asked["share_epochs"]
    return ShareSettings(share, layers, epochs, asked["share_rate"] or recipe.share_rate)


def bench_of(asked: dict[str, Any]) -> BenchSettings:
    """Where and how to measure. BenchError for a device that there is none of, or options that do not go with it."""
    from bench.devices import find
    from compress_export.settings import BenchSettings

    settings = BenchSettings(
        **{name: asked[name] for name in ("threads", "cap", "device", "serial", "cores", "inside")}
    )
    if settings.device is not None:
        find(settings.device, settings.serial, settings.inside)
    return settings


def formats_of(asked: dict[str, Any]) -> tuple[str, ...]:
    """The formats of the target or by name, Android's if neither is asked for. InputError for both at once."""
    from exporters.formats import find_format, find_target

    if asked["target"] is not None and asked["formats"] is not None:
        raise InputError("--target and --format name the same thing; pass one of them")
    if asked["formats"] is None:
        return find_target(asked["target"] or "android")
    names = parse_names(asked["formats"])
    for name in names:
        find_format(name)
    return names


def place_of(network: str, asked: dict[str, Any], target: str | None) -> Path:
    """The run directory: --name, or the network's name (and the target's) with nothing that a path would misread."""
    own = "-".join(filter(None, (network, target)))
    if asked["name"] is not None and (Path(asked["name"]).name != asked["name"] or asked["name"] in ("", ".", "..")):
        raise InputError(f"--name {asked['name']!r} is not the name of one folder; --runs says where it lies")
    name = asked["name"] or "".join(c if c.isalnum() or c in "-_." else "-" for c in own).strip(".-")
    return Path(asked["runs"]) / name
