"""Fits bench/simulator/devices.toml on public single-thread figures, and judges it: devices.jsonl.

    python results/fit_devices.py

The figures are ncnn's own benchmark list (float32, fully connected weights stored in 16 bits), phones.jsonl. One model
for all devices: MACs in a cycle by operator class are shared, each core has a factor, a bandwidth and its clock. It is
judged three times: on a device that the fit has not seen (the core's other device lends its core), on a device and a
network neither of which it has seen, and, on cores with one device, on networks alone. Only the A72 and the A73 have
two devices; the other cores get no estimate. Takes two minutes.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import torch
import torchvision
from scipy.optimize import least_squares
from torch import nn

from bench.simulator.latency_estimate import CLASSES, FILE, CoreModel, OperatorCost, estimate_ms, operators_of
from compress_export.models.networks import alexnet_caffe
from compressor.survey import survey

HERE = Path(__file__).parent
PHONES, TABLE = HERE / "phones.jsonl", HERE / "devices.jsonl"
RUNTIME = "ncnn"
FAMILIES = (("mobilenet_v1", "mobilenet_v2"), ("resnet18", "resnet50"))
# Where nothing is known: MACs in a cycle, bytes in a second, cycles for an operator. The pull towards them is weak, but
# for the last: left free, it grows to a millisecond an operator, and factored networks have three times the operators.
GUESS, BANDWIDTH, OVERHEAD = 3.0, 4e9, 5e4
PULL, OVERHEAD_PULL = 0.1, 2.0


def mobilenet_v1() -> nn.Module:
    """Howard et al. 2017, table 1."""
    widths = (32, 64, 128, 128, 256, 256, 512, 512, 512, 512, 512, 512, 1024, 1024)
    strides = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1)
    layers: list[nn.Module] = [nn.Conv2d(3, 32, 3, 2, 1)]
    for inputs, outputs, stride in zip(widths, widths[1:], strides, strict=False):
        layers += [nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs), nn.Conv2d(inputs, outputs, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1024, 1000))


NETWORKS = {
    "mobilenet_v1": mobilenet_v1,
    "mobilenet_v2": torchvision.models.mobilenet_v2,
    "resnet18": torchvision.models.resnet18,
    "resnet50": torchvision.models.resnet50,
    "alexnet": alexnet_caffe,
    "vgg16": torchvision.models.vgg16,
    "googlenet": lambda: torchvision.models.googlenet(aux_logits=False, init_weights=False),
    "squeezenet1_1": torchvision.models.squeezenet1_1,
}


def operators(name: str) -> tuple[OperatorCost, ...]:
    size = 227 if name == "alexnet" else 224  # Caffe's
    return operators_of(asdict(survey(NETWORKS[name]().eval(), torch.zeros(1, 3, size, size))))


Figure = dict[str, Any]


def fit(figures: Sequence[Figure], work: dict[str, tuple[OperatorCost, ...]]) -> dict[str, CoreModel]:
    """A model of each core in the figures, at 1 GHz: `at` puts it on a device's clock."""
    cores = sorted({figure["core"] for figure in figures})

    def models(values: np.ndarray) -> dict[str, CoreModel]:
        shared, own = np.exp(values[: len(CLASSES) + 1]), np.exp(values[len(CLASSES) + 1 :]).reshape(-1, 2)
        rates = {name: GUESS * float(rate) for name, rate in zip(CLASSES, shared, strict=False)}
        return {
            core: CoreModel(
                core,
                1000.0,
                {name: rate * float(factor) for name, rate in rates.items()},
                BANDWIDTH * float(bandwidth),
                OVERHEAD * float(shared[-1]),
                *(0.0, 0.0, 0.0),
            )
            for core, (factor, bandwidth) in zip(cores, own, strict=True)
        }

    def residuals(values: np.ndarray) -> np.ndarray:
        found = models(values)
        misses = [np.log(predicted(found, figure, work) / figure["ms"]) for figure in figures]
        return np.concatenate([misses, pull * values])

    pull = np.full(len(CLASSES) + 1 + 2 * len(cores), PULL)
    pull[len(CLASSES)] = OVERHEAD_PULL
    best = least_squares(residuals, np.zeros(len(CLASSES) + 1 + 2 * len(cores)))
    return models(best.x)


def predicted(models: dict[str, CoreModel], figure: Figure, work: dict[str, tuple[OperatorCost, ...]]) -> float:
    return estimate_ms(replace(models[figure["core"]], mhz=figure["mhz"]), work[figure["network"]])


def held_out(figures: Sequence[Figure], work: dict[str, tuple[OperatorCost, ...]]) -> Iterable[dict[str, Any]]:
    """A line for each figure: what fits say that saw neither its network nor its device, and that saw the network."""
    kept = {device: fit([each for each in figures if each["device"] != device], work) for device in twice(figures)}
    for figure in figures:
        unseen = figure["device"] if figure["device"] in kept else None
        seen = [each for each in figures if each["network"] != figure["network"] and each["device"] != unseen]
        row = {**figure, "device_held_out": bool(unseen), **judged(fit(seen, work), figure, work, "")}
        yield row | (judged(kept[unseen], figure, work, "device_") if unseen else {})


def twice(figures: Sequence[Figure]) -> list[str]:
    """The devices whose core another device has too."""
    devices = {figure["device"]: figure["core"] for figure in figures}
    return [device for device, core in devices.items() if list(devices.values()).count(core) > 1]


def judged(
    models: dict[str, CoreModel], figure: Figure, work: dict[str, tuple[OperatorCost, ...]], prefix: str
) -> dict[str, float]:
    told = predicted(models, figure, work)
    return {f"{prefix}estimate_ms": round(told, 1), f"{prefix}error": round(abs(told / figure["ms"] - 1), 4)}


def ratio_errors(rows: Sequence[dict[str, Any]], estimate: str = "estimate_ms") -> list[float]:
    """By how much the estimated ratio of two networks of one family misses the true one, on every device."""
    at = {(row["device"], row["network"]): row for row in rows}
    misses = []
    for device in dict.fromkeys(row["device"] for row in rows):
        for one, other in FAMILIES:
            if (device, one) in at and (device, other) in at:
                first, last = at[device, one], at[device, other]
                told, true = (last[name] / first[name] for name in (estimate, "ms"))
                misses.append(abs(told / true - 1))
    return misses


def main() -> None:
    figures = [row for row in map(json.loads, PHONES.read_text().splitlines()) if row["runtime"] == RUNTIME]
    work = {name: operators(name) for name in NETWORKS}
    rows = list(held_out(figures, work))
    lines = list(map(json.dumps, rows))
    models = fit(figures, work)
    text = [f'# Written by results/fit_devices.py.\n\nruntime = "{RUNTIME}"\n']
    for core, model in models.items():
        own = [row for row in rows if row["core"] == core]
        errors = {"error": fmean(row["error"] for row in own), "ratio_error": fmean(ratio_errors(own))}
        if own[0]["device_held_out"]:
            errors["device_error"] = fmean(row["device_error"] for row in own)
            lines.append(
                json.dumps({"core": core, "device_ratio_error": fmean(ratio_errors(own, "device_estimate_ms"))})
            )
            text.append(toml(replace(model, mhz=max(row["mhz"] for row in own), **errors)))
        lines.append(json.dumps({"core": core, **errors}))
    TABLE.write_text("\n".join(lines) + "\n", encoding="utf-8")
    FILE.write_text("\n".join(text), encoding="utf-8")
    print("\n".join(lines[len(rows) :]))


def toml(model: CoreModel) -> str:
    rates = ", ".join(f"{name} = {rate:.4f}" for name, rate in model.rates.items())
    return (
        f"[cores.{model.core}]\nmhz = {model.mhz}\nrates = {{ {rates} }}\nbandwidth = {model.bandwidth:.4e}\n"
        f"overhead = {model.overhead:.1f}\ndevice_error = {model.device_error:.4f}\nerror = {model.error:.4f}\n"
        f"ratio_error = {model.ratio_error:.4f}\n"
    )


if __name__ == "__main__":
    main()
