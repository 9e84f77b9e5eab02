"""The plan for one process inside an app, and the row that it leaves, both as android_app/core has them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

from bench.measurement import BenchError, Device, Measurement, NotMeasured, Schedule, from_line
from bench.phone.shell import mask_of
from bench.runner.answer import RunnerAnswer
from exporters.artifact import Artifact
from exporters.formats import FORMATS

SCHEMA = 1


@dataclass(frozen=True)
class Plan:
    """One file to measure, once. Places are relative to the plan's folder; `cores` is a mask, None is not pinned."""

    artifact: Artifact
    file: str
    images: tuple[str, ...]
    cores: str | None
    golden: str | None
    answers: str | None
    schedule: Schedule
    device: Device
    session: str
    turn: int
    measured_at: str

    def to_json(self) -> str:
        """The plan as the app reads it."""
        own = self.artifact
        fields = {
            "schema": SCHEMA,
            "name": own.path.name,
            "file": self.file,
            "images": self.images,
            "network": own.network,
            "format": own.format,
            "sha256": own.sha256,
            "bytes": own.bytes,
            "cores": self.cores,
            "golden": self.golden,
            "answers": self.answers,
            "session": self.session,
            "turn": self.turn,
            "input_shape": own.input,
            "runtime": FORMATS[own.format].runtime,
            "measured_at": self.measured_at,
            "schedule": asdict(self.schedule),
            "device": asdict(self.device),
        }
        return json.dumps(fields, indent=1) + "\n"


def read_answer(text: str, name: str) -> RunnerAnswer:
    """What the process told. BenchError with the app's words if it measured nothing, or if this is no row."""
    try:
        fields = json.loads(text)
        if "error" in fields:
            raise BenchError(f"{name} was not measured: {fields['error']}")
    except (ValueError, TypeError) as error:
        said = " ".join(text.split())[:200] or "nothing"
        raise BenchError(f"{name} was not measured: the app did not leave a row, but {said}") from error
    row = from_line(text, f"the app's answer for {name}")
    if isinstance(row, NotMeasured):
        raise BenchError(f"{name} was not measured: {row.reason}")
    if not isinstance(row, Measurement):
        raise BenchError(f"{name} was not measured: the app left a row of {type(row).__name__}; install it anew")
    return _answer(row)


def _answer(row: Measurement) -> RunnerAnswer:
    """The row as the other lane's runner would have told it."""
    return RunnerAnswer(
        engine=row.runtime,
        engine_version=row.runtime_version,
        model_bytes=row.bytes,
        threads=row.threads,
        cores="" if row.pinned_cores is None else mask_of(row.pinned_cores),
        load_ms=row.load_ms,
        first_ms=row.first_ms,
        samples_ms=row.samples_ms,
        output_shape=(),
        outputs=None,
        memory=row.memory,
        core_before=None,
        core_after=None,
        mhz_before=row.mhz_before,
        mhz_after=row.mhz_after,
        preemptions=row.preemptions,
    )
