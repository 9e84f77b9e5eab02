"""export_all(): captured programs -> every format asked for, each format in a process of its own.

One AlexNet in four formats takes 2.7 GB in one process, so each toolkit gets its own, and they run side by side. A
worker sees captured programs and arrays only, never a user's code.
"""

from __future__ import annotations

import errno
import os
import tempfile
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.artifact import Artifact, ExportError, move
from exporters.formats import FORMATS, find_format
from exporters.toolkits import versions
from exporters.worker_process import (
    Answer,
    Requests,
    StepError,
    Worker,
    WorkerError,
    WorkerKilledError,
    end_with_parent,
    start,
    wait_for_any,
)

Array = NDArray[np.float32]

Progress = Callable[[str, str, str], None]
"""Called with format, network and stage: "exporting", "checking" or "done"."""


@dataclass(frozen=True)
class Job:
    """The work of one process: each network in `programs` (.pt2) to `directory`/{network}.{suffix} through `scratch`.

    `images` is an .npy of float32 (N, C, H, W); `reference` an .npy of logits (N, classes) for each network.
    """

    format: str
    directory: Path
    scratch: Path
    programs: dict[str, Path]
    images: Path
    reference: dict[str, Path]


@dataclass(frozen=True)
class Step:
    """A stage of one network's export that begins; of the last one, "done", the artifact."""

    network: str
    stage: str
    artifact: Artifact | None = None


def export_all(
    programs: Mapping[str, Path],
    formats: Sequence[str],
    directory: Path,
    images: Array,
    reference: Mapping[str, Array],
    *,
    progress: Progress = lambda _format, _network, _stage: None,
    finished: Callable[[tuple[Artifact, ...]], None] = lambda _artifacts: None,
    processes: int | None = None,
) -> tuple[Artifact, ...]:
    """`directory`/{network}.{suffix} for every network and format, each run on `images` and compared with `reference`.

    `programs` are .pt2 files that `capture.save` wrote, by network ("original", "compressed"); `images` float32
    (N, C, H, W); `reference` the modules' logits (N, classes) by network. `processes` run at a time, one for each core
    unless given. The artifacts come network by network, formats in the order given; `finished` gets those of a
    format as soon as they are whole, so that a caller can record them before another format fails.

    Raises ExportError when a format fails. Then, and on Ctrl-C, the other processes are ended; files that were
    complete stay, half-written ones go.
    """
    for name in formats:
        versions(find_format(name).requires)
    for network, program in programs.items():
        if Path(network).name != network or network.startswith("."):
            raise ExportError(f"a network's name becomes a file name, {network!r} cannot; use letters, digits, - and _")
        if not program.is_file():
            raise ExportError(f"there is no program at {program}; `exporters.capture.save` writes one")
        if network not in reference:
            raise ExportError(
                f"every network needs its reference logits, {network} has none; pass reference[{network!r}]"
            )
    directory.mkdir(parents=True, exist_ok=True)
    # Arrays and half-written files lie in one folder of the target: a rename finishes a file, one removal cleans up.
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=directory) as folder:
        scratch = Path(folder).resolve()
        np.save(scratch / "images.npy", images)
        for network in programs:
            np.save(scratch / f"{network}.reference.npy", reference[network])
        jobs = [
            Job(
                format=name,
                directory=directory.resolve(),
                scratch=scratch,
                programs={network: path.resolve() for network, path in programs.items()},
                images=scratch / "images.npy",
                reference={network: scratch / f"{network}.reference.npy" for network in programs},
            )
            for name in sorted(formats, key=lambda name: -FORMATS[name].effort)
        ]
        made = _run(jobs, processes or _cores(), progress, finished)
    rows = (made[network, name] for network in programs for name in formats)
    return tuple(replace(row, path=directory / row.path.name) for row in rows)


def _run(
    jobs: Sequence[Job], processes: int, progress: Progress, finished: Callable[[tuple[Artifact, ...]], None]
) -> dict[tuple[str, str], Artifact]:
    """The artifacts by network and format. At most `processes` workers at a time; all are ended when one fails."""
    threads = max(1, _cores() // min(processes, len(jobs)))
    made: dict[tuple[str, str], Artifact] = {}
    waiting, running = list(jobs), dict[Worker, tuple[Job, ExitStack]]()
    with ExitStack() as workers:
        while waiting or running:
            while waiting and len(running) < processes:
                job, own = waiting.pop(0), workers.enter_context(ExitStack())
                running[own.enter_context(start_export(job, threads))] = job, own
            worker = wait_for_any(list(running))
            job, own = running[worker]
            step = worker.receive("export", Step)
            if step.artifact is not None:
                made[step.network, job.format] = step.artifact
            progress(job.format, step.network, step.stage)
            artifacts = [made[network, job.format] for network in job.programs if (network, job.format) in made]
            if len(artifacts) == len(job.programs):
                del running[worker]
                own.close()
                finished(tuple(artifacts))
    return made


@contextmanager
def start_export(job: Job, threads: int) -> Iterator[Worker]:
    """A worker that has its job."""

    def failure(error: WorkerError) -> ExportError:
        cure = "; close other programs or export one format at a time" if isinstance(error, WorkerKilledError) else ""
        return ExportError(f"{job.format}: {error.reason if isinstance(error, StepError) else error}{cure}")

    # TMPDIR: half-written files of toolkits go with the scratch folder
    with start(serve, failure, threads=threads, environment={"TMPDIR": str(job.scratch)}) as worker:
        worker.send("export", job)
        yield worker


def serve(requests: Requests, answer: Answer) -> None:
    """The worker's side: one Job, its networks one after the other. Each file is in place before "done" is said."""
    job = requests.next(Job)
    # If the parent is killed, this process must not live on and put files into a folder that a later run works in.
    end_with_parent()
    try:
        export_networks(job, answer)
    except ExportError:
        raise
    except Exception as error:  # a bug of ours or a toolkit's
        raise ExportError(failure_text(error)) from error


def export_networks(job: Job, answer: Callable[[Step], None]) -> None:
    """Exports every network of the job and gives each stage when it begins."""
    from exporters.capture import load
    from exporters.export import export_program

    images = np.load(job.images)
    for network, program in job.programs.items():
        name = f"{network}.{find_format(job.format).suffix}"

        def begun(stage: str, network: str = network) -> None:
            answer(Step(network, stage))

        # Written and checked in the parent's scratch folder, which it removes whatever becomes of this process.
        artifact = export_program(
            load(program),
            job.format,
            job.scratch / name,
            network=network,
            images=images,
            reference=np.load(job.reference[network]),
            progress=begun,
        )
        move(artifact.path, job.directory / name)
        answer(Step(network, "done", replace(artifact, path=job.directory / name)))


def failure_text(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return f"{error.strerror}: {error.filename or 'the file'} cannot be written; free some room, then go on"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error).strip().splitlines() or ["no message"]
    return (
        f"{type(error).__name__}: {text[0][:300]} (at {Path(frame.filename).name}:{frame.lineno}); report this as a bug"
    )


def _cores() -> int:
    """Cores that this process may use, which a container or taskset makes fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
