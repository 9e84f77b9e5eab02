"""`python -m bench.simulator.build`: compiles the counter and the clock, and writes the guests' roots."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.measurement import BenchError
from bench.simulator.cores import FILE, read_cores, write_root
from exporters.artifact import size_and_sha256

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / "build" / "simulator"
PLUGIN, CLOCK, TICKS = "count.so", "clock.so", "ticks.so"
MANIFEST = "manifest.json"
FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-Wl,--build-id=none")


@dataclass(frozen=True)
class SharedLibrary:
    """One library of the simulator: its source, its compiler (and that one's package), and flags of its own."""

    source: Path
    compiler: str
    package: str
    flags: tuple[str, ...] = ()


PARTS = {
    # The plugin is QEMU's, hence this machine's; the clocks are the simulated program's.
    PLUGIN: SharedLibrary(HERE / "count.c", "gcc", "g++", ("-fvisibility=hidden",)),
    CLOCK: SharedLibrary(HERE / "clock.c", "aarch64-linux-gnu-gcc", "g++-aarch64-linux-gnu"),
    TICKS: SharedLibrary(HERE / "clock.c", "aarch64-linux-gnu-gcc", "g++-aarch64-linux-gnu", ("-DCOUNT_INSTRUCTIONS",)),
}


def build(folder: Path = FOLDER) -> Path:
    """The folder with counter, clock and a root for each core. BenchError in the compiler's words if it fails."""
    for part in PARTS.values():
        if shutil.which(part.compiler) is None:
            raise BenchError(
                f"the simulator's {part.source.name} is compiled with {part.compiler}, and it is missing: "
                f"apt-get install {part.package}"
            )
    if is_built(folder):
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    # The manifest goes first and comes last: what has one is whole.
    (folder / MANIFEST).unlink(missing_ok=True)
    for name, part in PARTS.items():
        words = [part.compiler, *FLAGS, *part.flags, "-o", str(folder / name), str(part.source)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise BenchError(f"the simulator's {part.source.name} does not compile:\n{done.stderr.strip()}")
    for name, core in read_cores().items():
        shutil.rmtree(folder / name, ignore_errors=True)
        write_root(core, folder / name)
    (folder / MANIFEST).write_text(json.dumps(hashes(folder), indent=2) + "\n", encoding="utf-8")
    return folder


def is_built(folder: Path) -> bool:
    """True if the folder holds the libraries that these sources give."""
    whole = all((folder / name).exists() for name in (*PARTS, MANIFEST))
    return whole and json.loads((folder / MANIFEST).read_text(encoding="utf-8")) == hashes(folder)


def hashes(folder: Path) -> dict[str, str]:
    """Hashes of the sources and of the libraries made of them: the manifest of a build that fits this source tree."""
    sources = {part.source.name: size_and_sha256(part.source)[1] for part in PARTS.values()}
    roots = {each.name: size_and_sha256(each)[1] for each in (FILE, HERE / "cores.py")}
    return {**sources, **roots, **{name: size_and_sha256(folder / name)[1] for name in PARTS}}


def main() -> int:
    try:
        print(f"{build()}: the counter, a clock and {len(read_cores())} cores")
    except BenchError as error:
        print(f"simulator: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
