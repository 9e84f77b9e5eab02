"""Low rank, int8 and both, of trained networks: results/int8.jsonl.

    python results/int8.py NETWORKS.py DATA [ROW ...]

NETWORKS.py has functions that return the trained networks, DATA is where the data sets lie (`--data-root`). Each line
is one run of the real command, counted on the simulated Cortex-A76 and timed on this machine; rows that have a line
already are not run again unless they are named. ResNet-20 takes about ten minutes on two quiet cores.
With `--quantize int8 --device arm`, `--max-latency` is a fraction of the instructions of the network in int8.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

TABLE = Path(__file__).with_name("int8.jsonl")
CIFAR = ("--input", "3x32x32", "--data", "cifar10", "--quantize", "int8", "--format", "pte,onnx", "--device", "arm")
TUNED = ("--epochs", "2", "--set", "fine_tune.rate=0.001", "--set", "fine_tune.rate_schedule=one-cycle",
         "--set", "source.images=10000")  # fmt: skip
ROWS = {
    "resnet20, 0.75x the instructions of int8": ("resnet20", *CIFAR, "--max-latency", "0.75x", *TUNED),
    "resnet20, half the MACs": ("resnet20", *CIFAR, "--max-macs", "0.5x", *TUNED),
    "resnet56, 0.65x the instructions of int8": ("resnet56", *CIFAR, "--max-latency", "0.65x", *TUNED),
}
FILES = {"float32": "original", "int8": "original.int8", "low rank": "compressed", "both": "compressed.int8"}


def run(row: str, networks: str, data: str) -> dict[str, object]:
    """One line of the table: bytes, accuracy, instructions and times of the four files of each format."""
    network, *options = ROWS[row]
    with tempfile.TemporaryDirectory() as folder:
        words = [f"{networks}:{network}", *options, "--data-root", data, "--name", "run"]
        subprocess.run(["compress-export", *words], cwd=folder, check=True)
        subprocess.run(["compress-export", "bench", "runs/run", "--device", "host"], cwd=folder, check=True)
        place = Path(folder) / "runs" / "run"
        report = json.loads((place / "report.json").read_text())
    counted = {each["file"]: each for each in report["instructions"]}
    files = []
    for file in report["files"]:
        count = counted[file["name"]]
        files.append(
            {
                "kind": next(kind for kind, name in FILES.items() if name == file["network"]),
                **{key: file[key] for key in ("network", "format", "bytes", "accuracy")},
                "instructions": count["run"]["instructions"],
                "l2_misses": count["traffic"]["l2_misses"],
                "host_ms": file["latency"]["p50"],
            }
        )
    return {
        "row": row,
        "network": network,
        "command": " ".join(["compress-export", f"networks.py:{network}", *options]),
        "macs": [report["macs"]["original"], report["macs"]["compressed"]],
        "top1": report["accuracy"]["top1"],
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "files": files,
    }


def main() -> None:
    networks, data, *asked = sys.argv[1:]
    networks, data = str(Path(networks).resolve()), str(Path(data).resolve())
    known = [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []
    lines = {line["row"]: line for line in known if line["row"] not in asked}
    for row in asked or [row for row in ROWS if row not in lines]:
        lines[row] = run(row, networks, data)
        TABLE.write_text("".join(json.dumps(lines[name]) + "\n" for name in ROWS if name in lines))


if __name__ == "__main__":
    main()
