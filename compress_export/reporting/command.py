"""The commands that reproduce a run, from its settings.json, and that measure its files again."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.devices import name_of
from bench.measurement import Device, Measurement, Row, Schedule, Simulated
from compress_export.settings import (
    DEFAULT_RECIPE,
    SETTINGS,
    PlanSettings,
    Section,
    ShareSettings,
    SourceSettings,
    TuneSettings,
    recipe_values,
)
from compressor.planning.recipes import RECIPES
from exporters.formats import TARGETS

DEFAULTS: dict[str, Section] = {
    "source": SourceSettings(""),
    "plan": PlanSettings(),
    "tune": TuneSettings(),
    "share": ShareSettings(),
}
"""The sections of settings.json."""

SETTINGS_JSON = {"source": "source", "plan": "plan", "fine_tune": "tune", "share": "share"}
"""Sections of the settings, and their keys in settings.json."""


def command(settings: Mapping[str, Any], formats: Iterable[str], rows: Sequence[Row], name: str) -> str:
    """`compress-export NETWORK ...` with every option that differs from its default; `name` is the run's folder.

    The device of the newest of the `rows` is named, for what a run takes by itself depends on what is connected.
    """
    words = ["compress-export", str(settings["source"]["network"])]
    plan = settings.get("plan", {})
    recipe = plan.get("recipe", DEFAULT_RECIPE)
    if recipe != DEFAULT_RECIPE:
        words += ["--recipe", recipe]
    defaults = recipe_values(RECIPES[recipe])
    if plan.get("plan") or plan.get("ranks"):  # in which case the recipe has no say in rules and methods
        defaults = {name: value for name, value in defaults.items() if name not in ("plan.rank_rule", "plan.methods")}
    for setting in SETTINGS.values():
        section, _, field = setting.name.partition(".")
        stored = settings.get(SETTINGS_JSON.get(section, ""), {})
        value = stored.get(field)
        value = tuple(value) if isinstance(value, list) else value
        if field in stored and value != defaults.get(setting.name, setting.default):
            words += setting.words(value)
    device = _device(rows[-1].device) if rows else ()
    for option in (*device, *_bench(rows), *_formats(tuple(formats)), ("--name", name)):
        words += option
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


def _bench(rows: Iterable[Row]) -> Iterator[tuple[str, str]]:
    schedules = [row.schedule for row in rows if isinstance(row, Measurement)]
    if schedules and schedules[-1].threads != Schedule.threads:
        yield "--threads", str(schedules[-1].threads)
    if schedules and schedules[-1].cluster is not None:
        yield "--cores", schedules[-1].cluster
    if schedules and schedules[-1].cap_seconds != Schedule.cap_seconds:
        yield SETTINGS["bench.cap"].words(f"{schedules[-1].cap_seconds:g}")


def _formats(formats: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    if not formats:
        return
    target = next((name for name, own in TARGETS.items() if set(own) == set(formats)), None)
    yield ("--target", target) if target else ("--format", ",".join(formats))
