"""Counts exported files on the simulated ARM CPU, one thread: instructions, memory traffic, allocations, outputs."""

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
from bench.runner.bundle import Bundle, open_bundle
from bench.runner.protocol import RunnerAnswer, parse, several_outputs, write_images
from bench.simulator.cores import read_cores
from bench.simulator.emulator import Machine, find, trace
from exporters.artifact import Artifact
from exporters.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

IMAGES = 4
# A millisecond of a core takes a second here.
SLOWER = 20


@dataclass(frozen=True)
class _Session:
    """The setting that the files which are counted together share."""

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
            machine = Machine(find(), open_bundle("aarch64"), read_cores()[core])
            inputs = write_images(images[:IMAGES], Path(folder))
            seconds = SLOWER * schedule.timeout_seconds
            session = _Session(machine, open_bundle("host"), inputs, (1, *images.shape[1:]), seconds)
            rows = []
            for index, artifact in enumerate(artifacts):
                progress(index, len(artifacts), f"{artifact.path.name} on {core}")
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
    """The function that describes this simulated device. BenchError if it cannot run here."""
    return lambda: device_of(Machine(find(), open_bundle("aarch64"), read_cores()[core]))


def device_of(machine: Machine) -> Device:
    """The simulated core as a device."""
    core = machine.core
    system = f"QEMU {machine.emulator.version}, caches of a {core.device}"
    return Device("simulated", f"simulated {core.name}", core.name, 1, system)


def _row(artifact: Artifact, session: _Session) -> Row:
    from exporters.parity import compare

    machine, form = session.machine, artifact.format
    if form not in machine.bundle.engines:
        reason = f"there is no runner for {FORMATS[form].title}"
        return NotMeasured(artifact.network, form, artifact.sha256, device_of(machine), reason)
    if reason := several_outputs(artifact):
        return NotMeasured(artifact.network, form, artifact.sha256, device_of(machine), reason)
    now = datetime.now(UTC).isoformat(timespec="seconds")
    counted = trace(machine, form, artifact.path, session.inputs, session.shape_word, session.timeout_seconds)
    reference = _reference(artifact, session)
    assert counted.answer.outputs is not None  # neither was told to write them to a file
    assert reference.outputs is not None
    parity, notes = compare(counted.answer.outputs, reference.outputs), []
    if parity.verdict(artifact.dtype) != "passed":
        notes.append("its outputs differ from those on this machine: do not ship it, and look at its kernels")
    if counted.traffic is None:
        notes.append("no memory traffic: a run is too long to look at each of its accesses")
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
        note="; ".join(notes),
    )


def _reference(artifact: Artifact, session: _Session) -> RunnerAnswer:
    """The answer of the same program on this machine, built for it."""
    inputs = [word for path in session.inputs for word in ("--input", str(path))]
    words = [*session.reference.command(artifact.format), "--model", str(artifact.path), *inputs]
    plan = ["--shape", session.shape_word, "--warmup-runs", "0", "--warmup-seconds", "0", "--min-runs", "0"]
    done = subprocess.run([*words, *plan], capture_output=True, text=True, timeout=session.timeout_seconds, check=False)
    return parse(done.stdout, f"{artifact.path.name} on this machine")
