"""Commands that a report names: the one that makes its run, and the one that measures its files again."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path

from bench.devices import name_of
from bench.measurement import Device, Measurement, Row, Schedule, Simulated
from compress_export.run_directory import RunSettings
from compress_export.settings import DEFAULT_RECIPE, SETTINGS, PlanSettings, recipe_values
from compressor.planning.recipes import RECIPES
from exporters.formats import TARGETS


def command(settings: RunSettings, formats: Collection[str], rows: Sequence[Row], name: str) -> str:
    """`compress-export NETWORK ...` with every option that differs from its default; `name` is the run's folder.

    The device of the newest of the `rows` is named, for what a run takes by itself depends on what is connected.
    """
    assert settings.source is not None
    words, plan, written = ["compress-export", settings.source.network], settings.plan or PlanSettings(), set(formats)
    if plan.recipe != DEFAULT_RECIPE:
        words += ["--recipe", plan.recipe]
    defaults = recipe_values(RECIPES[plan.recipe])
    if plan.plan or plan.ranks:  # in which case the recipe has no say in rules and methods
        defaults = {name: value for name, value in defaults.items() if name not in ("plan.rank_rule", "plan.methods")}
    sections = {
        "source": settings.source,
        "plan": plan,
        "fine_tune": settings.tune,
        "share": settings.share,
        "export": settings.export,
    }
    for setting in SETTINGS.values():
        section, _, field = setting.name.partition(".")
        stored = sections.get(section)
        if hasattr(stored, field) and getattr(stored, field) != defaults.get(setting.name, setting.default):
            words += setting.words(getattr(stored, field))
    for option in (*(_device(rows[-1].device) if rows else ()), *_bench(rows)):
        words += ("--set", f"bench.cores={option[1]}") if option[0] == "--cores" else option
    if written:
        target = next((target for target, own in TARGETS.items() if set(own) == written), None)
        words += ("--target", target) if target else ("--format", ",".join(dict.fromkeys(formats)))
    return shlex.join([*words, "--name", name])


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
