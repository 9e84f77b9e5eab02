"""This process's memory as the kernel counts it. Where there is no /proc (macOS), every value is None."""

from __future__ import annotations

import re
from pathlib import Path

from bench.measurement import Memory

STATUS = Path("/proc/self/status")
ROLLUP = Path("/proc/self/smaps_rollup")
CLEAR_REFS = Path("/proc/self/clear_refs")


def memory() -> Memory:
    """What this process holds now, and the most it held since `reset_peak`, in kB."""
    status, rollup = _kilobytes(STATUS), _kilobytes(ROLLUP)
    return Memory(
        peak=status.get("VmHWM"),
        resident=status.get("VmRSS"),
        anonymous=status.get("RssAnon"),
        file=status.get("RssFile"),
        proportional=rollup.get("Pss"),
    )


def reset_peak() -> None:
    """Lets VmHWM start again from what is resident now (proc(5): writing 5 to clear_refs).

    A kernel may refuse. Nothing is raised then: the peak stays above the resident size, and `MemoryPhases.model_peak`
    sees that.
    """
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return


def _kilobytes(path: Path) -> dict[str, int]:
    try:
        text = path.read_text()
    except OSError:
        return {}
    return {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
