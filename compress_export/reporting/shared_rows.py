"""Shared weights in the tables that set original and compressed side by side."""

from __future__ import annotations

from compress_export.reporting import figures
from compress_export.reporting.shared import SharedLayer, SharedWeights


def closing_rows(shared: SharedWeights | None) -> list[tuple[str, str, str, str]]:
    """Rows of the closing table: the packed weights, the shared ones among them, accuracy before they were shared."""
    if shared is None:
        return []
    before, after = (sum(part) / 8 for part in zip(*(_bits(layer) for layer in shared.shared), strict=True))
    rows = [
        _row("packed weights", shared.original_bytes, shared.packed_bytes),
        _row(f"of them {len(shared.shared)} shared", before, after),
    ]
    if shared.unshared_top1 is not None:
        rows.append(("top-1, not yet shared", "", f"{shared.unshared_top1:.2f} %", ""))
    return rows


def _bits(layer: SharedLayer) -> tuple[int, int]:
    return layer.dense_bits or 0, (layer.index_bits or 0) + (layer.codebook_bits or 0)


def _row(name: str, before: float, after: float) -> tuple[str, str, str, str]:
    return name, figures.size(int(before)), figures.size(int(after)), f"{before / after:.2f}x smaller"
