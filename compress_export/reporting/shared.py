"""Shared weights in a report: what was shared and what the packed file weighs, from the run's files alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from compress_export.run_directory import RunDirectory


@dataclass(frozen=True)
class SharedLayer:
    """One layer that was looked at: bits as float32 and shared, or why it was `kept`."""

    name: str
    weight: str
    dense_bits: int | None
    index_bits: int | None
    codebook_bits: int | None
    error: float | None
    kept: str | None


@dataclass(frozen=True)
class SharedWeights:
    """The packed file beside the original's float32 weights, in bytes; accuracy in percent before anything was shared.

    `untuned_top1` is that on held-out images straight after sharing, before the centroids were tuned.
    """

    sharing: str
    original_bytes: int
    packed_bytes: int
    layers: tuple[SharedLayer, ...]
    unshared_top1: float | None
    untuned_top1: float | None

    @property
    def shared(self) -> tuple[SharedLayer, ...]:
        return tuple(layer for layer in self.layers if layer.kept is None)


def shared_of(run: RunDirectory) -> SharedWeights | None:
    """What the run shares; None where it shares nothing, or not yet."""
    if not run.has("shared.safetensors"):
        return None
    record = run.read_json("shared.json")
    accuracy = run.read_json("accuracy.json") if run.has("accuracy.json") else {}
    first = next(iter(run.read_lines("sharing.jsonl")), None)
    return SharedWeights(
        sharing=str(record["sharing"]),
        original_bytes=(run / "original.safetensors").stat().st_size,
        packed_bytes=(run / "shared.safetensors").stat().st_size,
        layers=tuple(_layer(row) for row in record["layers"]),
        unshared_top1=accuracy["unshared"]["top1"] if "unshared" in accuracy else None,
        untuned_top1=None if first is None else first["top1"],
    )


def _layer(row: Mapping[str, Any]) -> SharedLayer:
    bits = row["bits"] or {}
    return SharedLayer(
        name=str(row["name"]),
        weight="x".join(map(str, row["weight"])),
        dense_bits=bits.get("dense"),
        index_bits=bits.get("indices"),
        codebook_bits=bits.get("codebooks"),
        error=row["error"],
        kept=row["kept"],
    )


def shared_notes(shared: SharedWeights | None) -> Sequence[str]:
    """What a reader must know: which layers, and that exported files do not shrink by it."""
    if shared is None:
        return ()
    names = ", ".join(layer.name for layer in shared.shared)
    kept = "".join(f"; {layer.name} is kept ({layer.kept})" for layer in shared.layers if layer.kept is not None)
    return (
        f"Weights of {names} are shared, {shared.sharing}{kept}. shared.safetensors holds them packed; exported files "
        "hold ordinary weights, so sharing does not make them smaller.",
    )
