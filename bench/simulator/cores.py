"""cores.toml as values, and the few files by which a guest knows which core it runs on."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from pathlib import Path

FILE = Path(__file__).with_name("cores.toml")
CPUS = Path("sys/devices/system/cpu")


@dataclass(frozen=True)
class Cache:
    """A data cache: its size in bytes, and how many lines share a place."""

    bytes: int
    ways: int


@dataclass(frozen=True)
class Core:
    """A core as its kernel describes it. `name` is QEMU's; `device` is one that has this core and these caches."""

    name: str
    device: str
    implementer: str
    variant: str
    part: str
    revision: int
    mhz: int
    features: str
    line: int
    l1: Cache
    l2: Cache


def read_cores() -> dict[str, Core]:
    """Every core that can be simulated, by name."""
    rows = tomllib.loads(FILE.read_text(encoding="utf-8"))
    return {
        name: Core(name=name, **{**row, "l1": Cache(**row["l1"]), "l2": Cache(**row["l2"])})
        for name, row in rows.items()
    }


def write_root(core: Core, folder: Path) -> None:
    """Writes the /proc and /sys that the guest is shown: one core, of this kind."""
    for name, text in _files(core).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="ascii")


UNTOLD = "Name:\tguest\n"
"""What the guest is told of its own memory: nothing. QEMU would hand it the emulator's figures. They differ from run to
run, and a digit more in one of them moves what the program allocates next: ONNX Runtime's counts changed so."""


def _files(core: Core) -> dict[Path, str]:
    khz = f"{core.mhz * 1000}\n"
    return {
        Path("proc/cpuinfo"): (
            "processor\t: 0\nBogoMIPS\t: 108.00\n"
            f"Features\t: {core.features}\nCPU implementer\t: {core.implementer}\nCPU architecture: 8\n"
            f"CPU variant\t: {core.variant}\nCPU part\t: {core.part}\nCPU revision\t: {core.revision}\n\n"
        ),
        **{Path("proc/self") / name: UNTOLD for name in ("status", "smaps_rollup")},
        **{CPUS / name: "0\n" for name in ("possible", "present", "online")},
        CPUS / "cpu0/cpufreq/cpuinfo_max_freq": khz,
        CPUS / "cpu0/cpufreq/cpuinfo_min_freq": khz,
        CPUS / "cpu0/topology/physical_package_id": "0\n",
        CPUS / "cpu0/topology/core_id": "0\n",
    }
