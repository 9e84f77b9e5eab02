"""Measures exported files on a phone over adb, each run in a process of its own on chosen cores."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Iterator, Sequence
from collections.abc import Set as AbstractSet
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from bench.host.measure import Progress, check
from bench.host.reference_outputs import reference_outputs
from bench.measurement import BenchError, Device, NotMeasured, Row, Schedule
from bench.phone.adb import Phone, pick
from bench.phone.app.inside import AppProcess, InApp
from bench.phone.facts import pick_cores, read_facts, read_warmth
from bench.phone.interleave import PROCESSES, take_turns
from bench.phone.places import PROFILE, PhoneFile, Place, Session, Shell
from bench.phone.storage import HOME, Parcel, Store, open_store
from bench.runner.bundle import Bundle
from bench.runner.protocol import RunnerAnswer
from exporters.artifact import Artifact, size_and_sha256
from exporters.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

IMAGES = 8
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
    here = [index for index, artifact in enumerate(artifacts) if artifact.format in inside.formats]
    here.sort(key=lambda index: artifacts[index].format)
    rows: dict[int, Row] = {}
    for index, artifact in enumerate(artifacts):
        if index not in here:
            form, reason = FORMATS[artifact.format], ""
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
