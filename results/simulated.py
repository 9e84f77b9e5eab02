"""AlexNet on the simulated ARM CPU, three engines, two plans, and what counting costs: results/simulated.jsonl.

    make runner && python results/simulated.py [FOLDER]

Needs what `make runner` builds. Both networks are untrained (counts do not depend on weights) and are given the same
four crops of photographs. Files of the first plan are counted three times on the Cortex-A76, its compressed .pte ten
times; a line says whether all counts were the same. Costs are CPU seconds of the emulator for one run: the difference
of processes with six and with two images. FOLDER keeps the runs of compress-export, which are made where they are
missing. Takes about a quarter of an hour on two cores that do nothing else.
"""

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from bench.devices import DEVICES
from bench.measurement import Simulated
from bench.runner.bundle import open_bundle
from bench.simulator.cores import read_cores
from bench.simulator.emulator import Machine, command, find
from compress_export.data.images import View, photograph_crops
from exporters.artifact import Artifact, read_artifacts

TABLE = Path(__file__).with_name("simulated.jsonl")
PLANS = {
    "alexnet": ("alexnet", "--weights", "none", "--max-params", "0.1428x", "--max-latency", "0.17x"),
    "paper": ("alexnet-caffe", "--weights", "none", "--ranks", "astrid-lee-2017"),
}
REPEATS = {"alexnet": 3, "paper": 1}
PROOF = ("alexnet", "compressed", "pte", 10)
VIEW = View((3, 224, 224), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
SIZES = {"alexnet": VIEW.input, "paper": (3, 227, 227)}
CORE = "cortex-a76"


def artifacts_of(plan: str, folder: Path) -> tuple[Artifact, ...]:
    """The six files of one plan, exported by the real commands where they are not there yet."""
    place = folder / "runs" / plan
    if not (place / "artifacts.json").exists():
        verbs = (("plan", *PLANS[plan], "--name", plan), ("compress", place), ("export", place, "--target", "android"))
        for words in verbs:
            subprocess.run(["compress-export", *map(str, words)], cwd=folder, check=True)
    return read_artifacts(place / "artifacts.json")


def counts(plan: str, folder: Path) -> Iterable[dict[str, Any]]:
    """A line for each file: its counts, and whether every repetition gave the same."""
    images = photograph_crops(View(SIZES[plan], VIEW.mean, VIEW.std), 4).numpy()
    for artifact in artifacts_of(plan, folder):
        repeats = PROOF[3] if (plan, artifact.network, artifact.format) == PROOF[:3] else REPEATS[plan]
        begin, used = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        rows = [row for _ in range(repeats) for row in DEVICES["arm"].measure([artifact], images)]
        seconds = (time.monotonic() - begin) / repeats
        used = (resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - used) / repeats
        assert all(isinstance(row, Simulated) for row in rows)
        told = [{name: asdict(row)[name] for name in ("load", "first", "run", "traffic", "memory")} for row in rows]
        survey = "survey.json" if artifact.network == "original" else "compressed.json"
        yield {
            "what": "counts",
            "plan": " ".join(PLANS[plan]),
            **{name: asdict(rows[0])[name] for name in ("network", "format", "bytes", "runtime_version", "emulator")},
            "core": CORE,
            "macs": json.loads((folder / "runs" / plan / survey).read_text())["macs"],
            "instructions": rows[0].run.instructions,
            **told[0],
            "repeats": repeats,
            "same_counts": all(each == told[0] for each in told),
            "cosine": rows[0].parity.cosine,
            "top1_agreement": rows[0].parity.top1_agreement,
            "images": rows[0].parity.images,
            "seconds": round(seconds, 1),
            "cpu_seconds": round(used, 1),
        }


def costs(folder: Path) -> Iterable[dict[str, Any]]:
    """CPU seconds of one run under plain QEMU, counted, and with the cache model: of the compressed .pte and .onnx."""
    for artifact in artifacts_of("alexnet", folder):
        if artifact.network == "compressed" and artifact.format != "ptl":
            own = {way: cost(artifact, way) for way in ("plain", "counting", "cache model")}
            ratios = {f"{way} over plain": round(own[way] / own["plain"], 2) for way in ("counting", "cache model")}
            yield {"what": "cost", "format": artifact.format, "cpu_seconds": own, **ratios}


def cost(artifact: Artifact, way: str) -> float:
    """CPU seconds of one run: the least of three differences between six images and two, a quarter of it."""
    return round(min(_seconds(artifact, way, 6) - _seconds(artifact, way, 2) for _ in range(3)) / 4, 3)


def _seconds(artifact: Artifact, way: str, images: int) -> float:
    machine = Machine(find(), open_bundle("aarch64"), read_cores()[CORE])
    words = command(machine, artifact.format, images, "1x3x224x224", "plain" if way == "plain" else "counted")
    begin = "from=1" if way == "cache model" else "from=0"
    words = [",".join(begin if part.startswith("from=") else part for part in word.split(",")) for word in words]
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        links = {
            "bundle": machine.bundle.path,
            "root": machine.emulator.folder / CORE,
            "model": artifact.path.resolve(),
        }
        for name, target in {
            **links,
            "count.so": machine.emulator.plugin,
            "clock.so": machine.emulator.folder / "clock.so",
        }.items():
            (folder / name).symlink_to(target)
        for number, image in enumerate(photograph_crops(VIEW, images).numpy()):
            (folder / f"image{number}").write_bytes(image.astype(np.float32).tobytes())
        before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
        subprocess.run(words, cwd=folder, env={}, capture_output=True, check=True)
        return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def main(folder: Path) -> None:
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    lines = []
    for rows in (counts("alexnet", folder), counts("paper", folder), costs(folder)):
        for row in rows:
            lines.append(json.dumps(row))
            print(lines[-1][:150], flush=True)
            partial = TABLE.with_suffix(".partial")
            partial.write_text("\n".join(lines) + "\n", encoding="utf-8")
    TABLE.with_suffix(".partial").replace(TABLE)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
