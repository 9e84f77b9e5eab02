"""Lets the files of one format take turns on the phone, waits until it is cool, and makes the rows."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.host.measure import turns
from bench.host.reference_outputs import agree
from bench.measurement import BenchError, Block, Measurement, Process, Schedule
from bench.phone.facts import Warmth, read_warmth
from bench.phone.places import ANSWERS, PhoneFile, Session
from bench.phone.storage import HOME
from bench.runner.answer import RunnerAnswer
from bench.statistics import DRIFT_LIMIT, drift
from exporters.artifact import Parity
from exporters.formats import FORMATS

if TYPE_CHECKING:
    pass

PROCESSES = 5
"""For each file. Two take turns A B B A A B B A A B: ratios are taken from the whole rounds."""
WARMER_CELSIUS = 2.0
"""How much warmer than at the start the battery may be before the phone is left to cool."""
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
            session.tell(f"{file.job.name}: process {len(taken[place]) + 1} of {PROCESSES}")
            warmth = _cool(session)
            ran = session.place.run(session, file, number, _share(session.schedule))
            taken[place].append(_Turn(number, warmth, ran))
            parities[place] = parities[place] or _compare(file, session)
    except BenchError as error:
        error.rows = tuple(rows(f"ended early: {error}")) if all(taken) else ()
        raise
    return rows()


def _share(schedule: Schedule) -> Schedule:
    """One process's share of the schedule: the cap is for all of them, the runs and seconds for each."""
    return replace(schedule, cap_seconds=schedule.cap_seconds / PROCESSES)


def _cool(session: Session) -> Warmth:
    """How warm the phone is once it is as cool as at the start. BenchError if it does not cool down."""
    deadline = time.monotonic() + session.schedule.cool_seconds
    while True:
        warmth = read_warmth(session.phone)
        reason = _too_warm(warmth, session.start)
        if not reason:
            return warmth
        if time.monotonic() >= deadline:
            raise BenchError(
                f"phone {session.phone.serial} did not cool down in {session.schedule.cool_seconds:g} s: {reason}; let "
                "it lie in the shade, take it out of its case, and measure again"
            )
        session.tell(f"waiting for the phone to cool: {reason}")
        time.sleep(POLL_SECONDS)


def _too_warm(now: Warmth, start: Warmth) -> str:
    if now.status:
        return f"its thermal status is {now.status}, and has to be 0"
    if now.battery_celsius is None or start.battery_celsius is None:
        return ""
    if now.battery_celsius > start.battery_celsius + WARMER_CELSIUS:
        return f"its battery has {now.battery_celsius:.1f} C, {start.battery_celsius:.1f} C at the start"
    return ""


def _compare(file: PhoneFile, session: Session) -> Parity:
    """The phone's answers beside those of the same file on this machine."""
    import numpy as np

    from exporters.parity import compare

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        local = Path(folder) / "answers.raw"
        session.phone.pull(f"{HOME}/{ANSWERS}", local)
        given = np.fromfile(local, dtype="<f4")
    if given.size != file.reference.size:
        raise BenchError(
            f"{file.job.name} gave {given.size} numbers on phone {session.phone.serial}, and {file.reference.size} on "
            "this machine; build the runner anew with `make runner`"
        )
    return compare(given.reshape(file.reference.shape), file.reference)


def _row(file: PhoneFile, taken: Sequence[_Turn], parity: Parity | None, session: Session, trouble: str) -> Measurement:
    artifact, first = file.artifact, taken[0].ran
    blocks = tuple(Block(turn.number, turn.ran.samples_ms) for turn in taken)
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
        pinned_cores=session.cores if _pinned(taken) else None,
        input_shape=file.job.shape,
        images=len(file.job.images),
        load_ms=median(turn.ran.load_ms for turn in taken),
        first_ms=median(turn.ran.first_ms for turn in taken),
        blocks=blocks,
        memory=first.memory,
        session=session.name,
        measured_at=session.measured_at,
        mhz_before=first.mhz_before,
        mhz_after=taken[-1].ran.mhz_after,
        preemptions=_preemptions(taken),
        note=_note(session, taken),
        processes=tuple(map(_process, taken)),
        invalid=trouble or _invalid(taken, parity),
        parity=parity,
    )


def _preemptions(taken: Sequence[_Turn]) -> int | None:
    """The sum over the processes; None where one of them could not tell."""
    told = [turn.ran.preemptions for turn in taken if turn.ran.preemptions is not None]
    return sum(told) if len(told) == len(taken) else None


def _process(turn: _Turn) -> Process:
    ran, warmth = turn.ran, turn.warmth
    clocks = ran.mhz_before, ran.mhz_after
    return Process(turn.number, ran.load_ms, ran.first_ms, *clocks, warmth.status, warmth.battery_celsius)


def _invalid(taken: Sequence[_Turn], parity: Parity | None) -> str:
    """Why the times are not to be used; empty where they are."""
    if parity is not None and not agree(parity):
        return (
            f"its answers differ from those on this machine: cosine {parity.cosine:.6f}, same class for "
            f"{100 * (parity.top1_agreement or 0):.0f} % of {parity.images} images"
        )
    samples = [sample for turn in taken for sample in turn.ran.samples_ms]
    slower = drift(samples)
    if slower is None or slower <= DRIFT_LIMIT:
        return ""
    first, last = taken[0].ran.mhz_before, taken[-1].ran.mhz_after
    clocks = f", its clock went from {first:.0f} to {last:.0f} MHz" if first and last and first != last else ""
    return f"the last tenth of its runs was {100 * slower:.0f} % slower than the first{clocks}; let the phone cool"


def _pinned(taken: Sequence[_Turn]) -> bool:
    return all(turn.ran.cores for turn in taken)


def _note(session: Session, taken: Sequence[_Turn]) -> str:
    """What a reader has to know about how the schedule was kept."""
    schedule = session.schedule
    made, wanted = sum(len(turn.ran.samples_ms) for turn in taken), PROCESSES * schedule.runs
    notes = [session.place.note]
    if session.cores is None:
        notes.append("not pinned: this phone does not tell its clusters")
    elif not _pinned(taken):
        notes.append("not pinned: this phone does not let an app choose its cores")
    if made < wanted:
        notes.append(f"{made} of {wanted} runs in {len(taken)} processes: {schedule.cap_seconds:g} s were up")
    if session.start.status is None:
        notes.append("this phone tells no thermal status")
    return "; ".join(notes)
