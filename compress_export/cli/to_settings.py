"""Settings of each section, from what the user gave and the recipe beneath it. What contradicts itself is refused."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TypeVar

import msgspec

from bench.devices import find
from compress_export.cli.options import Given, find_setting
from compress_export.errors import InputError, nearest
from compress_export.run_directory import RunSettings
from compress_export.settings import (
    DEFAULT_RECIPE,
    SCHEDULE_NAMES,
    SECTIONS,
    SETTINGS,
    BenchSettings,
    ExportSettings,
    PlanSettings,
    ShareSettings,
    SourceSettings,
    TuneSettings,
    recipe_values,
    said,
    weights_file,
)
from compressor.planning.limits import UNITS, parse_limit
from compressor.planning.recipes import RECIPES
from exporters.formats import FORMATS, find_format, find_target

LIMITS = ("plan.max_params", "plan.max_size", "plan.max_macs", "plan.max_latency", "plan.max_drop")
INSTEAD = {"epochs": "total_epochs", "total_epochs": "epochs", "unlabelled": "distill"}
"""Fields of an earlier tuning that no longer hold once another one is given."""
T = TypeVar("T", SourceSettings, PlanSettings, TuneSettings, ShareSettings, ExportSettings, BenchSettings)


@dataclass(frozen=True)
class Choice:
    """Settings that were given, over those of a recipe; all by dotted name. `name` is the built-in recipe beneath."""

    given: Mapping[str, object]
    recipe: Mapping[str, object]
    name: str = DEFAULT_RECIPE

    def get(self, name: str) -> object:
        return self.given.get(name, self.recipe.get(name, SETTINGS[name].default))

    def section(self, kind: type[T], **derived: object) -> T:
        """The settings of a section, with fields that are `derived` from several in place of their own."""
        section = next(name for name, each in SECTIONS.items() if each is kind)
        own = {field.name for field in fields(kind)}
        values = {
            name.partition(".")[2]: value
            for name, value in {**self.recipe, **self.given}.items()
            if name.partition(".")[0] == section and name.partition(".")[2] in own
        }
        return msgspec.convert({**values, **derived}, kind)


def choice_of(given: Given) -> Choice:
    """The settings that were given, over the recipe that they name. InputError for a recipe that there is none
    of, or a file that is none."""
    name = given.recipe or DEFAULT_RECIPE
    values: dict[str, object] = {}
    if name.endswith(".toml"):
        path = Path(name)
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"--recipe {path}: there is no such file") from None
        except ValueError as error:
            raise InputError(f"--recipe {path} is no TOML ({error}); it has sections such as [fine_tune]") from error
        name = str(content.pop("base", DEFAULT_RECIPE))
        for section, entries in content.items():
            if not isinstance(entries, dict):
                raise InputError(
                    f"--recipe {path}: {section} stands in no section; put it under [fine_tune] or another of "
                    f"{', '.join(SECTIONS)}, or name the recipe beneath as base"
                )
            for field, value in entries.items():
                setting = find_setting(f"{section}.{field}", SECTIONS, f"--recipe {path}:")
                values[setting.name] = setting.parse(said(value))
    if name not in RECIPES:
        raise InputError(f"there is no recipe {name!r}: {nearest(name, RECIPES)}")
    return Choice(given.values, {**recipe_values(RECIPES[name]), **values}, name)


def source_of(network: str, given: Given) -> SourceSettings:
    """The network, weights and data; files by their hash, so that a changed one counts as another setting."""
    settings = choice_of(given).section(SourceSettings, network=network)
    if settings.train is not None and settings.data is None:
        raise InputError("--train needs --data to train on, such as --data digits")
    weights, part = weights_file(settings.weights)
    if settings.weights not in ("default", "none") and not weights.is_file():
        raise InputError(f"--weights {weights}: there is no such file")
    if settings.data is not None and "/" in settings.data and not Path(settings.data).is_dir():
        raise InputError(f"--data {settings.data}: there is no such folder")
    content, place = _sha256(str(weights)), network.rpartition(":")[0]
    return replace(
        settings,
        network_sha256=_sha256(place if place.endswith(".py") else f"{place.replace('.', '/')}.py"),
        weights_sha256=f"{content}#{part}" if content and part else content,
        evaluate_sha256=_sha256(settings.evaluate and settings.evaluate.rpartition(":")[0]),
    )


def _sha256(file: str | None) -> str | None:
    """The hash of a file that the user names, so that a change of its content counts as another setting."""
    if file is None or not Path(file).is_file():
        return None
    with open(file, "rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def plan_of(given: Given, formats: tuple[str, ...] = ("pte",)) -> PlanSettings:
    """The goal of the plan. InputError for settings that exclude each other, PlanError for what is no limit."""
    choice = choice_of(given)
    for quantity in UNITS:
        limit = choice.get(f"plan.max_{quantity}")
        if limit is not None:
            parse_limit(quantity, str(limit))
    rules = [*LIMITS, "plan.methods", *(["plan.rank_rule"] if given.values.get("plan.rank_rule") != "budget" else [])]
    chosen = next((name for name in rules if given.values.get(name)), None)
    replays, ranks = given.values.get("plan.plan"), given.values.get("plan.ranks")
    for value, does in ((replays, "--plan replays ranks that are chosen already"), (ranks, "--ranks chooses them")):
        if value is not None and chosen is not None:
            raise InputError(f"{does}; leave out {' '.join(SETTINGS[chosen].words(given.values[chosen]))}")
    if replays is not None and ranks is not None:
        raise InputError("--plan replays ranks that are chosen already; leave out --ranks")
    aside: dict[str, object] = {}
    if choice.get("plan.plan") is not None or choice.get("plan.ranks"):  # the recipe has no say in rules and methods
        aside = {"rank_rule": given.values.get("plan.rank_rule", "budget"), "methods": ()}
    elif "plan.rank_rule" in given.values and not given.values.get("plan.methods"):
        aside = {"methods": ()}
    name = given.values.get("plan.latency_format", choice.recipe.get("plan.latency_format"))
    settings = choice.section(PlanSettings, **aside, latency_format=latency_format(name, formats), recipe=choice.name)
    return replace(settings, plan_sha256=_sha256(settings.plan))


def latency_format(name: object, formats: tuple[str, ...]) -> str:
    """The format whose runtime layers are timed in: the one that is set, else the first exported that runs here."""
    if name is None:
        return next((each for each in formats if FORMATS[each].runs_here), "pte")
    if not find_format(str(name)).runs_here:
        here = ", ".join(each for each, kind in FORMATS.items() if kind.runs_here)
        raise InputError(
            f"plan.latency_format={name}: {FORMATS[str(name)].runtime} does not run here; pass one of {here}"
        )
    return str(name)


def tune_of(given: Given) -> TuneSettings:
    """The fine-tuning. InputError for a schedule that there is none of, for a scale beside what it would scale, and for
    images without labels where nothing is learned from them."""
    choice = choice_of(given)
    schedule = str(choice.get("fine_tune.schedule"))
    if schedule not in SCHEDULE_NAMES:
        raise InputError(f"there is no schedule {schedule!r}: {nearest(schedule, SCHEDULE_NAMES)}")
    derived = _epochs_of(choice)
    if choice.get("fine_tune.unlabelled") is not None:
        if choice.get("fine_tune.distill") is False:
            raise InputError(
                "fine_tune.unlabelled: images without labels teach nothing without the original network's logits; "
                "pass --set fine_tune.distill=true too"
            )
        derived["distill"] = True
    return choice.section(TuneSettings, **derived, recipe=choice.name)


def _epochs_of(choice: Choice) -> dict[str, object]:
    """Epochs of each step, of all steps together, and between two falls of the rate: as given, or the recipe's times
    fine_tune.epochs_scale."""
    names = ("fine_tune.epochs", "fine_tune.total_epochs", "fine_tune.rate_step")
    given = [name for name in names if choice.given.get(name) is not None]
    if set(names[:2]) <= set(given):
        raise InputError("--epochs is for each step and fine_tune.total_epochs for all together; pass one of the two")
    settings, scale = choice.section(TuneSettings), choice.get("fine_tune.epochs_scale")
    if scale is None:
        return {"total_epochs": None} if names[0] in given else {}
    if given:
        option = SETTINGS[given[0]].option or given[0]
        raise InputError(f"fine_tune.epochs_scale scales the recipe's epochs, and {option} sets them; pass one of them")
    factor = float(str(scale))
    epochs = max(1, round(factor * settings.epochs))
    return {
        "epochs": epochs,
        "total_epochs": None if settings.total_epochs is None else factor * settings.total_epochs,
        "rate_step": settings.rate_step * epochs / settings.epochs,
    }


def tune_again_of(given: Given, stored: RunSettings) -> TuneSettings:
    """The fine-tuning of a run: what is not given is as in its last tuning, else as the recipe of its plan says."""
    before = stored.tune
    recipe = before.recipe if before is not None else stored.plan.recipe if stored.plan is not None else None
    settings = tune_of(Given(given.values, given.recipe or recipe))
    if before is None or given.recipe is not None or "fine_tune.epochs_scale" in given.values:
        return settings
    names = {name.partition(".")[2] for name in given.values}
    changed = names | {other for name, other in INSTEAD.items() if name in names}
    return replace(before, **{name: getattr(settings, name) for name in changed})


def share_of(given: Given) -> ShareSettings:
    """The weight sharing. PlanError for a text that means none; InputError for layers to share, and no way to."""
    settings = choice_of(given).section(ShareSettings)
    if settings.share is None and settings.share_layers:
        raise InputError("share.share_layers names layers to share, and --share says how; pass it too, such as 4x256")
    if settings.share is not None:
        from compressor.weight_sharing.product_quantization import Sharing  # imports torch

        Sharing.parse(settings.share)
    return settings


def export_of(given: Given) -> ExportSettings:
    """The number type of the files, and the images that they are calibrated and judged on."""
    return choice_of(given).section(ExportSettings)


def export_again_of(given: Given, stored: RunSettings) -> ExportSettings:
    """The settings of a run's files: what is not given is as it was when they were exported last."""
    before, settings = stored.export, export_of(given)
    if before is None:
        return settings
    return replace(
        before, **{name.partition(".")[2]: getattr(settings, name.partition(".")[2]) for name in given.values}
    )


def bench_of(given: Given) -> BenchSettings:
    """The device, and how to measure. BenchError for a device that there is none of, or settings that do not go with
    it."""
    settings = choice_of(given).section(BenchSettings)
    if settings.device is not None:
        find(settings.device, settings.serial, settings.inside)
    return settings


def formats_of(target: str | None, formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats of the target or by name, Android's if neither is given. InputError for both at once."""
    if target is not None and formats:
        raise InputError("--target and --format name the same thing; pass one of them")
    for name in formats:
        find_format(name)
    return formats or find_target(target or "android")


def run_path(network: str, name: str | None, runs: str, target: str | None = None) -> Path:
    """The run directory: --name, or the network's name (and the target's) with nothing that a path would misread."""
    own = "-".join(filter(None, (network, target)))
    if name is not None and (Path(name).name != name or name in ("", ".", "..")):
        raise InputError(f"--name {name!r} is not the name of one folder; --runs says where it lies")
    return Path(runs) / (name or "".join(c if c.isalnum() or c in "-_." else "-" for c in own).strip(".-"))
