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
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from exporters.artifact import Artifact, ExportError, move
from exporters.formats import FORMATS, find_format
from exporters.lookup import Lookup, read_lookups, write_lookups
from exporters.outputs import Output
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
"""Called with format, network and stage: "exporting", "checking", "running the test images" or "done"."""


@dataclass(frozen=True)
class Job:
    """The work of one process: each network in `programs` (.pt2) to `directory`/{network}.{suffix} through `scratch`.

    `images` is an .npy of float32 (N, C, H, W); `reference` an .npy of logits (N, classes) for each network; `lookups`
    an .npz of the weights of a network that are known as indices and codebook. Each file then runs on every image of
    `test`, an .npy of the same kind, and its logits lie in `scratch`/{file name}.npy.
    """

    format: str
    directory: Path
    scratch: Path
    programs: dict[str, Path]
    images: Path
    reference: dict[str, Path]
    test: Path | None = None
    lookups: dict[str, Path] = field(default_factory=dict)
    outputs: tuple[Output, ...] = ()


@dataclass(frozen=True)
class Step:
    """A stage of one network's export that begins; of the last one, "done", the artifact, and the .npy of its logits
    for the test images where there are any."""

    network: str
    stage: str
    artifact: Artifact | None = None
    logits: Path | None = None


@dataclass(frozen=True)
class Exported:
    """An exported file, and its logits (N, classes) for the test images; None without images, or where the format does
    not run on this system."""

    artifact: Artifact
    logits: Array | None = None


@dataclass(frozen=True)
class FailedFormat:
    """A format whose export failed, the reason, and the files of it that were whole by then."""

    format: str
    reason: str
    exported: tuple[Exported, ...]


def export_all(
    programs: Mapping[str, Path],
    formats: Mapping[str, Sequence[str]],
    directory: Path,
    images: Array,
    reference: Mapping[str, Array],
    *,
    lookups: Mapping[str, Mapping[str, Lookup]] | None = None,
    test: Path | None = None,
    outputs: Sequence[Output] = (),
    progress: Progress = lambda _format, _network, _stage: None,
    finished: Callable[[tuple[Exported, ...]], None] = lambda _exported: None,
    failed: Callable[[FailedFormat], None] | None = None,
    processes: int | None = None,
) -> tuple[Exported, ...]:
    """`directory`/{network}.{suffix} for the networks of every format, each run on `images` and compared with
    `reference`.

    `programs` are .pt2 files that `capture.save` wrote, by network ("original", "compressed.int8"); `formats` names the
    networks of each format; `images` are float32 (N, C, H, W); `reference` the rows of outputs to compare with, by
    network, and `outputs` what these hold (by default what `outputs_of` says); `lookups` the weights of a network that
    are known as indices and codebook, by name. With `test`, an .npy like `images`, each file's rows for these come with
    it. `processes` run at a time, one for each core unless given. What is exported comes format by format; `finished`
    gets the files of a format as soon as they are whole, so that a caller can record them before another format fails.
    `failed` gets a format that fails, and the others go on.

    Raises ExportError when a format fails and there is no `failed`. Then, and on Ctrl-C, the other processes are ended;
    files that were complete stay, half-written ones go.
    """
    for name, networks in formats.items():
        versions(find_format(name).writer.REQUIRES)
        unknown = next((network for network in networks if network not in programs), None)
        if unknown is not None:
            raise ExportError(f"{name}: there is no program of {unknown}; pass programs[{unknown!r}]")
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
        tables = {network: scratch / f"{network}.lookups.npz" for network in lookups or {}}
        for network, own in (lookups or {}).items():
            write_lookups(tables[network], own)
        jobs = [
            Job(
                format=name,
                directory=directory.resolve(),
                scratch=scratch,
                programs={network: programs[network].resolve() for network in formats[name]},
                images=scratch / "images.npy",
                reference={network: scratch / f"{network}.reference.npy" for network in formats[name]},
                lookups={network: tables[network] for network in formats[name] if network in tables},
                test=None if test is None else test.resolve(),
                outputs=tuple(outputs),
            )
            for name in sorted(formats, key=lambda name: -FORMATS[name].effort)
        ]

        def placed(exported: tuple[Exported, ...]) -> None:
            finished(tuple(replace(each, artifact=_in(directory, each.artifact)) for each in exported))

        def gone(format: FailedFormat) -> None:
            assert failed is not None  # else nothing calls this
            whole = tuple(replace(each, artifact=_in(directory, each.artifact)) for each in format.exported)
            failed(replace(format, exported=whole))

        made = _run(jobs, processes or _cores(), progress, placed, None if failed is None else gone)
    rows = [made[network, name] for name, own in formats.items() for network in own if (network, name) in made]
    return tuple(replace(row, artifact=_in(directory, row.artifact)) for row in rows)


def _in(directory: Path, artifact: Artifact) -> Artifact:
    return replace(artifact, path=directory / artifact.path.name)


def _run(
    jobs: Sequence[Job],
    processes: int,
    progress: Progress,
    finished: Callable[[tuple[Exported, ...]], None],
    failed: Callable[[FailedFormat], None] | None,
) -> dict[tuple[str, str], Exported]:
    """The files by network and format. At most `processes` workers at a time; all are ended when one fails, unless
    there is a `failed` to tell of it."""
    threads = max(1, _cores() // min(processes, len(jobs)))
    made: dict[tuple[str, str], Exported] = {}
    waiting, running = list(jobs), dict[Worker, tuple[Job, ExitStack]]()
    with ExitStack() as workers:
        while waiting or running:
            while waiting and len(running) < processes:
                job, own = waiting.pop(0), workers.enter_context(ExitStack())
                running[own.enter_context(start_export(job, threads))] = job, own
            worker = wait_for_any(list(running))
            job, own = running[worker]
            try:
                step = worker.receive("export", Step)
            except ExportError as error:
                if failed is None:
                    raise
                del running[worker]
                own.close()
                whole = [made.pop((name, job.format)) for name in job.programs if (name, job.format) in made]
                failed(FailedFormat(job.format, str(error), tuple(whole)))
                continue
            if step.artifact is not None:
                logits = None if step.logits is None else np.load(step.logits)
                made[step.network, job.format] = Exported(step.artifact, logits)
            progress(job.format, step.network, step.stage)
            exported = [made[network, job.format] for network in job.programs if (network, job.format) in made]
            if len(exported) == len(job.programs):
                del running[worker]
                own.close()
                finished(tuple(exported))
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
    from exporters.parity import logits_of_file

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
            lookups=read_lookups(job.lookups[network]) if network in job.lookups else None,
            outputs=job.outputs,
            progress=begun,
        )
        logits = None
        if job.test is not None and artifact.parity is not None and artifact.parity.executed:
            begun("running the test images")
            logits = job.scratch / f"{name}.npy"
            np.save(logits, logits_of_file(artifact.path, job.format, np.load(job.test, mmap_mode="r")))
        move(artifact.path, job.directory / name)
        answer(Step(network, "done", replace(artifact, path=job.directory / name), logits))


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
