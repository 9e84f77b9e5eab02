"""How figures are written: counts, bytes, times and ratios, the same in the terminal and on the page."""

from __future__ import annotations

from bench.measurement import Device, Measurement, NotMeasured, process_said
from bench.statistics import Ratio
from compress_export.reporting.shared import SharedLayer, SharedWeights
from compress_export.reporting.values import FileRow, Pair


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
    return name, size(int(before)), size(int(after)), f"{before / after:.2f}x smaller"


def count(value: float) -> str:
    """61,100,840 -> "61.10M"; small counts stay as they are."""
    if value >= 1e6:
        return f"{value / 1e6:.2f}M"
    return f"{value / 1e3:.1f}k" if value >= 1e4 else f"{value:,.0f}"


def share(value: float, whole: float) -> str:
    """A count with its share of the whole: "16.78M (27.5 %)"."""
    return f"{count(value)} ({100 * value / whole:.1f} %)" if whole else count(value)


def size(value: float) -> str:
    """Bytes in decimal units, as file managers and app stores print them."""
    return f"{value / 1e6:.2f} MB" if value >= 1e6 else f"{value / 1e3:.1f} kB"


def smaller(pair: Pair) -> str:
    return f"{pair.smaller:.2f}x smaller" if pair.smaller >= 1 else f"{1 / pair.smaller:.2f}x larger"


def faster(ratio: Ratio | None) -> str:
    """A time ratio as a speed-up, with its 95 % interval where there is one."""
    if ratio is None:
        return "not measured"
    text = f"{1 / ratio.value:.2f}x faster" if ratio.value <= 1 else f"{ratio.value:.2f}x slower"
    if ratio.low is None or ratio.high is None:
        return text
    bounds = (1 / ratio.high, 1 / ratio.low) if ratio.value <= 1 else (ratio.low, ratio.high)
    return f"{text} ({bounds[0]:.2f} to {bounds[1]:.2f})"


def milliseconds(file: FileRow) -> str:
    if isinstance(file.row, Measurement) and file.row.invalid:
        return "invalid"
    if file.statistics is not None:
        return f"{file.statistics.p50:.2f} ms" if file.statistics.p50 >= 1 else f"{file.statistics.p50:.3g} ms"
    return "not measured" if file.row is None or isinstance(file.row, NotMeasured) else ""


def place(device: Device) -> str:
    """Which device figures belong to: its kind is always said, because kinds are never compared."""
    serial = f", {device.serial}" if device.serial else ""
    return f"{device.name} ({device.kind}, {device.cpu}{serial}{process_said(device.process)})"


def memory(file: FileRow) -> str:
    return "not measured" if file.memory_kb is None else f"{file.memory_kb * 1024 / 1e6:.1f} MB"


def less_memory(first: FileRow, last: FileRow) -> str:
    """How many times less memory the second file takes; "" where one was not measured."""
    return "" if not first.memory_kb or not last.memory_kb else smaller(Pair(first.memory_kb, last.memory_kb))


def parity(file: FileRow) -> str:
    """How near the file's answers are to the module's."""
    found = file.artifact.parity
    if found is None:
        return "not checked"
    if not found.executed or found.relative_error is None or found.top1_agreement is None:
        return found.note
    same = round(found.top1_agreement * found.images)
    return f"error {found.relative_error:.1e} of the spread; same class {same} of {found.images}"
