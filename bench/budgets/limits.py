"""budgets.toml -> Budget and Limit, frozen values that know the line they stand in. Every error names file and line."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from bench.file_contents.contents import NUMBER_TYPES
from bench.measurement import PROCESSES, BenchError

Unit = Literal["bytes", "count", "ms", "percent", "number"]
LimitKind = Literal["absolute", "growth", "ratio"]

UNITS: dict[Unit, dict[str, float]] = {
    "bytes": {"B": 1, "kB": 1e3, "MB": 1e6, "GB": 1e9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30},
    "count": {"": 1, "k": 1e3, "M": 1e6, "G": 1e9},
    "ms": {"us": 1e-3, "ms": 1, "s": 1e3},
    "percent": {"%": 1},
    "number": {"": 1, "%": 1},
}
EXAMPLES: dict[Unit, str] = {
    "bytes": '"8 MB"', "count": '"8.7M"', "ms": '"12.5 ms"', "percent": '"97 %"', "number": '"0.95"',
}  # fmt: skip
GROWTHS: dict[Unit, str] = {
    "bytes": '"+2 %", "+2 % or 4 kB"', "count": '"+2 %"', "ms": '"+10 %"', "percent": '"-0.5 points"',
    "number": '"-0.5 points"',
}  # fmt: skip


class BudgetError(BenchError):
    """A budgets.toml that cannot be followed; the text names the file, the line, the key, and what is allowed."""


@dataclass(frozen=True)
class Quantity:
    """A figure that a budget may limit. `more`: more is better, so the limit is a least. `network`: it belongs to the
    network (once for a run), not to each file; `own`: each file may have its own beside it. `timed`: it needs a device.
    `ratio`: the original's may be the measure."""

    title: str
    unit: Unit
    more: bool = False
    network: bool = False
    own: bool = False
    timed: bool = False
    ratio: bool = True


QUANTITIES: dict[str, Quantity] = {
    "size": Quantity("size", "bytes"),
    "shipped": Quantity("size, deflated", "bytes"),
    "parameters": Quantity("parameters", "count", network=True),
    "macs": Quantity("MACs", "count", network=True),
    "instructions": Quantity("instructions", "count"),
    "latency": Quantity("latency, p50", "ms", timed=True),
    "memory": Quantity("peak memory", "bytes", timed=True),
    "accuracy": Quantity("top-1 accuracy", "percent", more=True, network=True, own=True),
    "agreement": Quantity("top-1 agreement", "percent", more=True, ratio=False),
    "metric": Quantity("the run's metric", "number", more=True, network=True),
}

KEYS = ("files", "run", "dtype", "device", "process", *QUANTITIES)


@dataclass(frozen=True)
class Limit:
    """One limit of one quantity, as `text` says it in line `line`.

    "absolute": at most (`more` is better: at least) `amount`. "growth": `amount` more than the base, which is a
    fraction of it (0.02) if `share`, and never less than `floor`. "ratio": `amount` times the original's figure.
    """

    quantity: str
    text: str
    line: int
    kind: LimitKind
    amount: float
    share: bool = False
    floor: float = 0.0


@dataclass(frozen=True)
class Where:
    """Device (a name, or a kind) on which times hold, and on a phone the process, the shell where none is named. None
    where the budget names none."""

    device: str | None = None
    process: str | None = None


@dataclass(frozen=True)
class Budget:
    """The limits of the files that `pattern` names: a run's compressed files (`is_run`), or a glob of files; of the
    number type `dtype` where one is named."""

    pattern: str
    is_run: bool
    where: Where
    limits: tuple[Limit, ...]
    line: int
    dtype: str | None = None


@dataclass(frozen=True)
class Budgets:
    """All budgets of one file; patterns are relative to its folder."""

    path: Path
    budgets: tuple[Budget, ...]

    @property
    def root(self) -> Path:
        return self.path.parent


def read_budgets(path: Path) -> Budgets:
    """The budgets of a budgets.toml. BudgetError names the line and the cure."""
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BudgetError(
            f"{path}: there is no such file; `compress-export check --init RUN` writes one from a run"
        ) from None
    except OSError as error:
        raise BudgetError(
            f"{path} cannot be read ({error.strerror}); pass a file that can be with --budgets FILE"
        ) from error
    except UnicodeDecodeError as error:
        raise BudgetError(f"{path} is no text ({error.reason} at byte {error.start}); TOML is UTF-8") from error
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise BudgetError(f"{path} is no TOML: {error}") from error
    return Budgets(path, _Lines(path, text).budgets(table))


@dataclass(frozen=True)
class _Lines:
    """A file's text, to find the line that a key stands in: TOML's reader does not tell."""

    path: Path
    text: str

    def budgets(self, table: Mapping[str, Any]) -> tuple[Budget, ...]:
        for key in table:
            if key != "budget":
                raise self.error(self.line(None, key), _unknown("key", key, ("budget",)))
        rows = table.get("budget", [])
        if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
            raise self.error(1, "it has no [[budget]]; each [[budget]] limits the files of one run or glob")
        return tuple(self.budget(index, row) for index, row in enumerate(rows))

    def budget(self, index: int, row: Mapping[str, Any]) -> Budget:
        for key in row:
            if key not in KEYS:
                raise self.error(self.line(index, key), _unknown("key", key, KEYS))
        head = self.line(index, None)
        named = [key for key in ("files", "run") if key in row]
        if len(named) != 1:
            raise self.error(head, 'a budget has either run = "runs/NAME" or files = "GLOB", and one of them')
        device, process, dtype = row.get("device"), row.get("process"), row.get("dtype")
        for key in (*named, *(key for key in ("dtype", "device", "process") if key in row)):
            if not isinstance(row[key], str) or not row[key].strip():
                raise self.error(self.line(index, key), f"{key} is a text, not {row[key]!r}")
        if dtype is not None and dtype not in NUMBER_TYPES:
            raise self.error(self.line(index, "dtype"), _unknown("number type", dtype, NUMBER_TYPES))
        if process is not None:
            line = self.line(index, "process")
            if process not in PROCESSES:
                law = f"a phone runs files inside {', '.join(PROCESSES)}"
                raise self.error(line, f"{law}, not inside {process!r}; name one of these")
            if device is None or device == "host" or device.startswith("simulated"):
                law = f"process = {process!r} tells rows of a phone apart, and the device is {device or 'not named'}"
                raise self.error(line, f'{law}; add device = "phone" or a phone\'s name, or take process out')
        limits: list[Limit] = []
        for key in (key for key in QUANTITIES if key in row):
            line, texts = self.line(index, key), row[key]
            try:
                limits += (parse_limit(key, text, line) for text in (texts if isinstance(texts, list) else [texts]))
            except BudgetError as error:
                raise self.error(line, str(error)) from error
        if not limits:
            raise self.error(head, f"it limits nothing; add one or more of {', '.join(QUANTITIES)}")
        for limit in limits:
            if QUANTITIES[limit.quantity].timed and device is None:
                law = f"{limit.quantity} is measured on a device, and none is named"
                raise self.error(limit.line, f'{law}; add device = "host", or the name of a phone')
        return Budget(row[named[0]], named[0] == "run", Where(device, process), tuple(limits), head, dtype)

    def error(self, line: int, text: str) -> BudgetError:
        return BudgetError(f"{self.path}, line {line}: {text}")

    def line(self, index: int | None, key: str | None) -> int:
        """The line of `key` in the [[budget]] number `index`; that of the table's head where neither is found."""
        lines = self.text.splitlines()
        heads = [number for number, line in enumerate(lines, 1) if re.match(r"\s*\[\[?\s*[\"']?budget", line)]
        first = heads[index] if index is not None and index < len(heads) else 1
        last = heads[index + 1] if index is not None and index + 1 < len(heads) else len(lines) + 1
        if key is not None:
            own = re.compile(rf"\s*\[*\s*([\"']?){re.escape(key)}\1\s*[=.\]]")
            first = next((n for n in range(first, last) if own.match(lines[n - 1])), first)
        return first


def parse_limit(key: str, value: Any, line: int = 0) -> Limit:
    """The limit that a value of budgets.toml means: "8 MB", "+2 %", "+2 % or 4 kB", "0.2x". BudgetError otherwise."""
    quantity = QUANTITIES[key]
    text = value if isinstance(value, str) else ""
    if match := re.fullmatch(rf"\s*({NUMBER})\s*x\s*", text):
        if not quantity.ratio:
            raise BudgetError(f"{key} = {value!r}: it is compared with the module already; {_law(key)}")
        return Limit(key, text, line, "ratio", _positive(key, value, match[1]))
    if re.match(r"\s*[+-]", text):
        return _growth(key, text, line)
    return Limit(key, text, line, "absolute", _amount(key, value, text))


NUMBER = r"(?:[1-9]\d{0,2}(?:,\d{3})+|\d[\d_]*)(?:\.\d*)?(?:[eE][+-]?\d+)?"
"""A comma stands between thousands only: who writes "1,5" means 1.5, and it must not be read as 15."""


def _growth(key: str, text: str, line: int) -> Limit:
    quantity = QUANTITIES[key]
    step, _, floor = text.partition(" or ")
    sign, body = step.strip()[0], step.strip()[1:].strip()
    if (sign == "-") != quantity.more:
        worse = "a loss begins with -" if quantity.more else "growth begins with +"
        raise BudgetError(f"{key} = {text!r}: {worse}; {_law(key)}")
    if quantity.more:
        match = re.fullmatch(rf"({NUMBER})\s*points?", body)
        if not match or floor:
            raise _no_limit(key, text)
        return Limit(key, text, line, "growth", _number(match[1]))
    least = _amount(key, text, floor) if floor else 0.0
    if match := re.fullmatch(rf"({NUMBER})\s*%", body):
        return Limit(key, text, line, "growth", _number(match[1]) / 100, True, least)
    return Limit(key, text, line, "growth", _amount(key, text, body), False, least)


def _amount(key: str, value: Any, text: str) -> float:
    units = UNITS[QUANTITIES[key].unit]
    match = re.fullmatch(rf"\s*({NUMBER})\s*([^\d\s,]*)\s*", text)
    if not match:
        raise _no_limit(key, value)
    if match[2] not in units:
        known = tuple(unit for unit in units if unit)
        said = _unknown("unit", match[2], known) if match[2] else f"it has no unit (units: {', '.join(known)})"
        raise BudgetError(f"{key} = {value!r}: {said}; {_law(key)}")
    number = _positive(key, value, match[1])
    if QUANTITIES[key].unit == "percent" and number > 100:
        raise BudgetError(f"{key} = {value!r}: {key} is 100 % at most, so nothing passes; {_law(key)}")
    return number * units[match[2]]


def _positive(key: str, value: Any, text: str) -> float:
    number = _number(text)
    if number <= 0:
        raise BudgetError(f"{key} = {value!r}: a limit of 0 lets nothing pass; {_law(key)}")
    return number


def _number(text: str) -> float:
    return float(text.replace("_", "").replace(",", ""))


def _no_limit(key: str, value: Any) -> BudgetError:
    said = ": a comma stands between thousands (28,513,576), a point before a fraction (1.5)"
    return BudgetError(f"{key} = {value!r} is no limit{said if ',' in str(value) else ''}; {_law(key)}")


def _law(key: str) -> str:
    quantity = QUANTITIES[key]
    ratio = ', a ratio to the original such as "0.2x"' if quantity.ratio else ""
    unit = quantity.unit
    return f"{key} takes {EXAMPLES[unit]}{ratio}, or a change from the base such as {GROWTHS[unit]}, in quotes"


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    """A clause that gives the nearest real name, and all of them."""
    names = list(known)
    near = get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"there is no {kind} {name!r}{hint} ({kind}s: {', '.join(names)})"
