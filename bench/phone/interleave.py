"""Lets the files of one format take turns on the phone, waits until it is cool, and makes the rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from bench.host.measure import turns
from bench.host.reference_outputs import agree
from bench.measurement import BenchError, Block, Measurement, Process
from bench.phone.facts import Warmth, read_warmth
from bench.phone.places import OUTPUTS, PhoneFile, Session
from bench.phone.storage import HOME
from bench.runner.protocol import RunnerAnswer
from bench.statistics import DRIFT_LIMIT, drift
from exporters.artifact import Parity
from exporters.formats import FORMATS

PROCESSES = 5
"""For each file. Two take turns A B B A A B B A A B: ratios are taken from the whole rounds."""
WARMER_CELSIUS = 2.0
"""Degrees above its temperature at the start that the battery may have before the phone is left to cool."""
POLL_SECONDS = 2.0


@dataclass(frozen=True)
class _Turn:
    """One process of one file, and how warm the phone was before it."""

    number: int
    warmth: Warmth
    ran: RunnerAnswer


def take_turns(files: Sequence[PhoneFile], session: Session) -> list[Measurement]:
    """A row for each file, all of one format. BenchError if the phone stays warm, goes away, or fails.

    An error in the middle carries a row for each file, if each had a process; these rows are invalid.
    """
    taken: list[list[_Turn]] = [[] for _ in files]
    parities: list[Parity | None] = [None] * len(files)

    def rows(trouble: str = "") -> list[Measurement]:
        return [_row(*member, session, trouble) for member in zip(files, taken, parities, strict=True)]

    try:
        for number, place in enumerate(turns(len(files), PROCESSES // 2 + 1)[: PROCESSES * len(files)]):
            file = files[place]
            session.tell(f"{file.name}: process {len(taken[place]) + 1} of {PROCESSES}")
            warmth = _cool(session)
            # The cap is for all processes of a file, the runs and seconds for each.
            part = replace(session.schedule, cap_seconds=session.schedule.cap_seconds / PROCESSES)
            ran = session.place.run(session, file, number, part)
            taken[place].append(_Turn(number, warmth, ran))
            parities[place] = parities[place] or _compare(file, session)
    except BenchError as error:
        error.rows = tuple(rows(f"ended early: {error}")) if all(taken) else ()
        raise
    return rows()


def _cool(session: Session) -> Warmth:
    """The phone's temperature once it is as cool as at the start. BenchError if it does not cool down."""
    deadline = time.monotonic() + session.schedule.cool_seconds
    while True:
        warmth = read_warmth(session.phone)
        degrees, start = warmth.battery_celsius, session.start.battery_celsius
        if warmth.status:
            reason = f"its thermal status is {warmth.status}, and has to be 0"
        elif degrees is not None and start is not None and degrees > start + WARMER_CELSIUS:
            reason = f"its battery has {degrees:.1f} C, {start:.1f} C at the start"
        else:
            return warmth
        if time.monotonic() >= deadline:
            raise BenchError(
                f"phone {session.phone.serial} did not cool down in {session.schedule.cool_seconds:g} s: {reason}; let "
                "it lie in the shade, take it out of its case, and measure again"
            )
        session.tell(f"waiting for the phone to cool: {reason}")
        time.sleep(POLL_SECONDS)


def _compare(file: PhoneFile, session: Session) -> Parity:
    """Parity of the phone's outputs with those of the same file on this machine."""
    import numpy as np

    from exporters.parity import compare

    assert file.reference is not None  # it is measured, not profiled
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        local = Path(folder) / "outputs.raw"
        session.phone.pull(f"{HOME}/{OUTPUTS}", local)
        given = np.fromfile(local, dtype="<f4")
    if given.size != file.reference.size:
        raise BenchError(
            f"{file.name} gave {given.size} numbers on phone {session.phone.serial}, and {file.reference.size} on "
            "this machine; build the runner anew with `make runner`"
        )
    return compare(given.reshape(file.reference.shape), file.reference)


def _row(file: PhoneFile, taken: Sequence[_Turn], parity: Parity | None, session: Session, trouble: str) -> Measurement:
    artifact, first = file.artifact, taken[0].ran
    pinned = all(turn.ran.cores for turn in taken)
    preemptions = [turn.ran.preemptions for turn in taken if turn.ran.preemptions is not None]
    return Measurement(
        network=artifact.network,
        format=artifact.format,
        sha256=artifact.sha256,
        bytes=artifact.bytes,
        device=session.device,
        runtime=FORMATS[artifact.format].runtime,
        runtime_version=first.engine_version,
        schedule=session.schedule,
        threads=session.schedule.threads,
        pinned_cores=session.cores if pinned else None,
        input_shape=file.shape,
        images=len(file.images),
        load_ms=median(turn.ran.load_ms for turn in taken),
        first_ms=median(turn.ran.first_ms for turn in taken),
        blocks=tuple(Block(turn.number, turn.ran.samples_ms) for turn in taken),
        memory=first.memory,
        session=session.name,
        measured_at=session.measured_at,
        mhz_before=first.mhz_before,
        mhz_after=taken[-1].ran.mhz_after,
        preemptions=sum(preemptions) if len(preemptions) == len(taken) else None,
        note=_note(session, taken, pinned),
        processes=tuple(
            Process(
                turn=turn.number,
                load_ms=turn.ran.load_ms,
                first_ms=turn.ran.first_ms,
                mhz_before=turn.ran.mhz_before,
                mhz_after=turn.ran.mhz_after,
                thermal_status=turn.warmth.status,
                battery_celsius=turn.warmth.battery_celsius,
            )
            for turn in taken
        ),
        invalid=trouble or _invalid(taken, parity),
        parity=parity,
    )


def _invalid(taken: Sequence[_Turn], parity: Parity | None) -> str:
    """Reason not to use the times; empty where they are good."""
    if parity is not None and not agree(parity):
        return (
            f"its outputs differ from those on this machine: cosine {parity.cosine:.6f}, same class for "
            f"{100 * (parity.top1_agreement or 0):.0f} % of {parity.images} images"
        )
    samples = [sample for turn in taken for sample in turn.ran.samples_ms]
    slower = drift(samples)
    if slower is None or slower <= DRIFT_LIMIT:
        return ""
    first, last = taken[0].ran.mhz_before, taken[-1].ran.mhz_after
    clocks = f", its clock went from {first:.0f} to {last:.0f} MHz" if first and last and first != last else ""
    return f"the last tenth of its runs was {100 * slower:.0f} % slower than the first{clocks}; let the phone cool"


def _note(session: Session, taken: Sequence[_Turn], pinned: bool) -> str:
    """Remarks for a reader on how the schedule was kept."""
    schedule = session.schedule
    made, wanted = sum(len(turn.ran.samples_ms) for turn in taken), PROCESSES * schedule.runs
    notes = [session.place.note]
    if session.cores is None:
        notes.append("not pinned: this phone does not tell its clusters")
    elif not pinned:
        notes.append("not pinned: this phone does not let an app choose its cores")
    if made < wanted:
        notes.append(f"{made} of {wanted} runs in {len(taken)} processes: {schedule.cap_seconds:g} s were up")
    if session.start.status is None:
        notes.append("this phone tells no thermal status")
    return "; ".join(notes)
