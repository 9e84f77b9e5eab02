"""Notes of a report that do not depend on its files: where the weights come from, what the plan has to say, and what
tuning cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from compress_export.mcnemar import compare
from compress_export.settings import keeps_best
from compressor.plan import KEEP
from compressor.units import parse_limit
from exporters.artifact import Artifact
from exporters.formats import FORMATS

CHANCE = 0.05
"""A difference that chance makes more often than so is none."""


def size_notes(settings: Mapping[str, Any], files: Sequence[tuple[Artifact, Artifact]]) -> list[str]:
    """What --max-size asked for, beside what each compressed file weighs: a plan predicts float32 files."""
    asked = settings["plan"].get("max_size")
    if not asked:
        return []
    limit, notes = parse_limit("size", asked), []
    for original, compressed in files:
        most = limit.most(original.bytes)
        if compressed.bytes > most:
            more = f"{compressed.bytes - most:,.0f} bytes"
            notes.append(
                f"{compressed.path.name} has {compressed.bytes:,} bytes, {more} more than --max-size {asked} allows; "
                "ask for a little less"
            )
    return notes


def runtime_notes(settings: Mapping[str, Any], formats: Sequence[str], plan: Mapping[str, Any]) -> list[str]:
    """That layers were timed in a runtime which no exported file is for, where the plan rests on times."""
    timed = settings["plan"].get("latency_format", "pte")
    if not formats or timed in formats or not str(plan.get("cost_source", "")).startswith("measured"):
        return []
    titles = ", ".join(FORMATS[name].title for name in formats)
    return [f"The plan's times are those of {FORMATS[timed].runtime} on this machine; {titles} may take others."]


def origin_notes(network: Mapping[str, Any], settings: Mapping[str, Any], judged: bool) -> list[str]:
    """What the weights and the data let a reader conclude; `judged` where both networks' accuracy is known."""
    notes = [f"{note[0].upper()}{note[1:]}." for note in network.get("notes", ())]
    if network["origin"] == "untrained":
        notes.append("The weights are untrained: size, latency and parity mean something, accuracy does not.")
    if settings["source"]["data"] is None:
        notes.append("Accuracy was not measured: no --data was given. Files were compared on crops of photographs.")
    elif network["origin"] != "untrained" and not judged:
        notes.append("Accuracy was not measured yet.")
    if settings["source"]["data"] == "digits":
        notes.append("Digits prove that the path works; no compression ratio for real photographs follows from them.")
    return notes


def plan_notes(plan: Mapping[str, Any], changed: bool) -> list[str]:
    """The plan's own notes, or that it factors nothing; `changed` where the network was tuned or shares weights."""
    if all(layer["method"] == KEEP for layer in plan["layers"]):
        why = "as asked" if plan["rule"] == "none" else "the limit is met without it, or no layer pays"
        return [f"No layer is factored: {why}.{'' if changed else ' Both networks are the same.'}"]
    return list(plan["notes"])


def kept_notes(network: Mapping[str, Any], asked: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Which epoch of tuning was kept, where it is not the last. See `keeps_best`."""
    last = [row for row in rows if row["step"] == rows[-1]["step"]]
    if not last or not keeps_best(network["origin"], asked.get("regularizer")):
        return []
    best = max(last, key=lambda row: (row["top1"], row["epoch"]))
    if best is last[-1]:
        return []
    when = f"after epoch {best['epoch']}" if best["epoch"] else "as it was cut"
    return [
        f"Of the {len(last) - 1} epochs of tuning the best on held-out images is kept: the network {when} "
        f"({best['top1']:.2f} %; after the last it was {last[-1]['top1']:.2f} %)."
    ]


def tuning_notes(accuracy: Mapping[str, Any]) -> list[str]:
    """That tuning left the network worse than it was as cut, where the validation images tell the two apart."""
    cut, tuned = accuracy.get("cut"), accuracy.get("unshared", accuracy["compressed"])
    if cut is None or tuned["top1"] >= cut["top1"]:
        return []
    p = compare(cut["correct"], tuned["correct"], [True] * len(cut["correct"])).p
    if p > CHANCE:
        return []
    return [
        f"Tuning made the network worse: top-1 was {cut['top1']:.2f} % as cut and is {tuned['top1']:.2f} % (McNemar's "
        f"p {p:.1g}); try a smaller --rate or --distill, or keep it as cut with --epochs 0."
    ]
