"""Prediction of whole compressed networks from times of single layers: results/latency_prediction.jsonl.

    python results/latency_prediction.py [NETWORK ...]

Untrained networks, every layer factored in the same way: windows by one method at half of its break-even in work (at
half of both ranks for Tucker), 1x1 windows by SVD at half of its break-even, fully connected layers by SVD at an eighth
of the full rank; layers in groups, and those whose factors would do more work, are kept. Predicted is the original's
time plus, for every factored layer, what its variant takes more than the layer; measured is the real exported file,
taking turns with the original's: on the wall (`bench.host.measure.measure`) and as time on the core, which other
processes disturb less. A line that is there already is measured again only if its network is named.
"""

import copy
import json
import sys
import tempfile
from math import prod
from pathlib import Path

import torch
import torchvision

from bench.host.layer_latency import LAYER_DEVICES, Effort, TimedFile
from bench.host.measure import measure
from bench.measurement import Schedule
from bench.statistics import time_ratio
from compress_export.latency.measured_costs import MeasuredCosts
from compressor.decompositions.methods import METHODS
from compressor.layers import find_layer, replace_module
from compressor.plan import LayerVariant
from compressor.planning.cost_model import price, variant_cost
from compressor.planning.rank_rules import break_even
from compressor.survey import Survey, survey
from exporters.export import export

TABLE = Path(__file__).with_name("latency_prediction.jsonl")
NETWORKS = ("alexnet", "vgg16", "resnet18", "resnet50", "mobilenet_v2")
FORMATS = ("pte", "onnx")
WINDOWS = ("tucker", "spatial", "channel")


def uniform(of: Survey, windows: str) -> list[LayerVariant]:
    """The variants of a plan that factors every layer where it does less work."""
    variants = []
    for layer in of.layers:
        shape = layer.shape
        method = windows if prod(shape.window) > 1 else "svd"
        full = METHODS[method].full_rank(shape) if METHODS[method].supports(shape) is None else (1,)
        if layer.must_keep or shape.groups > 1 or min(full) < 8:
            continue
        if method == "tucker":
            rank = tuple(max(8, own // 16 * 8) for own in full)
        elif shape.kind == "linear":
            rank = (max(8, full[0] // 64 * 8),)
        else:
            rank = (max(8, break_even(shape, method, "work") // 16 * 8),)
        variant = LayerVariant(layer.name, method, rank)
        if price(variant_cost(of, variant)) < price(variant_cost(of, LayerVariant(layer.name))):
            variants.append(variant)
    return variants


def compressed(network: torch.nn.Module, variants: list[LayerVariant]) -> torch.nn.Module:
    """A copy of the network with these variants, their weights random."""
    copied = copy.deepcopy(network)
    for variant in variants:
        factors = METHODS[variant.method].layers(find_layer(copied, variant.layer), variant.rank)
        with torch.no_grad():
            for weight in factors.parameters():
                weight.normal_(0, 0.05)
        replace_module(copied, variant.layer, factors)
    return copied


def rows(name: str, format: str) -> list[dict[str, object]]:
    """The table's lines for one network in one format."""
    torch.manual_seed(0)
    network = torchvision.models.get_model(name, weights=None).eval()
    image = torch.randn(1, 3, 224, 224)
    of = survey(network, image)
    plans = {windows: uniform(of, windows) for windows in WINDOWS}
    plans = {
        windows: variants
        for windows, variants in plans.items()
        if variants not in list(plans.values())[: list(plans).index(windows)]
    }
    chosen = {variant for variants in plans.values() for variant in variants}
    with MeasuredCosts(network, of, image, format) as costs:
        costs.measure([*(LayerVariant(layer.name) for layer in of.layers), *chosen], lambda *_: None)
        whole = costs.network()
        predicted = {
            windows: whole + sum(costs.cost(variant) - costs.cost(LayerVariant(variant.layer)) for variant in variants)
            for windows, variants in plans.items()
        }
    with tempfile.TemporaryDirectory() as folder:
        modules = {"original": network} | {
            windows: compressed(network, variants) for windows, variants in plans.items()
        }
        files = [
            export(module, image, format, Path(folder) / f"{own}.{format}", network=own)
            for own, module in modules.items()
        ]
        with LAYER_DEVICES["host"].stopwatch(format, 1) as watch:
            cores = watch.time([TimedFile(file.path, (1, 3, 224, 224)) for file in files], Effort(12, 40, 3.0))
        walls = measure(files, image.numpy(), Schedule(seconds=3, rounds=6))
    ratios = {windows: time_ratio(wall, walls[0]) for windows, wall in zip(plans, walls[1:], strict=True)}
    return [
        {
            "network": name,
            "format": format,
            "windows": windows,
            "layers": len(variants),
            "source": costs.source,
            "original_ms": round(whole, 3),
            "predicted": round(predicted[windows] / whole, 4),
            "measured_core": round(cores[place].ms / cores[0].ms, 4),
            "measured_wall": round(ratios[windows].value, 4),
            "wall_95": [ratios[windows].low, ratios[windows].high],
            "error": round(predicted[windows] / whole / (cores[place].ms / cores[0].ms) - 1, 4),
        }
        for place, (windows, variants) in enumerate(plans.items(), 1)
    ]


def main() -> None:
    asked = sys.argv[1:]
    known = [json.loads(line) for line in TABLE.read_text().splitlines()] if TABLE.exists() else []
    lines = [row for row in known if row["network"] not in asked]
    for name in asked or [name for name in NETWORKS if name not in {row["network"] for row in known}]:
        for format in FORMATS:
            lines += rows(name, format)
            TABLE.write_text("".join(json.dumps(line) + "\n" for line in lines))


if __name__ == "__main__":
    main()
