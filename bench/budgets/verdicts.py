"""Verdicts on the limits of a budgets.toml, and their text. Nothing here imports torch or runs a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from bench.budgets.figures import FIGURES, Figure, Unmeasured, interpreter_of, of_base, original, unsteady_times
from bench.budgets.growth import MEASURES, OTHER, Part, accounts
from bench.budgets.limits import QUANTITIES, Budget, Budgets, Limit, Unit
from bench.budgets.model_files import ModelFile, beside, exported, find
from bench.statistics import unsteady_clause

Outcome = Literal["passed", "failed", "not measured", "new file"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)
NAMED = 3
"""Layers that a failure names; `--why` gives all."""


@dataclass(frozen=True)
class Verdict:
    """Result of one limit for one file or run. `allowed` is the limit as a number, from the base's or the original's
    figure (`reference`) where it is relative. `limit` is None where the file itself is the fault. `parts` account for a
    failure; without a base to compare with they are the largest. `unsteady` says why the times that were judged are
    not to be trusted, `interpreter` what executed the file where its runtime did not."""

    outcome: Outcome
    subject: str
    line: int
    limit: Limit | None = None
    value: float | None = None
    allowed: float | None = None
    reference: float | None = None
    reason: str = ""
    parts: tuple[Part, ...] = ()
    unsteady: tuple[str, ...] = ()
    interpreter: str = ""

    @property
    def excess(self) -> float:
        """Amount by which the figure is beyond what is allowed, in its own unit; 0 where it is not."""
        if self.value is None or self.allowed is None or self.limit is None:
            return 0.0
        beyond = self.value - self.allowed
        return max(0.0, -beyond if QUANTITIES[self.limit.quantity].more else beyond)


@dataclass(frozen=True)
class Checked:
    """Every verdict, and the files that were looked at with the base's of each (None where it has none)."""

    budgets: Budgets
    verdicts: tuple[Verdict, ...]
    files: tuple[tuple[ModelFile, ModelFile | None], ...]

    def count(self, outcome: Outcome) -> int:
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    def holds(self, strict: bool) -> bool:
        """True if something was judged, nothing failed and, if strict, nothing that is limited was left unmeasured."""
        return bool(self.verdicts) and not self.count("failed") and not (strict and self.count("not measured"))


def check(budgets: Budgets, base: Path | None = None) -> Checked:
    """The verdicts on all budgets, in the order of the file; `base` is the folder that stands for the budgets' own.

    BudgetError, RunError or ContentError on what cannot be read.
    """
    verdicts: list[Verdict] = []
    files: dict[Path, tuple[ModelFile, ModelFile | None]] = {}
    for budget in budgets.budgets:
        subjects = find(budget, budgets)
        if not any(budget.dtype is None or not subject.is_run for subject in subjects):
            verdicts.append(Verdict("failed", budget.pattern, budget.line, reason=_guards_nothing(budget, budgets)))
        for subject in subjects:
            other = None if base is None else beside(subject, base)
            files.setdefault(subject.path, (subject, other))
            if subject.problem is not None:
                verdicts.append(Verdict("failed", subject.name, budget.line, reason=subject.problem))
                continue
            own = [limit for limit in budget.limits if _concerns(limit, budget, subject)]
            verdicts += [_judge(limit, budget, subject, other, base is not None) for limit in own]
            if subject.run is not None and subject.is_run and not exported(subject.run):
                said = (
                    f"the run has no exported files of its compressed network; `compress-export export {subject.name}`"
                )
                missing = [limit for limit in budget.limits if not QUANTITIES[limit.quantity].network]
                verdicts += [Verdict("not measured", subject.name, each.line, each, reason=said) for each in missing]
    return Checked(budgets, tuple(verdicts), tuple(pair for pair in files.values() if not pair[0].is_run))


def _guards_nothing(budget: Budget, budgets: Budgets) -> str:
    """The reason why a budget under which there is nothing fails."""
    found = find(replace(budget, dtype=None), budgets)
    if not found:
        return f"{budget.pattern} matches nothing: this budget guards nothing; make the files, or mend the path"
    types = ", ".join(sorted({each.dtype for each in found if not each.is_run} - {""}))
    return (
        f"{budget.pattern} has no file in {budget.dtype}{f' ({types} only)' if types else ''}: this budget guards "
        "nothing; make one (`compress-export export RUN --quantize int8` for int8), or take dtype out"
    )


def _concerns(limit: Limit, budget: Budget, subject: ModelFile) -> bool:
    """True if the limit is judged on that file or run. Of a run, the network's quantities are judged once and those of
    files on each; accuracy on the network and on each file that has its own, or, of a budget with a number type, on the
    files of that type alone: the network in PyTorch is none of them."""
    quantity = QUANTITIES[limit.quantity]
    if not budget.is_run:
        return True
    if quantity.own and budget.dtype is not None:
        return not subject.is_run
    return subject.is_run == quantity.network or (quantity.own and subject.accuracy is not None)


def _judge(limit: Limit, budget: Budget, subject: ModelFile, base: ModelFile | None, has_base: bool) -> Verdict:
    """The verdict on one limit.

    Times that are not steady are judged: whatever disturbs a file makes it slower, so a limit that is kept with them
    would be kept without, and one that is not says so. The same turns against a limit that is taken from such times,
    the original's or the base's: it is too lax, so a file that keeps it is not measured, and one beyond it failed.
    """
    value = FIGURES[limit.quantity](subject, budget.where)
    if isinstance(value, Unmeasured):
        return Verdict("not measured", subject.name, limit.line, limit, reason=value.reason)
    if limit.kind == "growth" and has_base and base is None:
        reason = "the base does not have this file, so nothing grew"
        return Verdict("new file", subject.name, limit.line, limit, value, reason=reason)
    reference: Figure | None = None
    if limit.kind == "ratio":
        reference = original(limit.quantity, subject, budget.where)
    elif limit.kind == "growth" and base is None:
        reference = Unmeasured("a change needs a base to compare with; pass --base")
    elif limit.kind == "growth" and base is not None:
        reference = of_base(limit.quantity, subject, base, budget.where)
    if isinstance(reference, Unmeasured):
        return Verdict("not measured", subject.name, limit.line, limit, value, reason=reference.reason)
    more_is_better = QUANTITIES[limit.quantity].more
    if reference is None:
        allowed = limit.amount
    elif limit.kind == "ratio":
        allowed = limit.amount * reference
    elif more_is_better:
        allowed = reference - limit.amount
    else:
        allowed = reference + max(limit.amount * reference if limit.share else limit.amount, limit.floor)
    # a sum of floats must not fail a file that is exactly at its limit
    slack = 1e-9 * abs(allowed)
    beyond = allowed - value > slack if more_is_better else value - allowed > slack
    shaky = unsteady_times(limit.quantity, subject, budget.where)
    interpreter = interpreter_of(limit.quantity, subject)
    judged = Verdict(
        "passed", subject.name, limit.line, limit, value, allowed, reference, unsteady=shaky, interpreter=interpreter
    )
    if beyond:
        return replace(judged, outcome="failed", parts=accounts(limit.quantity, subject, base))
    if limit.kind == "absolute":
        return judged
    whose, other = ("the original", subject.original) if limit.kind == "ratio" else ("the base", base)
    lax = unsteady_clause(unsteady_times(limit.quantity, other, budget.where))
    reason = f"the limit comes from {whose}, and {lax}"
    return replace(judged, outcome="not measured", allowed=None, reference=None, reason=reason) if lax else judged


def amount(unit: Unit, value: float) -> str:
    """A figure as people say it: "36.40 MB", "8.70M", "12.50 ms", "97.2 %"."""
    if unit == "bytes":
        return _scaled(value, {" GB": 1e9, " MB": 1e6, " kB": 1e3}) or f"{value:,.0f}{_bytes(value)}"
    if unit == "count":
        return _scaled(value, {"G": 1e9, "M": 1e6, "k": 1e3}) or f"{value:,.0f}"
    if unit == "number":
        return f"{value:.4g}"
    return f"{value:.2f} ms" if unit == "ms" else f"{value:.2f} %"


def _scaled(value: float, units: Mapping[str, float]) -> str:
    """The value in the largest unit that it fills; "" where it fills none."""
    return next((f"{value / size:.2f}{unit}" for unit, size in units.items() if value >= size), "")


def exact(unit: Unit, value: float) -> str:
    """The same figure with nothing rounded away: "36,401,152 bytes"."""
    if unit in ("bytes", "count"):
        return f"{value:,.0f}{_bytes(value) if unit == 'bytes' else ''}"
    return f"{value:.6g}{ {'ms': ' ms', 'percent': ' %'}.get(unit, '') }"


def _bytes(value: float) -> str:
    return " byte" if value == 1 else " bytes"


def contrast(unit: Unit, *values: float) -> list[str]:
    """The values as people say them, or exact if two that differ would look the same."""
    said = [amount(unit, value) for value in values]
    alike = any(a != b and said[i] == said[j] for i, a in enumerate(values) for j, b in enumerate(values) if i < j)
    return [exact(unit, value) for value in values] if alike else said


def cells(verdict: Verdict) -> tuple[str, str]:
    """(figure, limit) of a verdict; "not measured" where there is none."""
    if verdict.limit is None:
        return "", ""
    quantity = QUANTITIES[verdict.limit.quantity]
    if verdict.value is None:
        return "not measured", verdict.limit.text
    mark = ", not steady" if verdict.unsteady else f", {verdict.interpreter}" if verdict.interpreter else ""
    if verdict.allowed is None:
        return f"{amount(quantity.unit, verdict.value)}{mark}", verdict.limit.text
    value, allowed = contrast(quantity.unit, verdict.value, verdict.allowed)
    own = f"{'at least ' if quantity.more else ''}{allowed}"
    return f"{value}{mark}", own if verdict.limit.kind == "absolute" else f"{own} ({verdict.limit.text})"


def remark(verdict: Verdict, file: str, grew: str | None = None) -> str:
    """Remark on a verdict that did not pass: by how much it failed, where the limit stands, that its times
    are not steady, what grew (`culprits`, unless that is given)."""
    place = f"{file}:{verdict.line}"
    if verdict.outcome != "failed" or verdict.limit is None:
        return f"{verdict.reason} ({place})"
    quantity = QUANTITIES[verdict.limit.quantity]
    way = "too little" if quantity.more else "too much"
    if quantity.unit == "percent":
        said = f"{verdict.excess:.4g} points {way}"
    else:
        beyond = (
            amount(quantity.unit, verdict.excess) if quantity.unit == "ms" else exact(quantity.unit, verdict.excess)
        )
        percent = 100 * verdict.excess / verdict.allowed if verdict.allowed else 0.0
        # two digits, and all that stand before the point: "0.012 %", "4.5 %", "110 %"
        rounded = f"{percent:,.0f}" if percent >= 10 else f"{percent:.2g}"
        said = f"{beyond} {way}{f' ({rounded} %)' if verdict.allowed else ''}"
    grown = culprits(verdict) if grew is None else grew
    return "; ".join(filter(None, (f"{said} ({place})", unsteady_clause(verdict.unsteady), grown)))


def culprits(verdict: Verdict) -> str:
    """The layers that account for a failure, the worst first, and in what: "MACs that grew: layer features.3 +1,200
    (...)", "largest weights: layer fc1 4,800 bytes"."""
    if not verdict.parts or verdict.limit is None:
        return ""
    unit = parts_unit(verdict.limit.quantity)
    compared = verdict.parts[0].before is not None
    measure = MEASURES[verdict.limit.quantity]
    # layers may be called "4"; a weight without a name is counted ("#3")
    kinds = ("" if part.name == OTHER else "weight " if part.name[:1] == "#" else "layer " for part in verdict.parts)
    said = ", ".join(f"{kind}{part_text(part, unit)}" for kind, part in zip(kinds, verdict.parts[:NAMED], strict=False))
    more = f" and {len(verdict.parts) - NAMED} more" if len(verdict.parts) > NAMED else ""
    return f"{f'{measure} that grew' if compared else f'largest {measure}'}: {said}{more}"


def part_text(part: Part, unit: Unit) -> str:
    """ "features.3 +1,200 bytes (24x64x1x1 -> 40x64x1x1)"."""
    if part.before is None:
        return f"{part.name} {exact(unit, part.now)}"
    changed = part.shapes and part.shapes_before and part.shapes != part.shapes_before
    shapes = f" ({part.shapes_before} -> {part.shapes})" if changed else ("" if part.before else " (new)")
    return f"{part.name} +{exact(unit, part.growth)}{shapes}"


def parts_unit(quantity: str) -> Unit:
    """The unit in which layers account for a quantity: time is accounted for by MACs, memory by stored bytes."""
    return "bytes" if QUANTITIES[quantity].unit == "bytes" else "count"
