"""What a report says of single files: those that were changed or are gone, and how each was measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bench.measurement import Measurement, NotMeasured
from bench.statistics import times_remark

if TYPE_CHECKING:
    from compress_export.reporting.summary import FormatRow  # which imports this module


def changed_files(formats: Sequence[FormatRow]) -> list[str]:
    """Files that others have taken the place of. One that is gone is a note: it may have been moved on purpose."""
    files = [file for row in formats for file in (row.original, row.compressed)]
    return [f"{file.artifact.path.name}: {file.altered}" for file in files if file.answers == "changed"]


def row_notes(formats: Sequence[FormatRow], again: str) -> list[str]:
    """What a reader should know of each format and file: what is gone, became slower, or was measured badly or not.
    `again` is the command that measures them again."""
    notes = []
    for row in formats:
        if row.ratio is not None and row.ratio.low is not None and row.ratio.low > 1:
            notes.append(
                f".{row.format} became slower: fewer parameters are not less time; leave --max-params out, or keep the "
                "layers near the image with --keep-layers"
            )
        for file in (row.original, row.compressed):
            name = file.artifact.path.name
            if file.answers == "gone":
                notes.append(f"{name}: {file.altered}")
            if isinstance(file.row, NotMeasured):
                notes.append(f"{name}: not measured: {file.row.reason}")
            if isinstance(file.row, Measurement) and (told := times_remark(file.row)):
                notes.append(f"{name}: {told}{f' with `{again}`' if file.row.invalid else ''}")
            if file.artifact.fallbacks:
                notes.append(f"{name}: outside XNNPACK run {', '.join(file.artifact.fallbacks)}")
            notes += [f"{name}: {note}" for note in file.artifact.notes]
            notes += [f"{name} on the {each.device.name}: {each.note}" for each in file.simulated if each.note]
    return notes
