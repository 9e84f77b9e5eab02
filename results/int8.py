"""Low rank, int8 and both, and float16, of trained networks: results/int8.jsonl.

    python results/int8.py NETWORKS.py DATA [ROW ...]

NETWORKS.py has functions that return the trained networks of CIFAR-10; in its folder or below it lie the weights that
results/imagenet.py reads. In DATA lie CIFAR-10, `imagenette` (train/ with the first 50 pictures of each class by name,
val/ with 50; classes named by wnids) and `calibration` (500 photographs without labels). Each line is one run of the
real command, counted on the simulated Cortex-A76 and timed on this machine; rows that have a line already are not run
again unless they are named. ResNet-20 takes about ten minutes on two quiet cores. With `--quantize int8 --device arm`,
`--max-latency` is a fraction of the instructions of the network in int8.
"""

import json
import os
import platform
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import mkdtemp

HERE = Path(__file__).resolve().parent
TABLE = HERE / "int8.jsonl"
INT8 = ("--quantize", "int8", "--device", "arm")
CIFAR = ("--input", "3x32x32", "--data", "cifar10", *INT8, "--format", "pte,onnx")
TUNED = ("--epochs", "2", "--set", "fine_tune.rate=0.001", "--set", "fine_tune.rate_schedule=one-cycle",
         "--set", "source.images=10000")  # fmt: skip
IMAGENETTE = ("--input", "3x224x224", "--data", "imagenette", "--set", "source.resize=256")
CENTRED = ("--set", "source.mean=0.5,0.5,0.5", "--set", "source.std=0.5,0.5,0.5")
TAUGHT = ("--set", "fine_tune.unlabelled=calibration", "--set", "fine_tune.rate_schedule=one-cycle")
ALONE = ("--set", "plan.rank_rule=none")
FP16 = (*ALONE, "--quantize", "fp16", "--device", "arm", "--format", "pte")
ROWS = {
    "resnet20, 0.75x the instructions of int8": ("networks.py:resnet20", *CIFAR, "--max-latency", "0.75x", *TUNED),
    "resnet20, half the MACs": ("networks.py:resnet20", *CIFAR, "--max-macs", "0.5x", *TUNED),
    "resnet56, 0.65x the instructions of int8": ("networks.py:resnet56", *CIFAR, "--max-latency", "0.65x", *TUNED),
    "resnet18, half the MACs": (
        "imagenet.py:resnet18", *IMAGENETTE, "--format", "pte", *INT8, "--max-macs", "0.5x", "--methods",
        "spatial,channel,tucker,svd", "--set", "fine_tune.total_epochs=1", *TAUGHT, "--set", "export.epochs=0",
        "--set", "export.test_images=250", "--set", "export.calibration=16",
    ),
    "mobilenet_v2, int8 alone": (
        "imagenet.py:mobilenet_v2", *IMAGENETTE, *CENTRED, "--format", "pte", *INT8, *ALONE, "--epochs", "1",
        "--set", "fine_tune.unlabelled=calibration", "--set", "export.rate=0.03",
    ),
    "mobilenet_v2, 0.85x the instructions of int8": (
        "imagenet.py:mobilenet_v2", *IMAGENETTE, *CENTRED, "--format", "pte", *INT8, "--max-latency", "0.85x", *TAUGHT,
    ),
    "resnet18, float16": ("imagenet.py:resnet18", *IMAGENETTE, *FP16),
    "mobilenet_v2, float16": ("imagenet.py:mobilenet_v2", *IMAGENETTE, *CENTRED, *FP16),
    "mobilenet_v3_small, float16": ("mobilenet_v3_small", "--weights", "none", *FP16),
}  # fmt: skip
KINDS = {"original": "float32", "original.int8": "int8", "compressed": "low rank", "compressed.int8": "both"}
"""The files that are shown, by what the run calls their networks."""
KINDS_ALONE = {
    "original": "float32", "original.int8": "int8", "compressed.int8": "int8, tuned", "original.fp16": "float16",
}  # fmt: skip
"""The same where no layer is factored."""


def run(row: str, networks: Path, data: Path) -> dict[str, object]:
    """The line of a row, after its run."""
    begun, folder = time.monotonic(), Path(mkdtemp())  # it stays where the run fails, for a look
    for source in (networks, HERE / "imagenet.py", data / "imagenette", data / "calibration"):
        (folder / ("networks.py" if source == networks else source.name)).symlink_to(source)
    environment = {**os.environ, "WEIGHTS": str(networks.parent)}
    for command in (["compress-export", *ROWS[row], "--data-root", str(data), "--name", "run"],
                    ["compress-export", "bench", "runs/run", "--device", "host"]):  # fmt: skip
        print(" ".join(command), "in", folder, flush=True)
        subprocess.run(command, cwd=folder, env=environment, check=True)
    found = line(row, folder / "runs" / "run") | {"seconds": round(time.monotonic() - begun)}
    shutil.rmtree(folder)
    return found


def line(row: str, place: Path) -> dict[str, object]:
    """One line of the table from the run in `place`: bytes, accuracy, instructions and times of its files."""
    report = json.loads((place / "report.json").read_text())
    counted = {each["file"]: each for each in report["instructions"]}
    kinds = KINDS_ALONE if "plan.rank_rule=none" in ROWS[row] else KINDS
    files = []
    for file in report["files"]:
        if file["network"] not in kinds:
            continue
        count = counted[file["name"]]
        files.append(
            {
                "kind": kinds[file["network"]],
                **{key: file[key] for key in ("network", "format", "bytes", "accuracy")},
                "instructions": count["run"]["instructions"],
                "l2_misses": count["traffic"]["l2_misses"],
                "host_ms": file["latency"] and file["latency"]["p50"],
            }
        )
    return {
        "row": row,
        "network": row.partition(",")[0],
        "command": " ".join(["compress-export", *ROWS[row]]),
        "macs": [report["macs"]["original"], report["macs"]["compressed"]],
        "top1": report["accuracy"] and report["accuracy"]["top1"],
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "files": files,
    }


def main() -> None:
    networks, data, *asked = sys.argv[1:]
    known = [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []
    lines = {line["row"]: line for line in known if line["row"] not in asked}
    for row in asked or [row for row in ROWS if row not in lines]:
        lines[row] = run(row, Path(networks).resolve(), Path(data).resolve())
        TABLE.write_text("".join(json.dumps(lines[name]) + "\n" for name in ROWS if name in lines))


if __name__ == "__main__":
    main()
