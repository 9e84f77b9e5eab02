"""Measures exported files on a phone over adb, each run in a process of its own on chosen cores."""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from bench.host.measure import Progress, check, turns
from bench.host.worker import agree, reference_outputs
from bench.measurement import BenchError, Block, Device, Measurement, NotMeasured, Process, Row, Schedule
from bench.phone.adb import Phone, pick
from bench.phone.app import AppProcess, InApp
from bench.phone.facts import Warmth, pick_cores, read_facts, read_warmth
from bench.phone.places import OUTPUTS, PROFILE, PhoneFile, Place, Session, Shell
from bench.phone.storage import HOME, Parcel, Store, open_store
from bench.runner.bundle import Bundle
from bench.runner.protocol import RunnerAnswer, several_outputs
from bench.statistics import DRIFT_LIMIT, drift
from exporters.artifact import Artifact, Parity, size_and_sha256
from exporters.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

IMAGES = 8
PROCESSES = 5
"""For each file. Two take turns A B B A A B B A A B: ratios are taken from the whole rounds."""
WARMER_CELSIUS = 2.0
"""Degrees above its temperature at the start that the battery may have before the phone is left to cool."""
POLL_SECONDS = 2.0
PROFILED_RUNS = 30
"""Measured runs of a profile: each is read operator by operator, so there need not be many."""

PLACES: dict[str, Callable[[], Place]] = {"shell": Shell.open, "app": InApp.open, "app_process": AppProcess.open}
"""Processes of a phone in which files run; each is opened when it is wanted, and BenchError says what is missing."""


def describe(serial: str | None = None, root: Path | None = None) -> Device:
    """The phone as a Device of kind "phone": the one of that serial, of $ANDROID_SERIAL, or the only one.

    BenchError if it cannot be used, or if there is no whole runner to push to it.
    """
    return describe_in(partial(Shell.open, root), serial)


def describe_in(opened: Callable[[], Place], serial: str | None = None) -> Device:
    """The phone as `describe` gives it, for files that run in that place."""
    device = read_facts(Phone(pick(serial).serial)).device
    return replace(device, process=opened().process)


def measure(
    artifacts: Sequence[Artifact],
    images: Images,
    schedule: Schedule | None = None,
    progress: Progress = lambda _done, _total, _now: None,
    serial: str | None = None,
    root: Path | None = None,
) -> tuple[Row, ...]:
    """A Measurement for each artifact, in the order given, or NotMeasured where no phone runs the format.

    `images` are real images, float32 (N, C, H, W), already normalized; the first 8 are used. Each file runs in 5
    processes, those of one format in turns, A B B A. Every process warms up, then makes at least the schedule's runs
    and takes its seconds; the schedule's cap is shared by the processes. Before each the phone has to be as cool as at
    the start. `serial` names the phone, `root` is the folder of the runner's bundles.

    A measurement whose last tenth of runs was 5 % slower than its first, or whose outputs differ from those of the
    same file on this machine, has `invalid` set. BenchError if the phone, the bundle or a file cannot be used;
    PhoneLost if the phone goes away. Files and processes are removed from the phone whatever happens, if it is still
    there.
    """
    return measure_in(partial(Shell.open, root), artifacts, images, schedule, progress, serial)


def measure_in(
    opened: Callable[[], Place],
    artifacts: Sequence[Artifact],
    images: Images,
    schedule: Schedule | None = None,
    progress: Progress = lambda _done, _total, _now: None,
    serial: str | None = None,
) -> tuple[Row, ...]:
    """The rows that `measure` gives, for files that run in that place: one of PLACES."""
    schedule = schedule or Schedule()
    check(artifacts, images)
    inside = opened()
    phone = Phone(pick(serial).serial)
    facts = read_facts(phone)
    device = replace(facts.device, process=inside.process)
    cores = pick_cores(facts, schedule.cluster, schedule.threads)
    known = [not several_outputs(artifact) and artifact.format in inside.formats for artifact in artifacts]
    here = [index for index, runs in enumerate(known) if runs]
    here.sort(key=lambda index: artifacts[index].format)
    rows: dict[int, Row] = {}
    for index, artifact in enumerate(artifacts):
        if index not in here:
            form, reason = FORMATS[artifact.format], several_outputs(artifact)
            if form.system is not None:
                reason = f"{form.title} files run on Apple's systems only, and this is an Android phone"
            rows[index] = NotMeasured(
                artifact.network, artifact.format, artifact.sha256, device, reason or inside.foreign(artifact.format)
            )
    if here:
        steps, total = itertools.count(), 2 + (PROCESSES + 1) * len(here)

        def tell(now: str) -> None:
            """Every text is one step; waiting for the phone to cool adds texts, not steps."""
            progress(min(next(steps), total - 1), total, now)

        session = Session(phone, facts, inside, schedule, cores, read_warmth(phone), tell)
        measured = _measure_here([artifacts[index] for index in here], images[:IMAGES], session)
        rows.update(zip(here, measured, strict=True))
    return tuple(rows[index] for index in range(len(artifacts)))


def _measure_here(artifacts: Sequence[Artifact], images: Images, session: Session) -> list[Row]:
    """A row for each artifact; those of one format follow one another."""
    rows: list[Row] = []
    with _stored(session) as store:
        inputs = _push(store, session, {artifact.format for artifact in artifacts}, images)
        for _, group in groupby(artifacts, key=lambda artifact: artifact.format):
            members, files = list(group), []
            references = reference_outputs(members, images, session.schedule.timeout_seconds)
            for artifact, reference in zip(members, references, strict=True):
                session.tell(f"{artifact.path.name}: push {artifact.bytes / 1e6:.1f} MB")
                place = _push_file(store, artifact)
                if session.place.wants_reference:
                    _push_numbers(store, reference, f"{place}.reference")
                shape = (1, *images.shape[1:])
                files.append(PhoneFile(artifact, place, inputs, shape, session.cores, reference))
            try:
                rows += take_turns(files, session.renamed())
            except BenchError as error:
                error.rows = (*rows, *error.rows)
                raise
    return rows


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
        invalid=trouble or _invalid(taken, parity, artifact.dtype),
        parity=parity,
    )


def _invalid(taken: Sequence[_Turn], parity: Parity | None, dtype: str) -> str:
    """Reason not to use the times of a file that computes in `dtype`; empty where they are good."""
    if parity is not None and not agree(parity, dtype):
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


Profiled = tuple[Device, Bundle, Callable[[Artifact, Sequence[Path], Path], RunnerAnswer]]


@contextmanager
def for_profiles(
    artifacts: Sequence[Artifact], images: Images, schedule: Schedule, serial: str | None = None
) -> Iterator[Profiled]:
    """The phone, its runner, and a function that profiles one artifact there and leaves FOLDER/profile; the phone is
    cleared when the block ends. BenchError, PhoneLost as `measure` gives them."""
    shell = Shell.open()
    phone = Phone(pick(serial).serial)
    facts = read_facts(phone)
    cores = pick_cores(facts, schedule.cluster, schedule.threads)
    formats = {artifact.format for artifact in artifacts} & shell.formats
    session = Session(phone, facts, shell, schedule, cores, read_warmth(phone), lambda _now: None)
    with _stored(session) as store:
        inputs = _push(store, session, formats, images) if formats else ()

        def one(artifact: Artifact, _local: Sequence[Path], folder: Path) -> RunnerAnswer:
            place, shape = _push_file(store, artifact), (1, *images.shape[1:])
            file = PhoneFile(artifact, place, inputs, shape, cores, profile=True)
            answer = shell.run(session, file, 0, few_runs(schedule))
            phone.pull(f"{HOME}/{PROFILE}", folder / "profile")
            return answer

        yield session.device, shell.bundle, one


def few_runs(schedule: Schedule) -> Schedule:
    """The schedule of a profile."""
    return replace(schedule, warmup_runs=3, warmup_seconds=0.0, runs=PROFILED_RUNS, seconds=0.0)


def _push_file(store: Store, artifact: Artifact) -> str:
    """Brings a file to the phone, and gives its place there."""
    place = f"files/{artifact.sha256[:16]}.{FORMATS[artifact.format].suffix}"
    store.put([Parcel(artifact.path, place, artifact.bytes, artifact.sha256)])
    return place


@contextmanager
def _stored(session: Session) -> Iterator[Store]:
    """The phone's store, cleared at the end, whatever ends it."""
    store = open_store(session.phone)
    try:
        yield store
    finally:
        # What went wrong matters more than what could not be removed: the next measurement removes it.
        with suppress(BenchError):
            session.place.clear(session.phone)
        with suppress(BenchError):
            store.clear()


def _push(store: Store, session: Session, formats: AbstractSet[str], images: Images) -> tuple[str, ...]:
    """Brings what runs the formats, and the images, to the phone, and gives the images' places there."""
    inside, tell = session.place, session.tell
    parcels = inside.parcels(formats)
    size = sum(parcel.bytes for parcel in store.missing(parcels))
    tell(f"runner: push {size / 1e6:.1f} MB" if size else "runner: there already")
    store.put(parcels)
    inside.prepare(session.phone, formats)
    tell(f"push {len(images)} images")
    return tuple(_push_numbers(store, image) for image in images)


def _push_numbers(store: Store, numbers: Images, place: str = "") -> str:
    """Brings float32 numbers to the phone, to `place` or, an image, to one named by its sha256; gives the place."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "numbers.raw"
        file.write_bytes(numbers.astype("<f4").tobytes())
        size, sha256 = size_and_sha256(file)
        place = place or f"images/{sha256[:16]}.raw"
        store.put([Parcel(file, place, size, sha256)])
        return place
