"""Counts exported files on the simulated ARM CPU, one thread: instructions, memory traffic, allocations, answers."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bench.host import measure as host
from bench.measurement import BenchError, Device, NotMeasured, Row, Schedule, Simulated
from bench.runner.answer import RunnerAnswer, parse
from bench.runner.bundle import Bundle, open_bundle
from bench.simulator.cores import Core, read_cores
from bench.simulator.emulator import Machine, Trace, find, trace
from exporters.artifact import Artifact, Parity
from exporters.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

IMAGES = 4
# What takes a millisecond on a core takes a second here.
SLOWER = 20


@dataclass(frozen=True)
class _Session:
    """What the files that are counted together have in common."""

    machine: Machine
    reference: Bundle
    inputs: tuple[Path, ...]
    shape: tuple[int, ...]
    timeout_seconds: float

    @property
    def shape_word(self) -> str:
        return "x".join(map(str, self.shape))


def measure_on(core: str) -> Callable[..., tuple[Row, ...]]:
    """The function that counts files on the core of this name, of the kind that DEVICES holds."""

    def measure(
        artifacts: Sequence[Artifact],
        images: Images,
        schedule: Schedule | None = None,
        progress: host.Progress = lambda _done, _total, _now: None,
    ) -> tuple[Row, ...]:
        """A Simulated row for each artifact, in the order given, or NotMeasured where no runner runs the format.

        Of `images` the first four are taken, and of the schedule its threads (one) and twenty times its timeout.
        BenchError says what to install or build, or why a file cannot be run.
        """
        schedule = schedule or Schedule()
        host.check(artifacts, images)
        check_threads(schedule)
        with tempfile.TemporaryDirectory(prefix="arm-images-") as folder:
            session = _session(read_cores()[core], images[:IMAGES], schedule, Path(folder))
            rows = []
            for place, artifact in enumerate(artifacts):
                progress(place, len(artifacts), f"{artifact.path.name} on {core}")
                rows.append(_row(artifact, session))
        return tuple(rows)

    return measure


def check_threads(schedule: Schedule) -> None:
    """BenchError for more than one thread."""
    if schedule.threads != 1:
        raise BenchError(
            f"the simulated ARM CPU counts one thread, not {schedule.threads}: with more, counts would not repeat; "
            "leave --threads out"
        )


def describe_as(core: str) -> Callable[[], Device]:
    """The function that tells which simulated device this is. BenchError if it cannot run here."""

    def describe() -> Device:
        return device_of(Machine(find(), open_bundle("aarch64"), read_cores()[core]))

    return describe


def _session(core: Core, images: Images, schedule: Schedule, folder: Path) -> _Session:
    machine = Machine(find(), open_bundle("aarch64"), core)
    inputs = tuple(folder / f"image{place}" for place in range(len(images)))
    for path, image in zip(inputs, images, strict=True):
        path.write_bytes(image.astype("<f4").tobytes())
    shape = (1, *images.shape[1:])
    return _Session(machine, open_bundle("host"), inputs, shape, SLOWER * schedule.timeout_seconds)


def device_of(machine: Machine) -> Device:
    """The simulated core as a device."""
    core = machine.core
    system = f"QEMU {machine.emulator.version}, caches of a {core.device}"
    return Device("simulated", f"simulated {core.name}", core.name, 1, system)


def _row(artifact: Artifact, session: _Session) -> Row:
    machine, form = session.machine, artifact.format
    if form not in machine.bundle.engines:
        reason = f"there is no runner for {FORMATS[form].title}"
        return NotMeasured(artifact.network, form, artifact.sha256, device_of(machine), reason)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    counted = trace(machine, form, artifact.path, session.inputs, session.shape_word, session.timeout_seconds)
    parity = _parity(counted.answer, _reference(artifact, session))
    return Simulated(
        network=artifact.network,
        format=form,
        sha256=artifact.sha256,
        bytes=artifact.bytes,
        device=device_of(machine),
        runtime=FORMATS[form].runtime,
        runtime_version=counted.answer.engine_version,
        emulator=machine.emulator.identity,
        input_shape=session.shape,
        images=len(session.inputs),
        load=counted.load,
        first=counted.first,
        run=counted.run,
        traffic=counted.traffic,
        memory=counted.memory,
        parity=parity,
        measured_at=now,
        note=_note(counted, parity, artifact),
    )


def _reference(artifact: Artifact, session: _Session) -> RunnerAnswer:
    """What the same program answers on this machine, built for it."""
    inputs = [word for path in session.inputs for word in ("--input", str(path))]
    words = [*session.reference.command(artifact.format), "--model", str(artifact.path), *inputs]
    plan = ["--shape", session.shape_word, "--warmup-runs", "0", "--warmup-seconds", "0", "--min-runs", "0"]
    done = subprocess.run([*words, *plan], capture_output=True, text=True, timeout=session.timeout_seconds, check=False)
    return parse(done.stdout, f"{artifact.path.name} on this machine")


def _parity(given: RunnerAnswer, reference: RunnerAnswer) -> Parity:
    from exporters.parity import compare

    assert given.outputs is not None  # no --outputs was asked for
    assert reference.outputs is not None
    return compare(given.outputs, reference.outputs)


def _note(counted: Trace, parity: Parity, artifact: Artifact) -> str:
    """What a reader has to know about this row."""
    notes = []
    if parity.verdict(artifact.dtype) != "passed":
        notes.append("answers otherwise than on this machine: do not ship it, and look at its kernels")
    if counted.traffic is None:
        notes.append("no memory traffic: a run is too long to look at each of its accesses")
    return "; ".join(notes)
