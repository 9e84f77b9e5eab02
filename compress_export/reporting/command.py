"""The commands that make a run again, from what its settings.json holds, and that measure its files again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

from bench.devices import name_of
from bench.measurement import Device, Measurement, Row, Schedule, Simulated
from compress_export.settings import DEFAULT_RECIPE, PlanSettings, Section, ShareSettings, SourceSettings, TuneSettings
from compressor.planning.recipes import RECIPES, Recipe
from exporters.formats import TARGETS

SECTIONS: dict[str, type[Section]] = {
    "source": SourceSettings,
    "plan": PlanSettings,
    "tune": TuneSettings,
    "share": ShareSettings,
}


def command(settings: Mapping[str, Any], formats: Iterable[str], rows: Sequence[Row], name: str) -> str:
    """`compress-export NETWORK ...` with every option that differs from its default; `name` is the run's folder.

    The device of the newest of the `rows` is named, for what a run takes by itself depends on what is connected.
    """
    words = ["compress-export", str(settings["source"]["network"])]
    recipe = RECIPES[settings.get("plan", {}).get("recipe", DEFAULT_RECIPE)]
    given: dict[str, str] = {}
    for section, kind in SECTIONS.items():
        for option, text in _options(section, kind, settings.get(section, {}), recipe):
            given.setdefault(option, text)
    place = _place(rows[-1].device) if rows else ()
    for option, text in (*given.items(), *place, *_bench(rows), *_formats(tuple(formats)), ("--name", name)):
        words += [option, text] if text else [option]
    return shlex.join(words)


def bench_command(path: Path, device: Device | None, rows: Sequence[Row]) -> str:
    """`compress-export bench RUN` that times the files as `rows` were: on `device`, with their threads and their cap.

    The device is named because `bench` without one takes the simulated CPU where it can, and that tells no times.
    """
    words = ["compress-export", "bench", str(path)]
    if device is not None and device.kind != "simulated":
        place = tuple(_place(device))
    else:
        place = (("--device", "host"),) if any(isinstance(row, Simulated) for row in rows) else ()
    for option in (*place, *_bench(rows)):
        words += option
    return shlex.join(words)


def _place(device: Device) -> Iterator[tuple[str, str]]:
    yield "--device", name_of(device)
    if device.process not in ("", "shell"):
        yield "--in", device.process


def _options(section: str, kind: type[Section], stored: Mapping[str, Any], recipe: Recipe) -> Iterator[tuple[str, str]]:
    """What differs from what the recipe says, and where it says nothing, from the field's default."""
    chosen = stored.get("plan") or stored.get("ranks")  # in which case the recipe has no say in rules and methods
    for field in fields(kind):
        default = field.default_factory() if field.default_factory is not MISSING else field.default
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
