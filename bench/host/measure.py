"""Measures exported files on this machine, each in a process of its own that is pinned to its cores."""

from __future__ import annotations

import itertools
import math
import sys
import tempfile
import uuid
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from bench.host.facts import describe, load_average, pick_cores
from bench.host.worker_client import Child, start
from bench.measurement import BenchError, Block, Measurement, Memory, MemoryPhases, NotMeasured, Row, Schedule
from exporters.artifact import Artifact, size_and_sha256
from exporters.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

Progress = Callable[[int, int, str], None]
"""Called before each wait with the steps done, all steps, and what comes next."""
SYSTEMS = {"darwin": "macOS"}


@dataclass(frozen=True)
class _Session:
    """What the files of one format have in common while they take turns."""

    schedule: Schedule
    cores: tuple[int, ...] | None
    images: Path
    shape: tuple[int, ...]
    tell: Callable[[str], None]
    name: str = field(default_factory=lambda: uuid.uuid4().hex)


@dataclass(frozen=True)
class _Ready:
    """A file that is loaded and warm, waiting for its turn."""

    artifact: Artifact
    child: Child
    opened: dict[str, Any]
    loaded: dict[str, Any]
    first: dict[str, Any]
    warm: dict[str, Any]
    measured_at: str
    load_average: float

    @property
    def slow_ms(self) -> float:
        """What one warm run takes."""
        return fmean(self.warm["samples_ms"]) if self.warm["samples_ms"] else float(self.first["ms"])


def measure(
    artifacts: Sequence[Artifact],
    images: Images,
    schedule: Schedule | None = None,
    progress: Progress = lambda _done, _total, _now: None,
) -> tuple[Row, ...]:
    """A Measurement for each artifact, in the order given, or NotMeasured where this system cannot run the format.

    `images` are real images, float32 (N, C, H, W), already normalized; each run takes the next one in turn, alone.
    The artifacts of one format (an original and its compressed forms) take turns on the same cores, A B B A, so that
    `bench.statistics.time_ratio` can compare them; formats follow one another. `progress` is called before
    each wait. Six AlexNets take about half a minute with the default schedule.

    BenchError if an artifact is not the file it says, or its process fails, dies or hangs; Ctrl-C ends every process.
    """
    schedule = schedule or Schedule()
    check(artifacts, images)
    cores = pick_cores(schedule.threads, schedule.cores)
    places = sorted(range(len(artifacts)), key=lambda place: artifacts[place].format)
    rows: dict[int, Row] = {}
    tell = _counter(progress, 2 * len(artifacts) + schedule.rounds * len({each.format for each in artifacts}))
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = _save(images, Path(folder))
        for name, group in groupby(places, key=lambda place: artifacts[place].format):
            members = list(group)
            session = _Session(schedule, cores, file, images.shape, tell)
            measured = _measure_format(name, [artifacts[place] for place in members], session)
            rows.update(zip(members, measured, strict=True))
    return tuple(rows[place] for place in range(len(artifacts)))


def _counter(progress: Progress, total: int) -> Callable[[str], None]:
    """`progress` without the counting: every text is one step of `total`."""
    steps = itertools.count()
    return lambda now: progress(next(steps), total, now)


def turns(files: int, rounds: int) -> tuple[int, ...]:
    """Which file has each turn: 0 1 1 0 in every round of two files, 0 1 2 2 1 0 of three."""
    forth = list(range(files))
    return tuple(forth + forth[::-1]) * rounds


def check(artifacts: Sequence[Artifact], images: Images) -> None:
    """BenchError if the images are not what a network takes, or an artifact is not the file it says."""
    if images.ndim != 4 or not len(images) or images.dtype.name != "float32":
        raise BenchError(
            f"images are float32 and of shape (N, C, H, W), not {images.dtype} and {tuple(images.shape)}; "
            "stack them, normalize them and convert them"
        )
    for artifact in artifacts:
        if artifact.format not in FORMATS:
            raise BenchError(f"{artifact.path.name} has format {artifact.format!r}; choose among {', '.join(FORMATS)}")
        if not artifact.path.exists():
            raise BenchError(f"there is no {artifact.path}; export it again")
        # A row that names one file's hash and another file's time would be a lie that nobody finds.
        if FORMATS[artifact.format].runs_here and size_and_sha256(artifact.path)[1] != artifact.sha256:
            raise BenchError(
                f"{artifact.path} has changed since it was exported: its sha256 is not {artifact.sha256[:12]}... any "
                "more; export it again"
            )
        if tuple(artifact.input) != (1, *images.shape[1:]):
            wants, given = ("x".join(map(str, shape)) for shape in (artifact.input[1:], images.shape[1:]))
            raise BenchError(
                f"{artifact.path.name} takes images of {wants}, and these are {given}; pass images of its own size, or "
                "export it for these"
            )


def _save(images: Images, folder: Path) -> Path:
    import numpy as np

    path = folder / "images.npy"
    np.save(path, np.ascontiguousarray(images))
    return path


def _measure_format(name: str, artifacts: list[Artifact], session: _Session) -> list[Row]:
    """One row for each artifact, all of one format."""
    system = FORMATS[name].system
    if not FORMATS[name].runs_here:
        reason = f"{FORMATS[name].title} predicts on {SYSTEMS.get(str(system), system)} only"
        return [NotMeasured(each.network, name, each.sha256, describe(), reason) for each in artifacts]
    with ExitStack() as children:
        ready = [_prepare(each, children, session) for each in artifacts]
        return list(_take_turns(ready, session))


def _prepare(artifact: Artifact, children: ExitStack, session: _Session) -> _Ready:
    """Starts a process for the file, loads it, runs it once and warms it up."""
    schedule, name = session.schedule, artifact.path.name
    child = children.enter_context(start(name, schedule.threads, schedule.timeout_seconds))
    now, load = datetime.now(UTC).isoformat(timespec="seconds"), load_average()
    session.tell(f"{name}: load")
    opened = child.ask(
        "open",
        path=str(artifact.path),
        format=artifact.format,
        threads=schedule.threads,
        cores=session.cores,
        images=str(session.images),
    )
    loaded = child.ask("load")
    first = child.ask("first")
    session.tell(f"{name}: warm up, first run {first['ms']:.1f} ms")
    order = {"runs": schedule.warmup_runs, "seconds": schedule.warmup_seconds, "cap": schedule.cap_seconds}
    warm = child.ask("warm up", **order, settle_runs=0)
    return _Ready(artifact, child, opened, loaded, first, warm, now, load)


def _take_turns(ready: list[_Ready], session: _Session) -> list[Measurement]:
    """Lets the files run their blocks in turn; while one runs, the others wait on their pipes and use no core."""
    schedule = session.schedule
    rounds = _affordable_rounds(schedule, max(each.slow_ms for each in ready))
    blocks: list[list[Block]] = [[] for _ in ready]
    preemptions = [0] * len(ready)
    share = 2 * rounds
    order = {
        "runs": math.ceil(schedule.runs / share),
        "seconds": schedule.seconds / share,
        "cap": schedule.cap_seconds / share,
        "settle_runs": schedule.settle_runs,
    }
    for turn, file in enumerate(turns(len(ready), rounds)):
        if turn % (2 * len(ready)) == 0:
            names = ", ".join(each.artifact.path.name for each in ready)
            session.tell(f"{names}: round {turn // (2 * len(ready)) + 1} of {rounds}")
        answer = ready[file].child.ask("block", **order)
        blocks[file].append(Block(turn, tuple(answer["samples_ms"])))
        preemptions[file] += answer["preemptions"]
    return [
        _measurement(each, session, tuple(blocks[file]), each.child.ask("end") | {"preemptions": preemptions[file]})
        for file, each in enumerate(ready)
    ]


def _affordable_rounds(schedule: Schedule, slow_ms: float) -> int:
    """The schedule's rounds, or as many as the slowest file can make within the cap with one run in each block."""
    round_seconds = 2 * (1 + schedule.settle_runs) * slow_ms / 1000
    return max(1, min(schedule.rounds, int(schedule.cap_seconds / round_seconds)))


def _measurement(ready: _Ready, session: _Session, blocks: tuple[Block, ...], ended: dict[str, Any]) -> Measurement:
    artifact = ready.artifact
    return Measurement(
        network=artifact.network,
        format=artifact.format,
        sha256=artifact.sha256,
        bytes=artifact.bytes,
        device=describe(),
        runtime=FORMATS[artifact.format].runtime,
        runtime_version=ready.opened["version"],
        schedule=session.schedule,
        threads=session.schedule.threads,
        pinned_cores=None if ready.opened["pinned"] is None else tuple(ready.opened["pinned"]),
        input_shape=(1, *session.shape[1:]),
        images=session.shape[0],
        load_ms=ready.loaded["ms"],
        first_ms=ready.first["ms"],
        blocks=blocks,
        memory=MemoryPhases(
            start=Memory(**ready.opened["memory"]),
            loaded=Memory(**ready.loaded["memory"]),
            first=Memory(**ready.first["memory"]),
            end=Memory(**ended["memory"]),
        ),
        session=session.name,
        measured_at=ready.measured_at,
        mhz_before=ready.warm["mhz"],
        mhz_after=ended["mhz"],
        preemptions=ended["preemptions"],
        load_average=ready.load_average,
        note=_note(session, blocks),
    )


def _note(session: _Session, blocks: tuple[Block, ...]) -> str:
    """What a reader has to know about how the schedule was kept."""
    runs, wanted = sum(len(block.samples_ms) for block in blocks), session.schedule.runs
    notes = []
    if session.cores is None:
        notes.append(f"not pinned: {SYSTEMS.get(sys.platform, sys.platform)} pins no process to a core")
    if runs < wanted:
        notes.append(f"{runs} of {wanted} runs: {session.schedule.cap_seconds:g} s were up")
    return "; ".join(notes)
