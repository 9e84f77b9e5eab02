"""The runner's one line of JSON as a value (docs/runner.md), and its words when it failed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.measurement import BenchError, Memory, MemoryPhases

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SCHEMA = 1
PHASES = ("start", "loaded", "first", "end")


@dataclass(frozen=True)
class RunnerAnswer:
    """What one process of the runner told. Times are ms; `cores` is the mask of the cores that it might run on.

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
    try:
        fields: dict[str, Any] = json.loads(stdout)
        if "error" in fields:
            raise BenchError(f"{name} was not measured: {fields['error']}")
        if fields["schema"] != SCHEMA:
            raise BenchError(
                f"{name} was not measured: the runner speaks schema {fields['schema']}, this program {SCHEMA}; "
                "build the runner again with `make runner`"
            )
        return _answer(fields)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        said = " ".join(stdout.split())[:200] or "nothing"
        raise BenchError(
            f"{name} was not measured: the runner did not answer with its one line, but said {said}"
        ) from error


def _answer(fields: Mapping[str, Any]) -> RunnerAnswer:
    import numpy as np

    told = {
        name: fields[name]
        for name in ("engine", "engine_version", "model_bytes", "threads", "cores", "load_ms", "first_ms")
    }
    after = {name: fields[name] for name in ("core_before", "core_after", "mhz_before", "mhz_after", "preemptions")}
    inline = isinstance(fields["outputs"], list)
    return RunnerAnswer(
        **told,
        **after,
        samples_ms=tuple(map(float, fields["samples_ms"])),
        output_shape=tuple(map(int, fields["output_shape"])),
        outputs=np.array(fields["outputs"], dtype=np.float32) if inline else None,
        memory=MemoryPhases(**{phase: _memory(fields["memory"][phase]) for phase in PHASES}),
    )


def _memory(values: Mapping[str, int | None]) -> Memory:
    names = ("vm_hwm_kb", "vm_rss_kb", "rss_anon_kb", "rss_file_kb", "pss_kb")
    return Memory(*(values[name] for name in names))
