"""Every classification network of torchvision, and the smallest one of every convolutional family of timm: planned for
half of their parameters, compressed and exported, untrained, with the files' parity or the reason that the tool gave.

    python results/coverage.py [--formats pte,onnx] [--minutes 20] [NETWORK ...]

adds a line for each network to results/coverage.jsonl, and goes on where it was interrupted: a network that has a line
is not run again. Each runs in a process of its own, which is ended after so many minutes. The families of timm are
chosen by the parameters of their networks, which are kept in runs/coverage/timm.jsonl (half an hour the first time).
"""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINES = Path(__file__).with_name("coverage.jsonl")
WORK = ROOT / "runs" / "coverage"
WINDOWS = 6
"""A convolutional network has so many convolutions with a window at least: a transformer has one, its patches."""


def commands(network: str, formats: str, run: Path) -> list[list[str]]:
    """Command lines of a user, one after the other."""
    goal = ["--weights", "none", "--max-params", "0.5x", "--set", "plan.costs=counted"]
    place = ["--runs", str(run.parent), "--name", run.name]
    return [["plan", network, *goal, *place], ["compress", str(run)], ["export", str(run), "--format", formats]]


def child(network: str, formats: str, run: str) -> None:
    """Runs the commands in this process, up to the first that fails."""
    from compress_export.cli.main import main

    for words in commands(network, formats, Path(run)):
        sys.argv = ["compress-export", *words]
        main()


def line_of(network: str, formats: str, minutes: float) -> dict[str, Any]:
    """The line of one network; `reason` is the last word of the tool where it made no files, or not all of them."""
    run = WORK / "runs" / re.sub(r"\W", "-", network)
    shutil.rmtree(run, ignore_errors=True)
    begun, words = time.monotonic(), [sys.executable, str(Path(__file__)), "--child", network, formats, str(run)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=60 * minutes, check=False)
        said = [line for line in done.stderr.splitlines() if line.strip()]
        reason = said[-1].removeprefix("compress-export: ") if done.returncode and said else ""
        traceback = "Traceback (most recent call last)" in done.stderr
    except subprocess.TimeoutExpired:
        reason, traceback = f"took longer than {minutes:g} minutes", False
    line: dict[str, Any] = {
        "network": network,
        "command": "; ".join(
            shlex.join(["compress-export", *each]) for each in commands(network, formats, Path("runs/run"))
        ),
        "reason": reason,
        "traceback": traceback,
        "seconds": round(time.monotonic() - begun, 1),
    }
    surveys = [read(run / name) for name in ("survey.json", "compressed.json")]
    if all(surveys):
        line |= {name: [found[name] for found in surveys] for name in ("parameters", "macs")}
        line["input"] = read(run / "network.json")["input"]
        layers = read(run / "plan.json")["layers"]
        line["layers"] = [sum(layer["method"] != "keep" for layer in layers), len(layers)]
    line["files"] = [
        {name: row[name] for name in ("network", "format", "bytes", "not_delegated", "fallbacks")}
        | {name: row["parity"][name] for name in ("relative_error", "cosine", "top1_agreement", "images")}
        for row in read(run / "artifacts.json") or []
    ]
    shutil.rmtree(run, ignore_errors=True)
    return line


def read(path: Path) -> Any:
    return json.loads(path.read_text()) if path.exists() else None


def networks() -> list[str]:
    """All of torchvision's, then timm's, each from the smallest to the largest."""
    from torchvision import models

    sizes = {
        name: models.get_model_weights(name)["DEFAULT"].meta["num_params"] for name in models.list_models(module=models)
    }
    return [*sorted(sizes, key=lambda name: sizes[name]), *(f"timm:{name}" for name in families())]


def families(pattern: str = "*") -> list[str]:
    """The smallest network of each convolutional family of timm, from the smallest to the largest. The first network of
    a family tells whether it is convolutional; what is known is kept in a file, so that this goes on where it ended."""
    import timm

    kept = WORK / "timm.jsonl"
    known = {row["name"]: row for row in map(json.loads, kept.read_text().splitlines())} if kept.exists() else {}
    WORK.mkdir(parents=True, exist_ok=True)
    groups: dict[str, list[str]] = defaultdict(list)
    for name in timm.list_models(pattern, exclude_filters="test_*"):
        groups[re.sub(r"\d.*", "", name.removeprefix("tf_").split("_")[0])].append(name)
    smallest: dict[str, int] = {}
    for names in groups.values():
        rows = []
        for name in names:
            if name not in known:
                known[name] = sized(name)
                with kept.open("a") as lines:
                    lines.write(json.dumps(known[name]) + "\n")
            rows.append(known[name])
            if rows[0]["windows"] < WINDOWS:
                break
        found = [row for row in rows if row["windows"] >= WINDOWS]
        if found:
            least = min(found, key=lambda row: row["parameters"])
            smallest[least["name"]] = least["parameters"]
    return sorted(smallest, key=lambda name: smallest[name])


def sized(name: str) -> dict[str, Any]:
    """The parameters of a network of timm, and its convolutions with a window, counted without values."""
    import timm
    import torch
    from torch import nn

    try:
        with torch.device("meta"):
            network = timm.create_model(name)
    except Exception as error:  # a few want values while they are built, which the meta device has none of
        return {"name": name, "parameters": 0, "windows": 0, "error": str(error).splitlines()[0]}
    windows = sum(isinstance(each, nn.Conv2d) and max(each.kernel_size) > 1 for each in network.modules())
    return {"name": name, "parameters": sum(value.numel() for value in network.parameters()), "windows": windows}


def main() -> None:
    asked = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    asked.add_argument("networks", nargs="*", help="these alone, in place of all")
    asked.add_argument("--formats", default="pte,onnx")
    asked.add_argument("--minutes", type=float, default=20.0)
    given = asked.parse_args()
    there = {json.loads(line)["network"] for line in LINES.read_text().splitlines()} if LINES.exists() else set()
    for network in given.networks or networks():
        if network in there:
            continue
        line = line_of(network, given.formats, given.minutes)
        with LINES.open("a") as lines:
            lines.write(json.dumps(line) + "\n")
        errors = [file["relative_error"] for file in line["files"] if file["relative_error"] is not None]
        worst = f"{len(errors)} files, largest relative error {max(errors):.1e}" if errors else "no file"
        print(
            f"{network}: {worst}, {line['seconds']:.0f} s{': ' + line['reason'] if line['reason'] else ''}", flush=True
        )


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", str(os.cpu_count() or 1))
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
