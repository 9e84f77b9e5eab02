"""The project as an artifact of its own, for budgets.toml: the wheel, and what importing the command line takes.

    python results/own.py [FOLDER]

writes FOLDER (runs/own unless given) with artifacts.json and measurements.jsonl, as a run has them.
"""

import json
import shutil
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

from bench.host.facts import describe, load_average
from bench.measurement import Block, Measurement, Memory, MemoryPhases, Schedule, to_line
from bench.run_files import COMPRESSED, RUN_VERSION
from exporters.artifact import Artifact, size_and_sha256, write_artifacts

ROOT = Path(__file__).resolve().parents[1]
STARTS = 20

PROBE = """
import time
from pathlib import Path

def memory():
    rows = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(rows[name].split()[0]) for name in ("VmHWM", "VmRSS")]

before, start = memory(), time.perf_counter()
import compress_export.cli
print(1000 * (time.perf_counter() - start), *before, *memory())
"""


def build(folder: Path) -> Path:
    """The wheel, in the folder's artifacts/."""
    words = [sys.executable, "-m", "build", "-q", "--wheel", "--no-isolation", "--outdir", folder / "artifacts", ROOT]
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
    (wheel,) = (folder / "artifacts").glob("*.whl")
    return wheel


def import_once() -> tuple[float, MemoryPhases]:
    """ms of importing the command line in a fresh process, and the process's memory before and after."""
    done = subprocess.run([sys.executable, "-c", PROBE], cwd=ROOT, capture_output=True, text=True, check=True)
    spent, peak, resident, peak_after, resident_after = done.stdout.split()
    start, end = Memory(int(peak), int(resident)), Memory(int(peak_after), int(resident_after))
    return float(spent), MemoryPhases(start, end, end, end)


def main(folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "artifacts").mkdir(parents=True)
    wheel = build(folder)
    size, sha256 = size_and_sha256(wheel)
    artifact = Artifact(wheel, COMPRESSED, "whl", size, sha256, "none", (), {"python": sys.version.split()[0]})
    write_artifacts(folder / "artifacts.json", [artifact])
    first, _ = import_once()  # fills the disk's cache
    load, begun = load_average(), time.monotonic()
    runs = [import_once() for _ in range(STARTS)]
    row = Measurement(
        network=COMPRESSED,
        format="whl",
        sha256=sha256,
        bytes=size,
        device=describe(),
        runtime="import compress_export.cli.main",
        runtime_version=sys.version.split()[0],
        schedule=Schedule(warmup_runs=1, runs=STARTS, rounds=1),
        threads=1,
        pinned_cores=None,
        input_shape=(),
        images=0,
        load_ms=0.0,
        first_ms=first,
        blocks=(Block(0, tuple(spent for spent, _ in runs)),),
        memory=max((memory for _, memory in runs), key=lambda phases: phases.end.peak or 0),
        session=uuid4().hex,
        measured_at=datetime.now(UTC).isoformat(timespec="seconds"),
        load_average=load,
        note=f"{STARTS} fresh processes, {time.monotonic() - begun:.1f} s",
    )
    (folder / "measurements.jsonl").write_text(to_line(row), encoding="utf-8")
    (folder / "settings.json").write_text(json.dumps({"version": RUN_VERSION}) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "runs" / "own")
