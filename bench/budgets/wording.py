"""How verdicts are written: figures with their units, and exact where rounding would hide the difference."""

from __future__ import annotations

from collections.abc import Mapping

from bench.budgets.growth import MEASURES, OTHER, Part
from bench.budgets.limits import QUANTITIES, Unit
from bench.budgets.verdicts import NAMED, Verdict
from bench.statistics import unsteady_clause


def amount(unit: Unit, value: float) -> str:
    """A figure as people say it: "36.40 MB", "8.70M", "12.50 ms", "97.2 %"."""
    if unit == "bytes":
        return _scaled(value, {" GB": 1e9, " MB": 1e6, " kB": 1e3}) or f"{value:,.0f}{_bytes(value)}"
    if unit == "count":
        return _scaled(value, {"G": 1e9, "M": 1e6, "k": 1e3}) or f"{value:,.0f}"
    return f"{value:.2f} ms" if unit == "ms" else f"{value:.2f} %"


def _scaled(value: float, units: Mapping[str, float]) -> str:
    """The value in the largest unit that it fills; "" where it fills none."""
    return next((f"{value / size:.2f}{unit}" for unit, size in units.items() if value >= size), "")


def exact(unit: Unit, value: float) -> str:
    """The same figure with nothing rounded away: "36,401,152 bytes"."""
    if unit in ("bytes", "count"):
        return f"{value:,.0f}{_bytes(value) if unit == 'bytes' else ''}"
    return f"{value:.6g} {'ms' if unit == 'ms' else '%'}"


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
    mark = ", not steady" if verdict.unsteady else ""
    if verdict.allowed is None:
        return f"{amount(quantity.unit, verdict.value)}{mark}", verdict.limit.text
    value, allowed = contrast(quantity.unit, verdict.value, verdict.allowed)
    own = f"{'at least ' if quantity.more else ''}{allowed}"
    return f"{value}{mark}", own if verdict.limit.kind == "absolute" else f"{own} ({verdict.limit.text})"


def remark(verdict: Verdict, file: str, grew: str | None = None) -> str:
    """What is to be said of a verdict that did not pass: by how much it failed, where the limit stands, that its times
    are not steady, what grew (`culprits`, unless that is given)."""
    place = f"{file}:{verdict.line}"
    if verdict.outcome != "failed" or verdict.limit is None:
        return f"{verdict.reason} ({place})"
    grown = culprits(verdict) if grew is None else grew
    return "; ".join(filter(None, (f"{_excess(verdict)} ({place})", unsteady_clause(verdict.unsteady), grown)))


def _excess(verdict: Verdict) -> str:
    assert verdict.limit is not None
    quantity = QUANTITIES[verdict.limit.quantity]
    way = "too little" if quantity.more else "too much"
    if quantity.unit == "percent":
        return f"{verdict.excess:.4g} points {way}"
    share = f" ({_percent(verdict.excess / verdict.allowed)})" if verdict.allowed else ""
    said = amount(quantity.unit, verdict.excess) if quantity.unit == "ms" else exact(quantity.unit, verdict.excess)
    return f"{said} {way}{share}"


def _percent(share: float) -> str:
    """Two digits, and all that stand before the point: "0.012 %", "4.5 %", "110 %"."""
    return f"{100 * share:,.0f} %" if 100 * share >= 10 else f"{100 * share:.2g} %"


def culprits(verdict: Verdict) -> str:
    """The layers that account for a failure, the worst first, and in what: "MACs that grew: layer features.3 +1,200
    (...)", "largest weights: layer fc1 4,800 bytes"."""
    if not verdict.parts or verdict.limit is None:
        return ""
    unit = parts_unit(verdict.limit.quantity)
    compared = verdict.parts[0].before is not None
    measure = MEASURES[verdict.limit.quantity]
    said = ", ".join(f"{_kind(part)}{part_text(part, unit)}" for part in verdict.parts[:NAMED])
    more = f" and {len(verdict.parts) - NAMED} more" if len(verdict.parts) > NAMED else ""
    return f"{f'{measure} that grew' if compared else f'largest {measure}'}: {said}{more}"


def _kind(part: Part) -> str:
    """What a part is, before its name: layers may be called "4"; a weight without a name is counted ("#3")."""
    if part.name == OTHER:
        return ""
    return "weight " if part.name.startswith("#") else "layer "


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
