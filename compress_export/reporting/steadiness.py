"""Whether the times of a report were taken on a machine that was busy or not steady, in words for its first screen."""

from __future__ import annotations

from collections.abc import Sequence

from bench.measurement import Measurement
from bench.statistics import is_busy
from compress_export.reporting.summary import FileRow, FormatRow


def unsteady_sentence(formats: Sequence[FormatRow], again: str) -> str:
    """That the machine was busy, or the times are not steady, for how many files, and the command that measures them
    `again`; "" where all are steady.

    What was found of each file stands in the notes of the summary.
    """
    files = [file for row in formats for file in (row.original, row.compressed) if file.statistics is not None]
    shaky = [file for file in files if file.unsteady]
    if not shaky:
        return ""
    told = f"the times of {len(shaky)} of {len(files)} files are not steady (see Notes); measure again with `{again}`"
    return f"Taken on a busy machine: {told}" if any(map(_busy, shaky)) else f"{told[0].upper()}{told[1:]}"


def _busy(file: FileRow) -> bool:
    return isinstance(file.row, Measurement) and is_busy(file.row)
