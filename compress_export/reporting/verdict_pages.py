"""Verdicts on budgets as JSON, as Markdown (a job's summary, a comment), and as marks on a pull request's lines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bench.budgets.growth import MEASURES, Part, layers_of
from bench.budgets.limits import QUANTITIES
from bench.budgets.subjects import Subject
from bench.budgets.verdicts import OUTCOMES, Outcome, Verdict
from bench.budgets.wording import cells, remark
from bench.inside.contents import duplicates
from compress_export.reporting.markdown import escape, table
from compress_export.reporting.verdicts import LARGEST, Verdicts, inside, layers, title

VERSION = 1
"""Of the JSON; raised when a key changes its meaning or goes. docs/check.md describes it."""

MARKS: dict[Outcome, str] = {"passed": "✅", "failed": "❌", "not measured": "❔", "new file": "🆕"}


def as_json(found: Verdicts) -> str:
    """The verdicts as one JSON object, ending with a line end."""
    checked = found.checked
    value = {
        "version": VERSION,
        "budgets": str(checked.budgets.path),
        "base": found.base,
        "strict": found.strict,
        "holds": found.holds,
        "counts": {outcome.replace(" ", "_"): checked.count(outcome) for outcome in OUTCOMES},
        "verdicts": [_verdict(verdict) for verdict in checked.verdicts],
        "files": [_file(subject, base) for subject, base in found.opened],
    }
    return json.dumps(value, indent=2) + "\n"


def _verdict(verdict: Verdict) -> dict[str, Any]:
    limit = verdict.limit
    return {
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
        "unsteady": list(verdict.unsteady),
        "parts_of": None if limit is None or not verdict.parts else MEASURES[limit.quantity],
        "parts": [_part(part) for part in verdict.parts],
    }


def _part(part: Part) -> dict[str, Any]:
    return {
        "name": part.name,
        "now": part.now,
        "before": part.before,
        "shapes": part.shapes,
        "shapes_before": part.shapes_before,
    }


def _file(subject: Subject, base: Subject | None) -> dict[str, Any]:
    contents = subject.contents
    row = {"name": subject.name, "bytes": subject.measured[0], "sha256": subject.measured[1]}
    if contents is None:
        return row
    return {
        **row,
        "other_bytes": contents.other_bytes,
        "types": contents.dtypes,
        "operators": dict(contents.operators),
        "layers": [_part(part) for part in layers(subject, base)],
        "weights": [
            {"name": weight.name, "layer": layer, "type": weight.dtype, "shape": weight.shape, "bytes": weight.bytes}
            for weight, layer in zip(contents.weights, layers_of(subject), strict=True)
        ],
        "duplicates": [[weight.name for weight in group] for group in duplicates(contents)],
    }


def markdown(found: Verdicts) -> str:
    """The verdicts as a page, the failures first, ending with a line end. Of each file's layers the largest are listed:
    a comment on GitHub ends at 65,536 characters."""
    file = found.checked.budgets.path.name
    mark = "✅" if found.holds else "❌"
    blocks = [f"### {mark} Budgets: {escape(found.closing)}"]
    failed = [verdict for verdict in found.checked.verdicts if verdict.outcome == "failed"]
    blocks += [_failure(verdict, file) for verdict in failed]
    rows = [
        (
            f"{MARKS[verdict.outcome]} {verdict.outcome}",
            escape(verdict.subject),
            title(verdict),
            *map(escape, cells(verdict)),
        )
        for verdict in found.checked.verdicts
    ]
    blocks.append(table(("verdict", "file", "", "now", "limit"), rows))
    if found.reasons:
        blocks.append("\n".join(f"- {escape(reason)}" for reason in found.reasons))
    blocks += [_inside(subject, base) for subject, base in found.opened]
    return "\n\n".join(blocks) + "\n"


def _failure(verdict: Verdict, file: str) -> str:
    return f"**{escape(verdict.subject)}**, {title(verdict)}: {escape(remark(verdict, file))}"


def _inside(subject: Subject, base: Subject | None) -> str:
    head = f"<details><summary>Inside {escape(subject.name)}</summary>"
    lines = "\n".join(f"- {escape(line)}" for line in inside(subject))
    parts = [
        (escape(part.name), f"{part.now:,.0f}", "" if part.before is None else f"{part.growth:+,.0f}")
        for part in layers(subject, base)[:LARGEST]
    ]
    return "\n\n".join([head, lines, *([table(("layer", "bytes", "change"), parts)] if parts else []), "</details>"])


def marks(found: Verdicts) -> Iterator[str]:
    """GitHub's workflow commands that mark the line of budgets.toml which failed."""
    file = found.checked.budgets.path.as_posix()
    for verdict in found.checked.verdicts:
        if verdict.outcome == "failed" or (verdict.outcome == "not measured" and found.strict):
            said = f"{verdict.subject}, {title(verdict)}: {remark(verdict, found.checked.budgets.path.name)}"
            yield f"::error file={_property(file)},line={verdict.line}::{_data(said)}"


def _data(text: str) -> str:
    """Text as a workflow command carries it: these three characters end or split it otherwise."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")
