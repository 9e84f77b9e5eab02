"""Every network of the table, untrained, at half its parameters, in all four formats: results/networks.jsonl.

    python results/networks.py [NAME ...]

Each line is one run of the real command in a directory of its own; names that have a line already are not run again
unless they are named. Takes about half an hour on two cores.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

NAMES = (
    "alexnet", "vgg16", "resnet18", "resnet50", "mobilenet_v2", "mobilenet_v3_small", "googlenet", "squeezenet1_1",
    "densenet121", "shufflenet_v2_x1_0", "efficientnet_b0",
)  # fmt: skip
TABLE = Path(__file__).with_name("networks.jsonl")
OPTIONS = (
    "--weights",
    "none",
    "--max-params",
    "0.5x",
    "--set",
    "plan.rank_rule=equal-error",
    "--target",
    "all",
    "--set",
    "bench.cap=2",
)


def run(name: str) -> dict[str, object]:
    """One line of the table: sizes, parity, seconds and the largest process of one run."""
    with tempfile.TemporaryDirectory() as folder:
        command = ["compress-export", name, *OPTIONS, "--name", "run"]
        start = time.monotonic()
        _, status, used = os.wait4(subprocess.Popen(command, cwd=folder).pid, 0)  # its own processes' memory with it
        seconds = time.monotonic() - start
        place = Path(folder) / "runs" / "run"
        before, after = (json.loads((place / f"{part}.json").read_text()) for part in ("survey", "compressed"))
        artifacts = json.loads((place / "artifacts.json").read_text())
    return {
        "network": name,
        "command": " ".join(command),
        "status": os.waitstatus_to_exitcode(status),
        "parameters": [before["parameters"], after["parameters"]],
        "macs": [before["macs"], after["macs"]],
        "seconds": round(seconds, 1),
        "largest_process_mb": round(used.ru_maxrss / 1024),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "files": [
            {key: artifact[key] for key in ("network", "format", "bytes", "parity", "not_delegated", "fallbacks")}
            for artifact in artifacts
        ],
    }


def main() -> None:
    known = [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []
    asked = sys.argv[1:]
    rows = {row["network"]: row for row in known if row["network"] not in asked}
    for name in asked or [name for name in NAMES if name not in rows]:
        rows[name] = run(name)
        partial = TABLE.with_suffix(".partial")
        partial.write_text("".join(json.dumps(rows[key]) + "\n" for key in NAMES if key in rows))
        shutil.move(partial, TABLE)


if __name__ == "__main__":
    main()
