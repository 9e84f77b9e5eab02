"""check(): a verdict on every limit of a budgets.toml. Nothing here imports torch or runs a file."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from bench.budgets.figures import FIGURES, Figure, Unmeasured, of_base, original, unsteady_times
from bench.budgets.growth import Part, accounts
from bench.budgets.limits import QUANTITIES, Budget, Budgets, Limit
from bench.budgets.subjects import Subject, beside, exported, find
from bench.run_files import RunError
from bench.statistics import unsteady_clause

Outcome = Literal["passed", "failed", "not measured", "new file"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)

NAMED = 3
"""How many layers a failure names; `--why` gives all."""


@dataclass(frozen=True)
class Verdict:
    """What came of one limit for one file or run. `allowed` is the limit as a number, from the base's or the original's
    figure (`reference`) where it is relative. `limit` is None where the file itself is the fault. `parts` account for a
    failure; without a base to compare with they are the largest. `unsteady` says why the times that were judged are
    not to be trusted."""

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

    @property
    def excess(self) -> float:
        """By how much the figure is beyond what is allowed, in its own unit; 0 where it is not."""
        if self.value is None or self.allowed is None or self.limit is None:
            return 0.0
        beyond = self.value - self.allowed
        return max(0.0, -beyond if QUANTITIES[self.limit.quantity].more else beyond)


@dataclass(frozen=True)
class Checked:
    """Every verdict, and the files that were looked at with the base's of each (None where it has none)."""

    budgets: Budgets
    verdicts: tuple[Verdict, ...]
    files: tuple[tuple[Subject, Subject | None], ...]

    def count(self, outcome: Outcome) -> int:
        return sum(verdict.outcome == outcome for verdict in self.verdicts)

    def holds(self, strict: bool) -> bool:
        """Whether something was judged, nothing failed and, if strict, nothing that is limited was left unmeasured."""
        return bool(self.verdicts) and not self.count("failed") and not (strict and self.count("not measured"))


def check(budgets: Budgets, base: Path | None = None) -> Checked:
    """The verdicts on all budgets, in the order of the file; `base` is the folder that stands for the budgets' own.

    BudgetError, RunError or ContentError on what cannot be read.
    """
    verdicts: list[Verdict] = []
    files: dict[Path, tuple[Subject, Subject | None]] = {}
    for budget in budgets.budgets:
        subjects = find(budget, budgets)
        if not subjects:
            reason = f"{budget.pattern} matches nothing: this budget guards nothing; make the files, or mend the path"
            verdicts.append(Verdict("failed", budget.pattern, budget.line, reason=reason))
        for subject in subjects:
            other = None if base is None else beside(subject, base)
            files.setdefault(subject.path, (subject, other))
            try:
                verdicts += _of_subject(budget, subject, other, base is not None)
            except (KeyError, TypeError, AttributeError) as error:
                raise RunError(
                    f"a file of {subject.name}'s run, or of its base's, has lost its content "
                    f"({type(error).__name__}: {error}); make the run again"
                ) from error
    return Checked(budgets, tuple(verdicts), tuple(pair for pair in files.values() if not pair[0].is_run))


def _of_subject(budget: Budget, subject: Subject, base: Subject | None, has_base: bool) -> list[Verdict]:
    own = [
        limit for limit in budget.limits if not budget.is_run or QUANTITIES[limit.quantity].network == subject.is_run
    ]
    if subject.problem is not None:
        return [Verdict("failed", subject.name, budget.line, reason=subject.problem)]
    return [_judge(limit, budget, subject, base, has_base) for limit in own] + _without_files(budget, subject)


def _without_files(budget: Budget, subject: Subject) -> list[Verdict]:
    """Of a run that has no file to judge, "not measured" for each limit on files; else nothing."""
    if subject.run is None or not subject.is_run or exported(subject.run):
        return []
    reason = f"the run has no exported files of its compressed network; `compress-export export {subject.name}`"
    missing = [limit for limit in budget.limits if not QUANTITIES[limit.quantity].network]
    return [Verdict("not measured", subject.name, limit.line, limit, reason=reason) for limit in missing]


def _judge(limit: Limit, budget: Budget, subject: Subject, base: Subject | None, has_base: bool) -> Verdict:
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
    reference = _reference(limit, budget, subject, base)
    if isinstance(reference, Unmeasured):
        return Verdict("not measured", subject.name, limit.line, limit, value, reason=reference.reason)
    allowed = _allowed(limit, reference)
    # a sum of floats must not fail a file that is exactly at its limit
    slack = 1e-9 * abs(allowed)
    beyond = allowed - value > slack if QUANTITIES[limit.quantity].more else value - allowed > slack
    shaky = unsteady_times(limit.quantity, subject, budget.where)
    judged = Verdict("passed", subject.name, limit.line, limit, value, allowed, reference, unsteady=shaky)
    if beyond:
        return replace(judged, outcome="failed", parts=accounts(limit.quantity, subject, base))
    lax = _lax(limit, budget, subject, base)
    return replace(judged, outcome="not measured", allowed=None, reference=None, reason=lax) if lax else judged


def _lax(limit: Limit, budget: Budget, subject: Subject, base: Subject | None) -> str:
    """Why a relative limit on a time lets too much pass; "" where nothing says that it does."""
    if limit.kind == "absolute":
        return ""
    whose, other = ("the original", subject.original) if limit.kind == "ratio" else ("the base", base)
    shaky = unsteady_clause(unsteady_times(limit.quantity, other, budget.where))
    return f"the limit comes from {whose}, and {shaky}" if shaky else ""


def _reference(limit: Limit, budget: Budget, subject: Subject, base: Subject | None) -> Figure | None:
    if limit.kind == "ratio":
        return original(limit.quantity, subject, budget.where)
    if limit.kind == "growth":
        if base is None:
            return Unmeasured("a change needs a base to compare with; pass --base")
        return of_base(limit.quantity, subject, base, budget.where)
    return None


def _allowed(limit: Limit, reference: float | None) -> float:
    if reference is None:
        return limit.amount
    if limit.kind == "ratio":
        return limit.amount * reference
    if QUANTITIES[limit.quantity].more:
        return reference - limit.amount
    return reference + max(limit.amount * reference if limit.share else limit.amount, limit.floor)
