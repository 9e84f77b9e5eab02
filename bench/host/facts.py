"""Facts of this machine: its processor, cores, memory and clock. Unknown is None, never a guess."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

from bench.measurement import BenchError, Device, Memory

STATUS = Path("/proc/self/status")
ROLLUP = Path("/proc/self/smaps_rollup")
CLEAR_REFS = Path("/proc/self/clear_refs")
CPUINFO = Path("/proc/cpuinfo")
MEMINFO = Path("/proc/meminfo")
CPUFREQ = Path("/sys/devices/system/cpu")


def memory() -> Memory:
    """Memory that this process holds now, and the most it held since `reset_peak`, in kB."""
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


def describe() -> Device:
    """This machine as a Device of kind "host"; its name is the machine's own."""
    model = re.search(r"^model name\s*:\s*(.+)$", _text(CPUINFO), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _text(MEMINFO), re.MULTILINE)
    return Device(
        kind="host",
        name=platform.node(),
        # x86 has a "model name"; ARM kernels tell implementer and part numbers only, which platform cannot name either
        cpu=model[1].strip() if model else platform.processor() or platform.machine(),
        cores=os.cpu_count() or 1,
        os=f"{platform.system()} {platform.release()} {platform.machine()}",
        memory_kb=int(memory[1]) if memory else None,
    )


def pick_cores(threads: int, cores: tuple[int, ...] | None = None) -> tuple[int, ...] | None:
    """The cores to pin a process to: `cores` if given, else the fastest, and among these the last.

    The last, because the first core of a machine serves most interrupts. None where the system cannot pin (macOS).
    BenchError if this process may not use as many cores, or not these.
    """
    if sys.platform == "darwin":
        return None
    allowed = os.sched_getaffinity(0)
    if cores is not None and not allowed.issuperset(cores):
        raise BenchError(
            f"this process may run on cores {_listed(allowed)}, not on {_listed(set(cores) - allowed)}; "
            "choose among the former"
        )
    if threads > len(allowed):
        raise BenchError(
            f"one core for each thread: {threads} threads need {threads} cores, and this process may run on "
            f"{len(allowed)}; lower the threads to {len(allowed)}"
        )
    fastest = sorted(allowed, key=lambda core: (_clock(core, "cpuinfo_max_freq") or 0.0, core))
    return cores or tuple(sorted(fastest[-threads:]))


def frequency_mhz(cores: tuple[int, ...] | None) -> float | None:
    """The clock of the first of these cores now, in MHz; None where the kernel does not tell.

    /proc/cpuinfo's "cpu MHz" is no fallback: inside a virtual machine it is a constant that says nothing.
    """
    return _clock(cores[0], "scaling_cur_freq") if cores else None


def last_cache(core: int = 0) -> int | None:
    """Bytes of the largest cache that a core reaches. None where the system does not tell.

    `getconf LEVEL3_CACHE_SIZE` may tell the whole socket's: 320 MiB where a core has 32.
    """
    sizes = [_text(path).strip() for path in (CPUFREQ / f"cpu{core}" / "cache").glob("index*/size")]
    return max((int(size[:-1]) << 10 for size in sizes if re.fullmatch(r"\d+K", size)), default=None)


def load_average() -> float:
    """Runnable processes, as a mean over the last minute: above the number of cores, times are not to be trusted."""
    return round(os.getloadavg()[0], 2)


def _clock(core: int, name: str) -> float | None:
    text = _text(CPUFREQ / f"cpu{core}" / "cpufreq" / name).strip()
    return int(text) / 1000 if text.isdigit() else None


def _listed(cores: set[int]) -> str:
    return ", ".join(map(str, sorted(cores)))


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
