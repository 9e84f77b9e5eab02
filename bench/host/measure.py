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
from typing import TYPE_CHECKING

from bench.host.facts import describe, load_average, pick_cores
from bench.host.worker import Ended, Open, Opened, Runs, Samples, Timed, serve, start_worker
from bench.measurement import BenchError, Block, Measurement, MemoryPhases, NotMeasured, Row, Schedule
from exporters.artifact import Artifact, size_and_sha256
from exporters.formats import FORMATS
from exporters.worker_process import Worker

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

Progress = Callable[[int, int, str], None]
"""Called before each wait with the steps done, all steps, and what comes next."""
SYSTEMS = {"darwin": "macOS"}


@dataclass(frozen=True)
class _Session:
    """Settings that the files of one format share while they take turns."""

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
    worker: Worker
    opened: Opened
    loaded: Timed
    first: Timed
    warm: Samples
    measured_at: str
    load_average: float

    @property
    def slow_ms(self) -> float:
        """The time of one warm run."""
        return fmean(self.warm.samples_ms) if self.warm.samples_ms else self.first.ms


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
    import numpy as np

    schedule = schedule or Schedule()
    check(artifacts, images)
    cores = pick_cores(schedule.threads, schedule.cores)
    by_format = sorted(range(len(artifacts)), key=lambda index: artifacts[index].format)
    rows: dict[int, Row] = {}
    steps, total = itertools.count(), 2 * len(artifacts) + schedule.rounds * len({each.format for each in artifacts})

    def tell(now: str) -> None:
        progress(next(steps), total, now)

    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        file = Path(folder) / "images.npy"
        np.save(file, np.ascontiguousarray(images))
        for name, group in groupby(by_format, key=lambda index: artifacts[index].format):
            members, kind = list(group), FORMATS[name]
            if not kind.runs_here:
                reason = f"{kind.title} predicts on {SYSTEMS.get(str(kind.system), kind.system)} only"
                for index in members:
                    rows[index] = NotMeasured(
                        artifacts[index].network, name, artifacts[index].sha256, describe(), reason
                    )
                continue
            session = _Session(schedule, cores, file, images.shape, tell)
            with ExitStack() as workers:
                ready = [_prepare(artifacts[index], workers, session) for index in members]
                rows.update(zip(members, _take_turns(ready, session), strict=True))
    return tuple(rows[index] for index in range(len(artifacts)))


def turns(files: int, rounds: int) -> tuple[int, ...]:
    """The index of the file of each turn: 0 1 1 0 in every round of two files, 0 1 2 2 1 0 of three."""
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


def _prepare(artifact: Artifact, workers: ExitStack, session: _Session) -> _Ready:
    """Starts a process for the file, loads it, runs it once and warms it up."""
    schedule, name = session.schedule, artifact.path.name
    worker = workers.enter_context(start_worker(serve, name, schedule.threads, session.cores, schedule.timeout_seconds))
    now, load = datetime.now(UTC).isoformat(timespec="seconds"), load_average()
    session.tell(f"{name}: load")
    file = Open(artifact.path, artifact.format, schedule.threads, session.images, session.cores)
    opened = worker.ask("open", file, Opened)
    loaded = worker.ask("load", None, Timed)
    first = worker.ask("first", None, Timed)
    session.tell(f"{name}: warm up, first run {first.ms:.1f} ms")
    warm_up = Runs(schedule.warmup_runs, schedule.warmup_seconds, schedule.cap_seconds)
    warm = worker.ask("warm up", warm_up, Samples)
    return _Ready(artifact, worker, opened, loaded, first, warm, now, load)


def _take_turns(ready: list[_Ready], session: _Session) -> list[Measurement]:
    """Lets the files run their blocks in turn; while one runs, the others wait on their pipes and use no core."""
    schedule = session.schedule
    rounds = _affordable_rounds(schedule, max(file.slow_ms for file in ready))
    blocks: list[list[Block]] = [[] for _ in ready]
    preemptions = [0] * len(ready)
    number = 2 * rounds
    request = Runs(
        runs=math.ceil(schedule.runs / number),
        seconds=schedule.seconds / number,
        cap_seconds=schedule.cap_seconds / number,
        settle_runs=schedule.settle_runs,
    )
    for turn, index in enumerate(turns(len(ready), rounds)):
        if turn % (2 * len(ready)) == 0:
            names = ", ".join(file.artifact.path.name for file in ready)
            session.tell(f"{names}: round {turn // (2 * len(ready)) + 1} of {rounds}")
        samples = ready[index].worker.ask("block", request, Samples)
        blocks[index].append(Block(turn, samples.samples_ms))
        preemptions[index] += samples.preemptions
    return [
        _measurement(file, session, tuple(blocks[index]), preemptions[index], file.worker.ask("end", None, Ended))
        for index, file in enumerate(ready)
    ]


def _affordable_rounds(schedule: Schedule, slow_ms: float) -> int:
    """The schedule's rounds, or as many as the slowest file can make within the cap with one run in each block."""
    round_seconds = 2 * (1 + schedule.settle_runs) * slow_ms / 1000
    return max(1, min(schedule.rounds, int(schedule.cap_seconds / round_seconds)))


def _measurement(
    ready: _Ready, session: _Session, blocks: tuple[Block, ...], preemptions: int, ended: Ended
) -> Measurement:
    artifact, notes = ready.artifact, []
    runs, wanted = sum(len(block.samples_ms) for block in blocks), session.schedule.runs
    if session.cores is None:
        notes.append(f"not pinned: {SYSTEMS.get(sys.platform, sys.platform)} pins no process to a core")
    if runs < wanted:
        notes.append(f"{runs} of {wanted} runs: {session.schedule.cap_seconds:g} s were up")
    return Measurement(
        network=artifact.network,
        format=artifact.format,
        sha256=artifact.sha256,
        bytes=artifact.bytes,
        device=describe(),
        runtime=FORMATS[artifact.format].runtime,
        runtime_version=ready.opened.version,
        schedule=session.schedule,
        threads=session.schedule.threads,
        pinned_cores=ready.opened.pinned,
        input_shape=(1, *session.shape[1:]),
        images=session.shape[0],
        load_ms=ready.loaded.ms,
        first_ms=ready.first.ms,
        blocks=blocks,
        memory=MemoryPhases(
            start=ready.opened.memory,
            loaded=ready.loaded.memory,
            first=ready.first.memory,
            end=ended.memory,
        ),
        session=session.name,
        measured_at=ready.measured_at,
        mhz_before=ready.warm.mhz,
        mhz_after=ended.mhz,
        preemptions=preemptions,
        load_average=ready.load_average,
        note="; ".join(notes),
    )
