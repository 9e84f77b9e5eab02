"""Verdicts on budgets in the terminal: a table for each file, what failed and what grew, and what is inside."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.budgets.growth import MEASURES, Part, accounts, layers_of
from bench.budgets.limits import QUANTITIES
from bench.budgets.model_files import ModelFile
from bench.budgets.verdicts import (
    OUTCOMES,
    Checked,
    Outcome,
    Verdict,
    amount,
    cells,
    culprits,
    exact,
    part_text,
    remark,
)
from bench.file_contents.contents import duplicates
from bench.statistics import unsteady_clause
from compress_export.reporting.figures import Table as Rows
from compress_export.reporting.markdown import bullets, escape, table
from compress_export.reporting.terminal import print_table

VERSION = 1
"""Of the JSON; raised when a key changes its meaning or goes. docs/check.md describes it."""

STYLES: dict[Outcome, str] = {"passed": "green", "failed": "bold red", "not measured": "yellow", "new file": "cyan"}

HOLDS = "what disturbs a file makes it slower, so the limit holds"

LARGEST = 12
"""Layers that `--why` lists for a file; a line says how many are left out."""

MARKS: dict[Outcome, str] = {"passed": "✅", "failed": "❌", "not measured": "❔", "new file": "🆕"}


def as_json(found: Verdicts) -> str:
    """The verdicts as one JSON object, ending with a line end."""
    checked, verdicts, files = found.checked, [], []
    for verdict in checked.verdicts:
        limit = verdict.limit
        verdicts.append(
            {
                "outcome": verdict.outcome,
                "subject": verdict.subject,
                "line": verdict.line,
                "quantity": None if limit is None else limit.quantity,
                "unit": None if limit is None else QUANTITIES[limit.quantity].unit,
                "limit": None if limit is None else limit.text,
                "kind": None if limit is None else limit.kind,
                "value": verdict.value,
                "allowed": verdict.allowed,
                "reference": verdict.reference,
                "excess": verdict.excess,
                "reason": verdict.reason,
                "unsteady": verdict.unsteady,
                "interpreter": verdict.interpreter,
                "parts_of": None if limit is None or not verdict.parts else MEASURES[limit.quantity],
                "parts": verdict.parts,
            }
        )
    for file, base in found.opened:
        contents = file.contents
        row: dict[str, object] = {"name": file.name, "bytes": file.measured[0], "sha256": file.measured[1]}
        if contents is not None:
            weights = zip(contents.weights, layers_of(file), strict=True)
            row |= {
                "other_bytes": contents.other_bytes,
                "types": contents.dtypes,
                "operators": contents.operators,
                "layers": layers(file, base),
                "weights": [
                    {"name": own.name, "layer": layer, "type": own.dtype, "shape": own.shape, "bytes": own.bytes}
                    for own, layer in weights
                ],
                "duplicates": [[weight.name for weight in group] for group in duplicates(contents)],
            }
        files.append(row)
    value = {
        "version": VERSION,
        "budgets": str(checked.budgets.path),
        "base": found.base,
        "strict": found.strict,
        "holds": found.holds,
        "counts": {outcome.replace(" ", "_"): checked.count(outcome) for outcome in OUTCOMES},
        "verdicts": verdicts,
        "files": files,
    }
    return msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n"


def markdown(found: Verdicts) -> str:
    """The verdicts as a page, the failures first, ending with a line end. Of each file's layers the largest are listed:
    a comment on GitHub ends at 65,536 characters."""
    file = found.checked.budgets.path.name
    mark = "✅" if found.holds else "❌"
    blocks = [f"### {mark} Budgets: {escape(found.closing)}"]
    failed = [verdict for verdict in found.checked.verdicts if verdict.outcome == "failed"]
    blocks += [f"**{escape(each.subject)}**, {title(each)}: {escape(remark(each, file))}" for each in failed]
    rows = [
        (f"{MARKS[verdict.outcome]} {verdict.outcome}", verdict.subject, title(verdict), *cells(verdict))
        for verdict in found.checked.verdicts
    ]
    blocks.append(table(Rows(("verdict", "file", "", "now", "limit"), rows)))
    if found.reasons:
        blocks.append(bullets(found.reasons))
    for opened, base in found.opened:
        parts = [
            (part.name, f"{part.now:,.0f}", "" if part.before is None else f"{part.growth:+,.0f}")
            for part in layers(opened, base)[:LARGEST]
        ]
        blocks += [f"<details><summary>Inside {escape(opened.name)}</summary>", bullets(inside(opened))]
        blocks += [table(Rows(("layer", "bytes", "change"), parts))] if parts else []
        blocks.append("</details>")
    return "\n\n".join(blocks) + "\n"


def marks(found: Verdicts) -> Iterator[str]:
    """GitHub's workflow commands that mark the line of budgets.toml which failed."""
    file = _data(found.checked.budgets.path.as_posix()).replace(":", "%3A").replace(",", "%2C")
    for verdict in found.checked.verdicts:
        if verdict.outcome == "failed" or (verdict.outcome == "not measured" and found.strict):
            text = f"{verdict.subject}, {title(verdict)}: {remark(verdict, found.checked.budgets.path.name)}"
            yield f"::error file={file},line={verdict.line}::{_data(text)}"


def _data(text: str) -> str:
    """Text as a workflow command carries it: these three characters end or split it otherwise."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


@dataclass(frozen=True)
class Verdicts:
    """The verdicts, and how they are to be read: what the base was called, and whether unmeasured figures fail."""

    checked: Checked
    base: str | None
    strict: bool
    why: bool

    @property
    def holds(self) -> bool:
        return self.checked.holds(self.strict)

    @property
    def closing(self) -> str:
        """ "9 passed, 1 failed, 2 not measured, which fails under --strict: the budgets do not hold"."""
        counts = [f"{n} {outcome}" for outcome in OUTCOMES if (n := self.checked.count(outcome))]
        unmeasured = bool(self.checked.count("not measured"))
        fails = ", which fails under --strict" if unmeasured and self.strict else ""
        result = "the budgets hold" if self.holds else "the budgets do not hold"
        against = f", changes from {self.base}" if self.base else ""
        return f"{', '.join(counts)}{fails}{against}: {result}"

    @property
    def reasons(self) -> list[str]:
        """Reasons for figures that are missing, new or from unsteady times, each once with the lines that it
        concerns."""
        where: dict[str, list[int]] = defaultdict(list)
        for verdict in self.checked.verdicts:
            if verdict.outcome in ("not measured", "new file"):
                where[f"{verdict.outcome}: {verdict.reason}"].append(verdict.line)
            elif verdict.outcome == "passed" and verdict.unsteady:
                where[f"passed: {verdict.subject}: {unsteady_clause(verdict.unsteady)}; {HOLDS}"].append(verdict.line)
        file = self.checked.budgets.path.name
        return [f"{reason} ({file}:{','.join(map(str, sorted(set(own))))})" for reason, own in where.items()]

    @property
    def opened(self) -> Iterator[tuple[ModelFile, ModelFile | None]]:
        """The files whose inside is to be explained, with the base's."""
        if self.why:
            yield from (pair for pair in self.checked.files if pair[0].problem is None)


def title(verdict: Verdict) -> str:
    return "the file itself" if verdict.limit is None else QUANTITIES[verdict.limit.quantity].title


def show_verdicts(found: Verdicts, console: Console) -> None:
    """Prints every verdict, passed ones too, then what is inside the files where that was asked, then the sum."""
    file = found.checked.budgets.path.name
    for name, group in groupby(found.checked.verdicts, key=lambda verdict: verdict.subject):
        verdicts = list(group)
        console.print(Text(name, style="bold"), soft_wrap=True)
        shown = Table(box=SIMPLE_HEAD, pad_edge=True, show_edge=False)
        for head, width in (("verdict", 12), ("", 15), ("now", 12), ("limit", 25)):
            shown.add_column(head, justify="right" if head == "now" else "left", min_width=width)
        for verdict in verdicts:
            outcome = Text(verdict.outcome, style=STYLES[verdict.outcome])
            shown.add_row(outcome, title(verdict), *map(Text, cells(verdict)))
        console.print(shown)
        before = ("", "")
        for verdict in verdicts:
            if verdict.outcome == "failed":
                failed = title(verdict), culprits(verdict)
                # two limits of one quantity are failed for one reason
                text = remark(verdict, file, "" if failed == before else failed[1])
                console.print(Text(f"  {failed[0]}: {text}", style="red"), soft_wrap=True)
                before = failed
        console.print()
    for opened, base in found.opened:
        console.print(Text(f"Inside {opened.name}", style="bold"), soft_wrap=True)
        for line in inside(opened):
            console.print(Text(f"  {line}"), soft_wrap=True)
        parts = layers(opened, base)
        rows = [
            (
                part.name,
                f"{part.now:,.0f}",
                f"{100 * part.now / opened.measured[0]:.1f} %",
                "" if part.before is None else part_text(part, "bytes").removeprefix(part.name).strip(),
            )
            for part in parts[:LARGEST]
        ]
        if rows:
            columns = ("layer", "bytes", "fraction", "from the base")
            print_table(Rows(columns, rows), ("layer", "from the base"), console, light=True)
        if len(parts) > LARGEST:
            console.print(f"  and {len(parts) - LARGEST} smaller layers (--json has all)")
        console.print()
    for reason in found.reasons:
        console.print(Text(reason, style="yellow"), soft_wrap=True)
    console.print(Text(found.closing, style="green" if found.holds else "bold red"), soft_wrap=True)


def inside(file: ModelFile) -> list[str]:
    """Lines that say what a file holds: bytes, types, operators, and what it stores twice."""
    contents = file.contents
    if contents is None:
        return [f"{exact('bytes', file.measured[0])}; no reader knows this kind of file"]
    types = ", ".join(f"{amount('bytes', size)} {dtype}" for dtype, size in contents.dtypes.items()) or "none"
    graph = ", ".join(f"{count} {name}" for name, count in contents.operators.items()) or "none: it holds weights only"
    copies = duplicates(contents)
    lines = [
        f"{exact('bytes', contents.bytes)}: weights {types}; the rest {exact('bytes', contents.other_bytes)}",
        f"operators: {graph}",
    ]
    for group in copies:
        names = ", ".join(weight.title for weight in group)
        lines.append(f"stored {len(group)} times, {exact('bytes', group[0].bytes)} each: {names}")
    return lines if copies else [*lines, "nothing is stored twice"]


def layers(file: ModelFile, base: ModelFile | None) -> tuple[Part, ...]:
    """The file's bytes by layer, the largest first, each with the base's where there is one."""
    whole = accounts("size", file, None)
    grown = {part.name: part for part in (accounts("size", file, base) if base is not None else ())}
    return tuple(grown.get(part.name, part) for part in whole)
