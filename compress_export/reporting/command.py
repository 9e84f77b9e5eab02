"""The commands that reproduce a run, from its settings.json, and that measure its files again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from bench.devices import name_of
from bench.measurement import Device, Measurement, Row, Schedule, Simulated
from compress_export.settings import DEFAULT_RECIPE, PlanSettings, Section, ShareSettings, SourceSettings, TuneSettings
from compressor.planning.recipes import RECIPES, Recipe
from exporters.formats import TARGETS

DEFAULTS: dict[str, Section] = {
    "source": SourceSettings(""),
    "plan": PlanSettings(),
    "tune": TuneSettings(),
    "share": ShareSettings(),
}
"""The sections of settings.json."""


def command(settings: Mapping[str, Any], formats: Iterable[str], rows: Sequence[Row], name: str) -> str:
    """`compress-export NETWORK ...` with every option that differs from its default; `name` is the run's folder.

    The device of the newest of the `rows` is named, for what a run takes by itself depends on what is connected.
    """
    words = ["compress-export", str(settings["source"]["network"])]
    recipe = RECIPES[settings.get("plan", {}).get("recipe", DEFAULT_RECIPE)]
    given: dict[str, str] = {}
    for section in DEFAULTS:
        for option, text in _options(section, settings.get(section, {}), recipe):
            given.setdefault(option, text)
    device = _device(rows[-1].device) if rows else ()
    for option, text in (*given.items(), *device, *_bench(rows), *_formats(tuple(formats)), ("--name", name)):
        words += [option, text] if text else [option]
    return shlex.join(words)


def bench_command(path: Path, device: Device | None, rows: Sequence[Row]) -> str:
    """`compress-export bench RUN` that times the files as `rows` were: on `device`, with their threads and their cap.

    The device is named because `bench` without one takes the simulated CPU where it can, which measures no times.
    """
    words = ["compress-export", "bench", str(path)]
    if device is not None and device.kind != "simulated":
        options = tuple(_device(device))
    else:
        options = (("--device", "host"),) if any(isinstance(row, Simulated) for row in rows) else ()
    for option in (*options, *_bench(rows)):
        words += option
    return shlex.join(words)


def _device(device: Device) -> Iterator[tuple[str, str]]:
    yield "--device", name_of(device)
    if device.process not in ("", "shell"):
        yield "--in", device.process


def _options(section: str, stored: Mapping[str, Any], recipe: Recipe) -> Iterator[tuple[str, str]]:
    """(option, text) of each field that differs from the recipe, and where that says nothing, from its default."""
    chosen = stored.get("plan") or stored.get("ranks")  # in which case the recipe has no say in rules and methods
    for field in fields(DEFAULTS[section]):
        default = getattr(DEFAULTS[section], field.name)
        if section != "source" and not (chosen and field.name in ("rank_rule", "methods")):
            default = getattr(recipe, field.name, default)
        if section == "tune" and field.name == "rate" and recipe.paces:
            default = None
        value = stored.get(field.name, default)
        value = tuple(value) if isinstance(value, list) else value
        silent = field.name == "network" or field.name.endswith("sha256") or value is None
        if field.name == "methods" and not value and default:
            yield "--rank-rule", stored["rank_rule"]  # named beside a recipe, it puts the recipe's methods aside
        elif not silent and value != default:
            option = field.name.replace("_", "-")
            yield (f"--{option}" if value is not False else f"--no-{option}"), _text(field.name, value)


def _text(name: str, value: Any) -> str:
    """A value as the command line takes it; nothing for a flag."""
    if isinstance(value, bool):
        return ""
    if isinstance(value, Mapping):
        return ",".join(f"{layer}={rank}" for layer, rank in value.items())
    if isinstance(value, tuple):
        return ("x" if name == "input" else ",").join(map(str, value))
    return str(value)


def _bench(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    schedules = [row.schedule for row in rows if isinstance(row, Measurement)]
    if schedules and schedules[-1].threads != Schedule.threads:
        yield "--threads", str(schedules[-1].threads)
    if schedules and schedules[-1].cluster is not None:
        yield "--cores", schedules[-1].cluster
    if schedules and schedules[-1].cap_seconds != Schedule.cap_seconds:
        yield "--cap", f"{schedules[-1].cap_seconds:g}"


def _formats(formats: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if not formats:
        return
    target = next((name for name, own in TARGETS.items() if set(own) == set(formats)), None)
    yield ("--target", target) if target else ("--format", ",".join(formats))
