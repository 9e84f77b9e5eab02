"""Profiles files on each kind of device: the runner's program for the engine, asked to write its engine's profile."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Protocol

from bench.budgets.model_files import of_file
from bench.host import facts as host_facts
from bench.host.facts import pick_cores
from bench.host.measure import Progress, check
from bench.measurement import BenchError, Device, NotMeasured, Schedule
from bench.phone import measure as phone
from bench.profile.profile import READERS, Operator, Profile, Unit, layers_of_calls, read_calls
from bench.runner.bundle import Bundle, open_bundle
from bench.runner.protocol import RunnerAnswer, flags, parse, write_images
from bench.simulator.cores import read_cores
from bench.simulator.emulator import Machine, find, profile_file
from bench.simulator.measure import IMAGES, SLOWER, check_threads, device_of
from exporters.artifact import Artifact
from exporters.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

Result = Profile | NotMeasured


class Profiler(Protocol):
    """A Profile for each artifact, in the order given, or NotMeasured where no runner runs the format."""

    def __call__(
        self,
        artifacts: Sequence[Artifact],
        images: Images,
        schedule: Schedule | None = None,
        progress: Progress = ...,
    ) -> tuple[Result, ...]: ...


def profile_here(
    artifacts: Sequence[Artifact],
    images: Images,
    schedule: Schedule | None = None,
    progress: Progress = lambda _done, _total, _now: None,
) -> tuple[Result, ...]:
    """Profiles files on this machine, pinned to its cores. BenchError without the runner, or where a file fails."""
    schedule = schedule or Schedule()
    check(artifacts, images)
    bundle, cores = open_bundle("host"), pick_cores(schedule.threads)

    def one(artifact: Artifact, inputs: Sequence[Path], folder: Path) -> RunnerAnswer:
        own = flags(str(artifact.path), (1, *images.shape[1:]), map(str, inputs), phone.few_runs(schedule), cores)
        words = [*bundle.command(artifact.format), *own, "--profile", str(folder / "profile")]
        seconds = schedule.process_seconds
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)
        except subprocess.TimeoutExpired:
            raise BenchError(
                f"{artifact.path.name} was not profiled in {seconds:g} s; take a smaller network"
            ) from None
        return parse(done.stdout, artifact.path.name)

    return _profiled(artifacts, images, (host_facts.describe(), bundle, "ms"), one, progress)


def profile_on(core: str) -> Profiler:
    """The function that tells instructions by operator on the simulated core of this name."""

    def profile(
        artifacts: Sequence[Artifact],
        images: Images,
        schedule: Schedule | None = None,
        progress: Progress = lambda _done, _total, _now: None,
    ) -> tuple[Result, ...]:
        schedule = schedule or Schedule()
        check(artifacts, images)
        check_threads(schedule)
        seconds = SLOWER * schedule.timeout_seconds
        machine = Machine(find(), open_bundle("aarch64"), read_cores()[core])
        shape = "x".join(map(str, (1, *images.shape[1:])))

        def one(artifact: Artifact, inputs: Sequence[Path], folder: Path) -> RunnerAnswer:
            return profile_file(machine, artifact, inputs, shape, seconds, folder / "profile")

        where: Where = device_of(machine), machine.bundle, "instructions"
        return _profiled(artifacts, images[:IMAGES], where, one, progress)

    return profile


def profile_on_phone(
    artifacts: Sequence[Artifact],
    images: Images,
    schedule: Schedule | None = None,
    progress: Progress = lambda _done, _total, _now: None,
    serial: str | None = None,
    inside: str = "shell",
) -> tuple[Result, ...]:
    """Profiles files on a phone, on the cores that its measurements use. BenchError as `phone.measure` tells, and
    for a place of phone.PLACES other than the shell."""
    check_place(inside)
    schedule = schedule or Schedule()
    check(artifacts, images)
    images = images[: phone.IMAGES]
    with phone.for_profiles(artifacts, images, schedule, serial) as (device, bundle, run):
        return _profiled(artifacts, images, (device, bundle, "ms"), run, progress)


def check_place(inside: str) -> None:
    """BenchError for a place on a phone in which no profile is taken."""
    if inside != "shell":
        raise BenchError(f"a phone's profiles are taken in its shell, not in {inside}; leave --in {inside} out")


Where = tuple[Device, Bundle, Unit]
One = Callable[[Artifact, Sequence[Path], Path], RunnerAnswer]


def _profiled(
    artifacts: Sequence[Artifact], images: Images, where: Where, one: One, progress: Progress
) -> tuple[Result, ...]:
    """Each artifact through `one`, which leaves FOLDER/profile."""
    device, bundle, unit = where
    found: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="profile-images-") as images_folder:
        inputs = write_images(images, Path(images_folder))
        for index, artifact in enumerate(artifacts):
            progress(index, len(artifacts), f"profiling {artifact.path.name}")
            title = FORMATS[artifact.format].title
            reason = f"there is no runner for {title}" * (artifact.format not in bundle.engines)
            if artifact.format not in READERS:
                reason = reason or f"no profile of {title} is read here"
            if reason:
                found.append(NotMeasured(artifact.network, artifact.format, artifact.sha256, device, reason))
                continue
            with tempfile.TemporaryDirectory(prefix="profile-") as name:
                answer = one(artifact, inputs, Path(name))
                runs = read_calls(artifact.format, Path(name) / "profile")
            # Of times the median over the later runs; of instructions, which repeat, one run.
            calls = runs[-1]
            chosen = [run for run in runs[1:] if len(run) == len(calls) and unit == "ms"] or [calls]
            # The simulated clock tells each instruction as a microsecond.
            scale = 1e-3 if unit == "instructions" else 1e-6
            layers = layers_of_calls(artifact.format, calls, of_file(artifact.path, str(artifact.path)))
            operators = (
                Operator(call.name, layer, scale * median(run[position].ns for run in chosen))
                for position, (call, layer) in enumerate(zip(calls, layers or [""] * len(calls), strict=True))
            )
            found.append(
                Profile(
                    network=artifact.network,
                    format=artifact.format,
                    sha256=artifact.sha256,
                    device=device,
                    runtime=FORMATS[artifact.format].runtime,
                    runtime_version=answer.engine_version,
                    unit=unit,
                    runs=len(chosen),
                    operators=tuple(operators),
                    joined=layers is not None,
                    measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
                )
            )
    return tuple(found)
