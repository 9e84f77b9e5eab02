"""The phone's description of itself: scripted answers of its programs, /proc and /sys, as files in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

# Each call of a scripted program takes the next answer; the last one stays.
PROGRAM = """#!/bin/sh
set -- "$PHONE/answers/$(basename "$0")"${1:+-$1}.*
[ -e "$1" ] || { echo "$0: no such thing" >&2; exit 1; }
cat "$1"
if [ $# -gt 1 ]; then rm "$1"; fi
"""

BATTERY = """Current Battery Service state:
  AC powered: false
  USB powered: true
  status: 2
  health: 2
  present: true
  level: {level}
  scale: 100
  voltage: 4210
  temperature: {tenths}
  technology: Li-ion
"""

THERMAL = """IsStatusOverride: false
Thermal Status: {status}
Cached temperatures:
\tTemperature{{mValue={celsius}, mType=0, mName=AP, mStatus={status}}}
HAL Ready: true
"""


@dataclass(frozen=True)
class Identity:
    """The phone that it plays. `clusters` are the top frequencies in kHz of its cores, core by core."""

    model: str = "Virtual 8"
    soc: str = "VP8450"
    android: str = "14"
    sdk: int = 34
    abis: str = "arm64-v8a,armeabi-v7a,armeabi"
    page_bytes: int = 4096
    clusters: tuple[int, ...] = field(default=(1800000,) * 4 + (2400000,) * 3 + (3000000,))
    serial: str = "VP0001"


def battery(celsius: float, level: int = 88) -> str:
    return BATTERY.format(level=level, tenths=round(celsius * 10))


def thermal(status: int, celsius: float = 31.5) -> str:
    return THERMAL.format(status=status, celsius=celsius)


def script(root: Path, program: str, *answers: str) -> None:
    """`program` ("getprop", "dumpsys battery") answers with these texts, one call after another, then with the last."""
    folder, name = root / "answers", program.replace(" ", "-")
    folder.mkdir(exist_ok=True)
    for old in folder.glob(f"{name}.*"):
        old.unlink()
    for number, text in enumerate(answers):
        (folder / f"{name}.{number:03d}").write_text(text)


def write(root: Path, who: Identity) -> None:
    """Everything that a phone of this identity answers, in its folder."""
    programs = root / "system" / "bin"
    programs.mkdir(parents=True, exist_ok=True)
    for name in ("getprop", "dumpsys", "getconf"):
        (programs / name).write_text(PROGRAM)
        (programs / name).chmod(0o755)
    (root / "data" / "local" / "tmp").mkdir(parents=True, exist_ok=True)
    script(root, "getprop", "".join(f"[{name}]: [{value}]\n" for name, value in _properties(who).items()))
    script(root, "dumpsys battery", battery(29.0))
    script(root, "dumpsys thermalservice", thermal(0))
    script(root, "getconf PAGE_SIZE", f"{who.page_bytes}\n")
    _write(root / "proc" / "cpuinfo", "\n".join(_core(core) for core in range(len(who.clusters))))
    _write(root / "proc" / "meminfo", "MemTotal:        7812345 kB\nMemAvailable:    4012345 kB\n")
    set_clocks(root, who.clusters)


def set_clocks(root: Path, now_khz: Sequence[int]) -> None:
    """The cores' clocks as they are now; the top of each stays what the first call said."""
    cpus = root / "sys" / "devices" / "system" / "cpu"
    _write(cpus / "present", f"0-{len(now_khz) - 1}\n")
    _write(cpus / "online", f"0-{len(now_khz) - 1}\n")
    for core, khz in enumerate(now_khz):
        folder = cpus / f"cpu{core}" / "cpufreq"
        _write(folder / "scaling_cur_freq", f"{khz}\n")
        if not (folder / "cpuinfo_max_freq").exists():
            _write(folder / "cpuinfo_max_freq", f"{khz}\n")


def _properties(who: Identity) -> dict[str, str]:
    return {
        "ro.product.model": who.model,
        "ro.product.manufacturer": "Nobody",
        "ro.soc.model": who.soc,
        "ro.board.platform": "virtual",
        "ro.build.version.release": who.android,
        "ro.build.version.sdk": str(who.sdk),
        "ro.product.cpu.abilist": who.abis,
        "ro.serialno": who.serial,
    }


def _core(core: int) -> str:
    features = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
    return f"processor\t: {core}\nFeatures\t: {features}\nCPU implementer\t: 0x41\nCPU part\t: 0xd0b\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
