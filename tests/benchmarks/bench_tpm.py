"""The tensor power method against TensorLy's, on trained kernels: CPU seconds on one thread, explained energy.

As a script it writes a line for each kernel and rank to results/tpm_vs_tensorly.jsonl, going on where it stopped:

    export COMPRESS_EXPORT_KIT=../shared/data OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python tests/benchmarks/bench_tpm.py --write --alexnet digits.pt

As a benchmark it times ours, races TensorLy once and asserts the ratio:

    COMPRESS_EXPORT_KIT=../shared/data OMP_NUM_THREADS=1 pytest -o addopts= tests/benchmarks/bench_tpm.py
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compressor.decompositions.tensor_power_method import PowerMethod

RESULTS = Path(__file__).parents[2] / "results" / "tpm_vs_tensorly.jsonl"
RANKS = (8, 32, 128)
SEEDS = (0, 1, 2)
"""Ours is run with each and the means are compared; TensorLy's, ten random starts for each component, once."""
RESNET56 = ("layer1.0.conv1", "layer1.4.conv2", "layer2.4.conv2", "layer3.0.conv1", "layer3.8.conv2")
RESNET18 = ("layer3.0.conv2", "layer4.1.conv2")
ALEXNET = ("features.0", "features.3", "features.6", "features.8", "features.10")


def trained_kernels(kit: Path, alexnet: Path | None) -> dict[str, Tensor]:
    """T x S x D kernels by "network.layer": ResNet-56 and (vector-quantized) ResNet-18 of the kit, AlexNet's."""
    sys.path.insert(0, str(kit))
    import networks  # type: ignore[import-not-found]  # the kit is not a package of ours

    found = {}
    for name, layers in (("resnet56", RESNET56), ("resnet18_vq", RESNET18)):
        state = getattr(networks, name)().state_dict()
        found |= {f"{name}.{layer}": state[f"{layer}.weight"].flatten(2) for layer in layers}
    if alexnet is not None:
        state = torch.load(alexnet, map_location="cpu", weights_only=True)
        found |= {f"alexnet.{layer}": state[f"{layer}.weight"].float().flatten(2) for layer in ALEXNET}
    return found


def ours(kernel: Tensor, rank: int, seed: int) -> tuple[float, float]:
    """CPU seconds, and the share of the kernel's energy that `rank` components explain."""
    start = time.process_time()
    method = PowerMethod(kernel, seed)
    method.extend(rank)
    seconds = time.process_time() - start
    sides = [side.double() for side in method.vectors(rank)]
    left = kernel.double() - torch.einsum("ar,br,cr->abc", *sides)
    return seconds, 1 - float(left.square().sum() / kernel.double().square().sum())


def tensorly(kernel: Tensor, rank: int) -> tuple[float, float]:
    """The same of tensorly.decomposition.parafac_power_iteration, with its own number of starts and sweeps."""
    import tensorly as tl
    from tensorly.decomposition import parafac_power_iteration

    array = kernel.numpy()
    np.random.seed(0)  # TensorLy draws from the global state
    start = time.process_time()
    found = parafac_power_iteration(array, rank)
    seconds = time.process_time() - start
    left = np.linalg.norm(array - tl.cp_to_tensor(found)) / np.linalg.norm(array)
    return seconds, 1 - float(left) ** 2


def race(name: str, kernel: Tensor, rank: int) -> dict[str, Any]:
    """One line of the table: both times and energies, and their ratios."""
    runs = [ours(kernel, rank, seed) for seed in SEEDS]
    seconds, energy = (sum(column) / len(runs) for column in zip(*runs, strict=True))
    their_seconds, their_energy = tensorly(kernel, rank)
    return {
        "kernel": name,
        "shape": list(kernel.shape),
        "rank": rank,
        "seconds": seconds,
        "tensorly_seconds": their_seconds,
        "times_faster": their_seconds / seconds,
        "explained": energy,
        "tensorly_explained": their_energy,
        "energy_ratio": energy / their_energy,
        "worst_energy_ratio": min(run[1] for run in runs) / their_energy,
    }


def _kit() -> Path | None:
    place = os.environ.get("COMPRESS_EXPORT_KIT")
    return Path(place).resolve() if place else None


def _one_thread() -> None:
    torch.set_num_threads(1)
    ours(torch.randn(16, 16, 9), 4, 0)


@pytest.mark.parametrize("rank", RANKS)
@pytest.mark.parametrize("name", [f"resnet56.{layer}" for layer in RESNET56])
def test_tpm(benchmark: Any, name: str, rank: int) -> None:
    kit = _kit()
    if kit is None:
        pytest.skip("trained kernels are read from the folder in COMPRESS_EXPORT_KIT, which is not set")
    before = torch.get_num_threads()
    _one_thread()
    try:
        kernel = trained_kernels(kit, None)[name]
        row = race(name, kernel, rank)
        benchmark(ours, kernel, rank, 0)
    finally:
        torch.set_num_threads(before)
    benchmark.extra_info.update(row)
    assert row["times_faster"] >= 8
    assert row["energy_ratio"] >= 0.99


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--alexnet", type=Path, help="state dict of torchvision's AlexNet")
    options.add_argument("--write", action="store_true", help=f"append to {RESULTS.name}")
    chosen = options.parse_args()
    kit = _kit()
    if kit is None:
        options.error("set COMPRESS_EXPORT_KIT to the folder with networks.py and weights/")
    for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        if os.environ.get(variable) != "1":
            options.error(f"set {variable}=1: NumPy's threads would count as TensorLy's CPU time")
    _one_thread()
    lines = RESULTS.read_text().splitlines() if chosen.write and RESULTS.exists() else []
    done = {(row["kernel"], row["rank"]) for row in map(json.loads, lines)}
    for rank in RANKS:
        for name, kernel in trained_kernels(kit, chosen.alexnet).items():
            if (name, rank) in done:
                continue
            line = json.dumps(race(name, kernel, rank))
            print(line, flush=True)
            if chosen.write:
                with RESULTS.open("a") as file:
                    file.write(line + "\n")


if __name__ == "__main__":
    main()
