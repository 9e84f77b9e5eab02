"""Protocol of the runner (docs/runner.md): its flags, its images, and its answer, one line of JSON."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measurement import BenchError, Memory, MemoryPhases, Schedule
from exporters.artifact import Artifact

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA = 1
PHASES = ("start", "loaded", "first", "end")


def several_outputs(artifact: Artifact) -> str:
    """The reason why a file is not run on a phone or the simulated CPU, "" where it gives one output."""
    if len(artifact.outputs) < 2:
        return ""
    names = ", ".join(output.name for output in artifact.outputs)
    return (
        f"the programs that run files there read one output, and this file gives {len(artifact.outputs)} ({names}); "
        "measure it with --device host, or export the network with one output"
    )


@dataclass(frozen=True)
class RunnerAnswer:
    """The output of one process of the runner. Times are ms; `cores` is the mask of the cores that it might run on.

    `outputs` has one row for each image; None where the runner wrote them to a file. Clocks are MHz, None where the
    kernel does not tell. A process inside an app does not tell its core, and has no `cores` where it was not pinned.
    """

    engine: str
    engine_version: str
    model_bytes: int
    threads: int
    cores: str
    load_ms: float
    first_ms: float
    samples_ms: tuple[float, ...]
    output_shape: tuple[int, ...]
    outputs: NDArray[np.float32] | None
    memory: MemoryPhases
    core_before: int | None
    core_after: int | None
    mhz_before: float | None
    mhz_after: float | None
    preemptions: int | None


def parse(stdout: str, name: str) -> RunnerAnswer:
    """The answer in the runner's stdout. BenchError with the runner's words, if it failed, or if this is no answer.

    `name` is the measured file's, for the message.
    """
    import numpy as np

    try:
        fields = json.loads(stdout)
        if "error" in fields:
            raise BenchError(f"{name} was not measured: {fields['error']}")
        if fields["schema"] != SCHEMA:
            raise BenchError(
                f"{name} was not measured: the runner speaks schema {fields['schema']}, this program {SCHEMA}; "
                "build the runner again with `make runner`"
            )
        keys = ("vm_hwm_kb", "vm_rss_kb", "rss_anon_kb", "rss_file_kb", "pss_kb")
        phases = {phase: Memory(*(fields["memory"][phase][key] for key in keys)) for phase in PHASES}
        inline = isinstance(fields["outputs"], list)
        converted = {
            "samples_ms": tuple(map(float, fields["samples_ms"])),
            "output_shape": tuple(map(int, fields["output_shape"])),
            "outputs": np.array(fields["outputs"], dtype=np.float32) if inline else None,
            "memory": MemoryPhases(**phases),
        }
        return RunnerAnswer(
            **{field.name: fields[field.name] for field in dataclasses.fields(RunnerAnswer)} | converted
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = " ".join(stdout.split())[:200] or "nothing"
        raise BenchError(
            f"{name} was not measured: the runner did not answer with its one line, but said {said}"
        ) from error


def flags(
    model: str, shape: Iterable[int], images: Iterable[str], schedule: Schedule, cores: Iterable[int] | None
) -> list[str]:
    """The runner's flags (docs/runner.md) for a file and its images, measured by the schedule."""
    values = {
        "--model": model,
        "--shape": "x".join(map(str, shape)),
        "--threads": schedule.threads,
        "--warmup-runs": schedule.warmup_runs,
        "--warmup-seconds": f"{schedule.warmup_seconds:g}",
        "--min-runs": schedule.runs,
        "--min-seconds": f"{schedule.seconds:g}",
        "--cap-seconds": f"{schedule.cap_seconds:g}",
        "--cores": "none" if cores is None else mask_of(cores),
    }
    words = [str(word) for flag in values.items() for word in flag]
    return words + [word for image in images for word in ("--input", image)]


def mask_of(cores: Iterable[int]) -> str:
    """Cores as a hexadecimal mask."""
    return f"{sum(1 << core for core in cores):x}"


def write_images(images: NDArray[np.float32], folder: Path) -> tuple[Path, ...]:
    """One file of raw float32 numbers for each image, as the runner reads them."""
    paths = tuple(folder / f"image{index}" for index in range(len(images)))
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image.astype("<f4").tobytes())
    return paths
