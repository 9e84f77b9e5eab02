"""export_all(): captured programs -> every format asked for, each format in a process of its own.

One AlexNet in four formats takes 2.7 GB in one process, so each toolkit gets its own, and they run side by side.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import Any

import numpy as np
from numpy.typing import NDArray

from exporters.artifact import Artifact, ExportError
from exporters.formats import FORMATS, find_format
from exporters.toolkits import versions
from exporters.worker import Job

Array = NDArray[np.float32]

Progress = Callable[[str, str, str], None]
"""Called with format, network and stage: "exporting", "checking" or "done"."""

PATIENCE = 5.0
"""Seconds that a child has to end before it is killed."""


def export_all(
    programs: Mapping[str, Path],
    formats: Sequence[str],
    directory: Path,
    images: Array,
    reference: Mapping[str, Array],
    *,
    progress: Progress | None = None,
    finished: Callable[[tuple[Artifact, ...]], None] = lambda _artifacts: None,
    processes: int | None = None,
) -> tuple[Artifact, ...]:
    """`directory`/{network}.{suffix} for every network and format, each run on `images` and compared with `reference`.

    `programs` are .pt2 files that `program.save` wrote, by network ("original", "compressed"); `images` float32
    (N, C, H, W); `reference` the modules' logits (N, classes) by network. `processes` run at a time, one for each core
    unless given. The artifacts come network by network, formats in the order given; `finished` hears of those of a
    format as soon as they are whole, so that a caller can record them before another format fails.

    Raises ExportError when a format fails. Then, and on Ctrl-C, the other children are ended; files that were
    complete stay, half-written ones go.
    """
    _check(programs, formats, reference)
    directory.mkdir(parents=True, exist_ok=True)
    # Jobs and half-written files lie in one folder inside the target: a rename finishes a file, one removal cleans up.
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=directory) as scratch:
        jobs = _write_jobs(Path(scratch), programs, formats, directory, images, reference)
        found: dict[tuple[str, str], Artifact] = {}

        def note(name: str, rows: list[dict[str, Any]]) -> None:
            made = {row["network"]: Artifact.from_row(row, directory) for row in rows}
            found.update({(network, name): artifact for network, artifact in made.items()})
            finished(tuple(made[network] for network in programs))

        _run(jobs, Path(scratch), processes or _cores(), progress or _silent, note)
    return tuple(found[network, name] for network in programs for name in formats)


@dataclass(frozen=True)
class _Child:
    format: str
    process: subprocess.Popen[str]
    log: Path


def _check(programs: Mapping[str, Path], formats: Sequence[str], reference: Mapping[str, Array]) -> None:
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


def _write_jobs(
    scratch: Path,
    programs: Mapping[str, Path],
    formats: Sequence[str],
    directory: Path,
    images: Array,
    reference: Mapping[str, Array],
) -> dict[str, Path]:
    """The job file of each format. The arrays are written once, for all children."""
    np.save(scratch / "images.npy", images)
    for network in programs:
        np.save(scratch / f"{network}.reference.npy", reference[network])
    jobs = {}
    for name in sorted(formats, key=lambda name: -FORMATS[name].effort):
        jobs[name] = scratch / f"{name}.json"
        Job(
            format=name,
            directory=str(directory.resolve()),
            programs={network: str(path.resolve()) for network, path in programs.items()},
            scratch=str(scratch.resolve()),
            images=str(scratch.resolve() / "images.npy"),
            reference={network: str(scratch.resolve() / f"{network}.reference.npy") for network in programs},
        ).write(jobs[name])
    return jobs


def _run(
    jobs: Mapping[str, Path],
    scratch: Path,
    processes: int,
    progress: Progress,
    finished: Callable[[str, list[dict[str, Any]]], None],
) -> None:
    """Hands on the rows of each format. At most `processes` children at a time; all are ended when one fails."""
    waiting, running = list(jobs), dict[str, _Child]()
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in jobs}
    messages: SimpleQueue[tuple[str, dict[str, Any] | None]] = SimpleQueue()
    threads = max(1, _cores() // min(processes, len(jobs)))
    try:
        while waiting or running:
            while waiting and len(running) < processes:
                name = waiting.pop(0)
                running[name] = _start(name, jobs[name], scratch, threads, messages)
            name, message = messages.get()
            if message is None:
                ended = running.pop(name)
                ended.process.wait()  # closing earlier would end it
                _close(ended)
                _check_end(ended)
                finished(name, rows[name])
            elif "error" in message:
                raise ExportError(f"{name}: {message['error']}")
            else:
                rows[name] += [message["artifact"]] if "artifact" in message else []
                progress(name, message["network"], message["stage"])
    finally:
        _end(running.values())


def _start(
    name: str, job: Path, scratch: Path, threads: int, messages: SimpleQueue[tuple[str, dict[str, Any] | None]]
) -> _Child:
    log = scratch / f"{name}.log"
    root = str(Path(__file__).resolve().parents[1])
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH")))),
        # idle threads that spin take the cores from the child beside them
        "OMP_WAIT_POLICY": "passive",
        "OMP_NUM_THREADS": str(threads),
        # half-written files of toolkits go with the scratch folder
        "TMPDIR": str(scratch),
    }
    with log.open("w", encoding="utf-8") as errors:
        process = subprocess.Popen(
            # -P: a file called onnx.py in the user's folder must not stand in for the toolkit
            [sys.executable, "-P", "-m", "exporters.worker", str(job)],
            env=environment,
            stdin=subprocess.PIPE,  # never written to: the child ends when it closes
            stdout=subprocess.PIPE,
            stderr=errors,
            encoding="utf-8",
            errors="replace",
        )

    def listen() -> None:
        assert process.stdout is not None
        try:
            with process.stdout as lines:
                for message in map(_message, lines):
                    if message is not None:
                        messages.put((name, message))
        finally:
            messages.put((name, None))

    Thread(target=listen, daemon=True).start()
    return _Child(name, process, log)


def _message(line: str) -> dict[str, Any] | None:
    """What the worker says in a line; None for what others print before it runs, a sitecustomize.py, say."""
    try:
        found = json.loads(line)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def _check_end(child: _Child) -> None:
    """Raises ExportError when the child, which has closed its output, did not end well."""
    code = child.process.wait()
    if code < 0:
        raise ExportError(
            f"{child.format}: its process was killed by signal {-code} ({signal.Signals(-code).name}), "
            "most often because memory ran out; close other programs or export one format at a time"
        )
    if code:
        lines = child.log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"]
        raise ExportError(f"{child.format}: its process ended with status {code}: {lines[-1][:300]}")


def _end(children: Collection[_Child]) -> None:
    for child in children:
        child.process.terminate()
    for child in children:
        try:
            child.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
        _close(child)


def _close(child: _Child) -> None:
    """Closes our end of the child's standard input, once the child has ended."""
    if child.process.stdin is not None:
        child.process.stdin.close()


def _silent(format: str, network: str, stage: str) -> None:
    """Stands in where nobody listens."""


def _cores() -> int:
    """Cores that this process may use, which a container or taskset makes fewer than the machine has."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
