"""Fewer MACs, fewer milliseconds? Networks planned for a budget, original beside compressed: results/speed.jsonl.

    python results/speed.py [ROW ...]

Each row is one run of the real command in a directory of its own: untrained weights (time does not depend on them),
one thread pinned to one core, original and compressed in turns A B B A; the ratio is a Hodges-Lehmann estimate with its
95 % interval. Rows that have a line already are not run again unless they are named. Takes half an hour on two cores.
"""

import json
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from bench.host.facts import describe
from bench.measurement import Measurement, read
from bench.statistics import summarize, time_ratio

PAPER = (
    "features.0=69,features.3=154,features.6=153,features.8=178,features.10=196,"
    "classifier.1=365,classifier.4=275,classifier.6=260"
)
MOBILE = ("mobilenet_v2", "mobilenet_v3_small", "efficientnet_b0", "shufflenet_v2_x1_0")
ROWS: dict[str, tuple[str, ...]] = {
    "alexnet, the paper's ranks": ("alexnet", "--ranks", PAPER),
    "alexnet, 7x fewer parameters and 0.17x the time": ("alexnet", "--max-params", "0.1428x", "--max-latency", "0.17x"),
    "vgg16, a quarter of the MACs and 0.28x the time": ("vgg16", "--max-macs", "0.25x", "--max-latency", "0.28x"),
    "resnet18, half the MACs": ("resnet18", "--max-macs", "0.5x"),
    "resnet50, half the MACs": ("resnet50", "--max-macs", "0.5x"),
    **{f"{name}, default": (name,) for name in MOBILE},
    **{f"{name}, 0.8x the MACs": (name, "--max-macs", "0.8x") for name in MOBILE},
}
FORMATS = ("pte", "onnx")
TABLE = Path(__file__).with_name("speed.jsonl")


def run(title: str, words: tuple[str, ...]) -> list[dict[str, Any]]:
    """A line for each format: what was planned and predicted, and what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        options = ["--weights", "none", "--device", "host", "--format", ",".join(FORMATS), "--name", "run"]
        command = ["compress-export", *words, *options]
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "compress_export", *command[1:]], cwd=folder, check=True)
        seconds = time.monotonic() - start
        place = Path(folder) / "runs" / "run"
        plan = json.loads((place / "plan.json").read_text())
        before, after = (json.loads((place / f"{part}.json").read_text()) for part in ("survey", "compressed"))
        measured = [row for row in read(place / "measurements.jsonl") if isinstance(row, Measurement)]
    return [
        {
            "row": title,
            "format": format,
            "command": " ".join(command),
            "parameters": [before["parameters"], after["parameters"]],
            "macs": [before["macs"], after["macs"]],
            "factored": sum(row["method"] != "keep" for row in plan["layers"]),
            "planned_for": plan["cost_source"],
            "predicted_ms": [(plan[point] or {}).get("ms") for point in ("original", "chosen")],
            "timed_by_the_planner": plan["timed"],
            "seconds": round(seconds, 1),
            "machine": f"{describe().cpu}, {platform.machine()}",
            **_times([row for row in measured if row.format == format]),
        }
        for format in FORMATS
    ]


def _times(rows: list[Measurement]) -> dict[str, Any]:
    """Medians in ms, and how many times faster the compressed network is, with the ends of the 95 % interval."""
    original, compressed = (next(row for row in rows if row.network == name) for name in ("original", "compressed"))
    ratio = time_ratio(compressed, original)
    return {
        "ms": [summarize(original).p50, summarize(compressed).p50],
        "time_ratio": [ratio.value, ratio.low, ratio.high],
    }


def main() -> None:
    known = [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []
    asked = sys.argv[1:]
    lines = {title: [row for row in known if row["row"] == title] for title in ROWS}
    for title in asked or [title for title in ROWS if not lines[title]]:
        lines[title] = run(title, ROWS[title])
        partial = TABLE.with_suffix(".partial")
        partial.write_text("".join(json.dumps(row) + "\n" for title in ROWS for row in lines[title]))
        shutil.move(partial, TABLE)


if __name__ == "__main__":
    main()
