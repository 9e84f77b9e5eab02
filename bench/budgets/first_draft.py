"""The first budgets.toml, drawn from what a run or a folder of files weighs today."""

from __future__ import annotations

import json
import math
from pathlib import Path

from bench.budgets.figures import FIGURES, Figure, Unmeasured
from bench.budgets.limits import QUANTITIES, BudgetError, Unit, Where
from bench.budgets.model_files import ModelFile, exported, of_file, of_run
from bench.budgets.verdicts import exact
from bench.file_contents.readers import READERS
from bench.measurement import process_said
from bench.run_files import RunFile, RunFiles
from bench.statistics import Statistics, summarize, unsteady

FILE_KEYS = ("size", "shipped", "agreement", "accuracy")
NETWORK_KEYS = ("parameters", "macs", "accuracy")
GROWTH = {"size": "+2 % or 4 kB", "shipped": "+2 % or 4 kB", "parameters": "+0 %", "macs": "+0 %"}
"""Growth that a pull request may add, beside the absolute limit."""

ROOM = 0.01
"""Fraction by which the absolute limit of what is counted lies above today's figure, before it is rounded up."""
POINTS = 0.5
"""Points by which the least accuracy lies below today's: a handful of images of a thousand."""
HEADROOM = 0.10
"""Fraction by which a limit on latency lies above the median at least: sessions on one machine differ by so much."""

HEAD = """\
# What the files may weigh and cost at most: `compress-export check` gives a verdict on every line.
# Absolute limits ("8 MB") hold always; changes ("+2 %") are from the base of `--base REF_OR_DIR`, a pull request's
# target; ratios ("0.2x") are to the original network. Times hold on one device only, so each is a comment: take the
# mark off `device` and `latency` where that device measures again.
"""


def draft(place: Path, root: Path) -> str:
    """A budgets.toml for the run or the folder at `place`, for a file in `root`. BudgetError if it holds no file."""
    place, root = place.absolute(), root.absolute()
    if not place.is_relative_to(root):
        raise BudgetError(f"{place} lies outside {root}, where budgets.toml is written; run it further up")
    own = place.relative_to(root).as_posix()
    if (place / RunFile.SETTINGS).is_file() or (place / RunFile.ARTIFACTS).is_file():
        subjects = list(of_run(place, root))
    else:
        paths = sorted(place.iterdir() if place.is_dir() and place.suffix != ".mlpackage" else [place])
        known_paths = (path for path in paths if path.suffix.removeprefix(".") in READERS)
        subjects = [of_file(path, path.relative_to(root).as_posix()) for path in known_paths]
    if not subjects:
        known = ", ".join(f".{name}" for name in READERS)
        raise BudgetError(f"{place} holds no run and no file to guard ({known})")
    if (place / RunFile.SETTINGS).is_file():
        # A budget of a run that has not come to its files would guard nothing.
        planned = (RunFile.COMPRESSED_SURVEY,) if (place / RunFile.PLAN).is_file() else ()
        missing = [name for name in (*planned, RunFile.ARTIFACTS) if not (place / name).is_file()]
        if missing or not RunFiles(place).artifacts:
            raise BudgetError(
                f"{own} is an unfinished run: it has no {' and no '.join(missing or ['exported file'])}; finish it "
                f"with the command that began it, or with `compress-export export {own} --target android`"
            )
    broken = [f"{subject.name}: {subject.problem}" for subject in subjects if subject.problem]
    if broken:
        raise BudgetError(f"a budget is drawn from whole files; {'; '.join(broken)}")
    made = f"# Drawn by `compress-export check --init {own}`.\n"
    return HEAD + made + "".join(f"\n{_table(subject)}" for subject in subjects)


def _table(subject: ModelFile) -> str:
    key = "run" if subject.is_run else "files"
    lines = [f'[[budget]]\n{key} = "{subject.name}"']
    for name in NETWORK_KEYS if subject.is_run else FILE_KEYS:
        value = _figure(name, subject)
        if isinstance(value, Unmeasured):
            lines.append(f"# no limit on {name}: {value.reason}")
        elif value > 0:
            unit = QUANTITIES[name].unit
            if QUANTITIES[name].more:
                limit = f'"{value if name == "agreement" else max(value - POINTS, 0.1):.4g} %"'
            else:
                limit = f'"{_rounded_up(unit, value)}"'
            both = f'[{limit}, "{GROWTH[name]}"]' if name in GROWTH else limit
            lines.append(f"{name} = {both}  # {exact(unit, value)}")
    if not subject.is_run:
        lines += _latency(subject)
    return "\n".join(lines) + "\n"


def _figure(name: str, subject: ModelFile) -> Figure:
    """The figure; of a run's accuracy the least of the network's and its files', for the limit is judged on all."""
    value, run = FIGURES[name](subject, Where()), subject.run
    if name != "accuracy" or isinstance(value, Unmeasured) or run is None or not subject.is_run:
        return value
    files = [run.accuracy_of(artifact) for artifact in exported(run)]
    return min([value, *(row.top1 for row in files if row is not None)])


def _latency(subject: ModelFile) -> list[str]:
    """Comments that limit the file's latency where it was measured last; or that say why there is no such limit."""
    row = None if subject.run is None else subject.run.newest(subject.network, subject.sha256)
    if row is None:
        return ["# no limit on latency: nobody measured this file; `compress-export bench` does"]
    reasons = [f"its times are invalid: {row.invalid}"] if row.invalid else unsteady(row)
    if reasons:
        return [f"# no limit on latency: {'; '.join(reasons)}; measure again, with nothing else running"]
    found, process = summarize(row), row.device.process
    return [
        f"# device = {json.dumps(row.device.name, ensure_ascii=False)}",
        *([f"# process = {json.dumps(process)}"] if process_said(process) else []),
        f'# latency = "{most_ms(found):g} ms"  # p50 {found.p50:.3g} ms, p90 {found.p90:.3g} ms',
    ]


def most_ms(found: Statistics) -> float:
    """The latency that a file measured so may have at most: its p90, or a tenth above its median where that is more,
    rounded up to two digits. Steady times have a p90 of 1.25 medians at most, so the limit stays as near."""
    wanted = max(found.p90, found.p50 * (1 + HEADROOM))
    step = 10.0 ** (math.floor(math.log10(wanted)) - 1)
    return step * math.ceil(round(wanted / step, 6))  # 10 ms and a tenth are 11.000000000000002, and 11 is meant


def _rounded_up(unit: Unit, value: float) -> str:
    """The value and a little room, in three digits and its natural unit: 28,513,576 -> "28.8 MB"."""
    steps = {"bytes": (("B", 1), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9)), "count": (("", 1), ("k", 1e3), ("M", 1e6))}
    wanted = value * (1 + ROOM)
    name, size = next((step for step in reversed(steps[unit]) if wanted >= step[1]), steps[unit][0])
    digits = max(0, 2 - math.floor(math.log10(wanted / size)))
    number = math.ceil(wanted / size * 10**digits) / 10**digits
    return f"{number:g}{' ' if unit == 'bytes' else ''}{name}"
