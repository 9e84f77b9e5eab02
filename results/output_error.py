"""Output errors of the methods at a quarter of each layer's parameters: results/output_error.jsonl.

    export OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
    python results/output_error.py ../shared/data

A line for each layer of ResNet-20 and ResNet-56 and each method, at the largest rank whose factors have at most SHARE
of the layer's weights: the relative error of the layer's output on IMAGES images, with factors that fit the weights
(plain) and with factors that fit the outputs of CALIBRATION other images (aware). The layer reads its true input, that
of the original network. Beside them the estimate that planning uses, the error that the decomposition tells, the
stability number, and CPU seconds of one thread. These networks have one layer for svd, ten logits from 64 features, so
svd is measured on the 1x1 and fully connected layers of ResNet-18 as well, on ImageNet photographs: CALIBRATION / 2 to
fit, the others of 500 to measure. Takes ten minutes. Without the kit nothing is measured and nothing is written.
"""

import dataclasses
import json
import math
import sys
import time
import zipfile
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn
from torchvision import transforms
from weight_error import rank_at

from compressor.calibration import Moments, collect
from compressor.decompositions.methods import METHODS
from compressor.layers import Layer, layer_shape

SHARE = 0.25
CALIBRATION, IMAGES = 512, 500
TABLE = Path(__file__).with_name("output_error.jsonl")


def photographs(kit: Any, networks: Any) -> tuple[Tensor, Tensor]:
    """Normalized CIFAR-10 training images of all classes: those to fit and those to measure on."""
    pixels, _ = kit.cifar10("train", -(-(CALIBRATION + IMAGES) // 10))
    images = torch.tensor(pixels).permute(0, 3, 1, 2) / 255
    mean, std = (torch.tensor(values)[:, None, None] for values in (networks.MEAN, networks.STD))
    order = torch.randperm(len(images), generator=torch.Generator().manual_seed(0))
    shuffled = ((images - mean) / std)[order]
    return shuffled[:CALIBRATION], shuffled[CALIBRATION : CALIBRATION + IMAGES]


def large_photographs(place: Path, networks: Any) -> tuple[Tensor, Tensor]:
    """Normalized ImageNet photographs of as many classes: those to fit and those to measure on."""
    crop = transforms.Compose([transforms.CenterCrop(224), transforms.ToTensor()])
    with zipfile.ZipFile(place / "imagenet" / "calib500.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg")))
        images = torch.stack([crop(Image.open(archive.open(name)).convert("RGB")) for name in names])
    mean, std = (torch.tensor(values)[:, None, None] for values in (networks.MEAN, networks.STD))
    shuffled = ((images - mean) / std)[torch.randperm(len(images), generator=torch.Generator().manual_seed(0))]
    return shuffled[: CALIBRATION // 2], shuffled[CALIBRATION // 2 :]


def inputs_of(network: nn.Module, layers: dict[str, Layer], images: Tensor) -> dict[str, Tensor]:
    """The inputs of each layer when `network` sees `images`."""
    seen: dict[str, list[Tensor]] = {name: [] for name in layers}
    hooks = [
        layer.register_forward_pre_hook(lambda _layer, inputs, name=name: seen[name].append(inputs[0]))
        for name, layer in layers.items()
    ]
    with torch.no_grad():
        for batch in images.split(50):
            network(batch)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat(own) for name, own in seen.items()}


def output_error(layer: Layer, factors: nn.Module, inputs: Tensor) -> float:
    """|factors(x) - layer(x)| / |layer(x)| over all images."""
    wrong = whole = 0.0
    with torch.no_grad():
        for batch in inputs.split(100):
            true = layer(batch).double()
            wrong += float((factors(batch).double() - true).square().sum())
            whole += float(true.square().sum())
    return math.sqrt(wrong / whole)


def row(place: tuple[str, str], layer: Layer, method: str, moments: Moments, inputs: Tensor) -> dict[str, Any]:
    """One line of the table."""
    shape = layer_shape(layer)
    rank = rank_at(method, shape, SHARE)
    plain = METHODS[method].decompose(layer, 0)
    start = time.process_time()
    aware = METHODS[method].decompose(layer, 0, moments)
    estimate = aware.estimate(rank)
    middle = time.process_time()
    factors = aware.factors(rank)
    end = time.process_time()
    weights = METHODS[method].cost(dataclasses.replace(shape, bias=False), rank).parameters
    return {
        "network": place[0],
        "layer": place[1],
        "shape": shape.kernel,
        "method": method,
        "rank": rank,
        "share": weights / layer.weight.numel(),
        "plain": output_error(layer, plain.factors(rank), inputs),
        "aware": output_error(layer, factors, inputs),
        "told": aware.error(rank),
        "estimate": estimate,
        "plain_told": plain.error(rank),
        "plain_estimate": plain.estimate(rank),
        "stability": aware.stability(rank),
        "estimate_seconds": middle - start,
        "factors_seconds": end - middle,
    }


def rows_of(
    name: str, network: nn.Module, calibration: Tensor, images: Tensor, methods: tuple[str, ...] = tuple(METHODS)
) -> list[dict[str, Any]]:
    """The lines of one network, for the layers that any of the methods supports."""
    forms = {
        own: [method for method in methods if METHODS[method].supports(layer_shape(layer)) is None]
        for own, layer in network.named_modules()
        if isinstance(layer, nn.Conv2d | nn.Linear)
    }
    layers: dict[str, Layer] = {own: network.get_submodule(own) for own, fit in forms.items() if fit}
    moments = collect(network, calibration.split(64), layers)
    inputs = inputs_of(network, layers, images)
    return [
        row((name, own), layer, method, moments[own], inputs[own])
        for own, layer in layers.items()
        for method in forms[own]
    ]


def summary(rows: list[dict[str, Any]]) -> str:
    """A line for each method: means over the layers of all networks."""
    columns = ("plain", "aware", "told", "estimate", "plain_told", "plain_estimate")
    lines = [f"{'method':12} {'layers':>6} " + " ".join(f"{name:>14}" for name in columns) + "  lower by stability sec"]
    for method in METHODS:
        own = [line for line in rows if line["method"] == method]
        means = [sum(line[column] for line in own) / len(own) for column in columns]
        most = max((line["stability"] for line in own if line["stability"] is not None), default=float("nan"))
        seconds = sum(line["estimate_seconds"] + line["factors_seconds"] for line in own)
        figures = " ".join(f"{mean:14.4f}" for mean in means)
        lines.append(f"{method:12} {len(own):6} {figures} {1 - means[1] / means[0]:8.1%} {most:9.2f} {seconds:6.1f}")
    return "\n".join(lines)


def main() -> None:
    place = Path(sys.argv[1]) if len(sys.argv) == 2 else None
    if place is None or not (place / "networks.py").is_file():
        print("skipped: the networks and images are read from the data kit; name its folder: "
              "python results/output_error.py ../shared/data")  # fmt: skip
        return
    sys.path.insert(0, str(place.resolve()))
    import kit
    import networks

    torch.set_num_threads(1)
    calibration, images = photographs(kit, networks)
    rows = [
        line
        for name in ("resnet20", "resnet56")
        for line in rows_of(name, getattr(networks, name)(), calibration, images)
    ]
    rows += rows_of("resnet18", networks.resnet18_vq(), *large_photographs(place, networks), methods=("svd",))
    new = TABLE.with_suffix(".part")
    new.write_text("".join(json.dumps(line) + "\n" for line in rows))
    new.replace(TABLE)
    print(summary(rows))


if __name__ == "__main__":
    main()
