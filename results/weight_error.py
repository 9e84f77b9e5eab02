"""Weight errors of the window forms at a quarter of the parameters, on ResNet-56's kernels: results/weight_error.jsonl.

    export COMPRESS_EXPORT_KIT=../shared/data OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python results/weight_error.py

A line for each 3x3 kernel and form, at the largest rank whose factors have at most SHARE of the kernel's weights; the
two numbers of Tucker-2 are the same fraction of S and of T. Seconds are CPU time of one thread. Takes half a minute.
Without the kit nothing is measured and nothing is written.
"""

import dataclasses
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import nn

from compressor.decompositions.methods import METHODS
from compressor.layer_shape import LayerShape, Rank
from compressor.layers import layer_shape

SHARE = 0.25
FORMS = ("cp-polished", "cp-als", "spatial", "tucker", "channel", "cp")
TABLE = Path(__file__).with_name("weight_error.jsonl")


def rank_at(method: str, shape: LayerShape, share: float) -> Rank:
    """The largest rank, in proportion to the full one, whose factors have at most `share` of the layer's weights."""
    full = METHODS[method].full_rank(shape)
    limit = share * shape.groups * shape.kernel[0] * shape.kernel[1] * shape.kernel[2]
    bare = dataclasses.replace(shape, bias=False)
    scales = ((scale / max(full)) for scale in range(max(full), 0, -1))
    ranks = (tuple(max(1, int(scale * most + 1e-9)) for most in full) for scale in scales)
    return next(rank for rank in ranks if METHODS[method].cost(bare, rank).parameters <= limit)


def row(name: str, layer: nn.Conv2d, method: str) -> dict[str, Any]:
    """One line of the table."""
    shape = layer_shape(layer)
    rank = rank_at(method, shape, SHARE)
    start = time.process_time()
    decomposition = METHODS[method].decompose(layer, 0)
    error = decomposition.error(rank)
    seconds = time.process_time() - start
    weights = METHODS[method].cost(dataclasses.replace(shape, bias=False), rank).parameters
    return {
        "network": "resnet56",
        "layer": name,
        "shape": shape.kernel,
        "method": method,
        "rank": rank,
        "share": weights / layer.weight.numel(),
        "error": error,
        "stability": decomposition.stability(rank),
        "seconds": seconds,
    }


def summary(rows: list[dict[str, Any]]) -> str:
    """A line for each form: mean error, largest stability number, mean share, seconds of all kernels together."""
    lines = [f"{'form':12} {'mean error':>10} {'worst':>7} {'largest stability':>18} {'share':>6} {'seconds':>8}"]
    for method in FORMS:
        own = [row for row in rows if row["method"] == method]
        errors = [row["error"] for row in own]
        stability = max((row["stability"] for row in own if row["stability"] is not None), default=float("nan"))
        share, seconds = sum(row["share"] for row in own) / len(own), sum(row["seconds"] for row in own)
        mean = sum(errors) / len(errors)
        lines.append(f"{method:12} {mean:10.4f} {max(errors):7.4f} {stability:18.2f} {share:6.3f} {seconds:8.2f}")
    return "\n".join(lines)


def main() -> None:
    kit = os.environ.get("COMPRESS_EXPORT_KIT")
    if kit is None or not (Path(kit) / "networks.py").is_file():
        print("skipped: the trained kernels are read from the folder named by COMPRESS_EXPORT_KIT, which "
              + ("is not set" if kit is None else f"has no networks.py: {kit}"))  # fmt: skip
        return
    if any(os.environ.get(variable) != "1" for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS")):
        sys.exit("set OMP_NUM_THREADS=1 and OPENBLAS_NUM_THREADS=1: other threads would count as CPU time")
    sys.path.insert(0, str(Path(kit).resolve()))
    import networks

    torch.set_num_threads(1)
    layers = {name: layer for name, layer in networks.resnet56().named_modules() if isinstance(layer, nn.Conv2d)}
    for method in FORMS:
        row("", nn.Conv2d(16, 16, 3), method)  # the first call pays for imports
    rows = [row(name, layer, method) for name, layer in layers.items() for method in FORMS]
    new = TABLE.with_suffix(".part")
    new.write_text("".join(json.dumps(line) + "\n" for line in rows))
    new.replace(TABLE)
    print(summary(rows))


if __name__ == "__main__":
    main()
