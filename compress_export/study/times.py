"""What a line's network takes, beside the original: ranks tell it, so any machine can time what another one trained."""

from __future__ import annotations

import copy
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from compress_export.digits import View
from compress_export.networks import Network
from compress_export.photographs import photograph_crops
from compress_export.study.lines import Line
from compressor.costs import survey
from compressor.plan import LayerPlan
from compressor.surgery import skeleton

LATENCY_FORMAT = "onnx"


def timed(line: Line, network: Network, cap: float) -> dict[str, Any]:
    """Milliseconds of both networks' files in turns on one core of this machine, and the ratio with its interval.

    `cap` is in seconds for each file. The factors are zeros: time does not depend on weights.
    """
    from bench.host import measure
    from bench.measurement import Measurement, NotMeasured, Schedule
    from bench.statistics import summarize, time_ratio
    from exporters.export import export

    image = photograph_crops(View(network.input, network.mean, network.std), 1)
    weights = {layer.name: layer.weight for layer in survey(network.module, image).layers}
    skeleton(
        small := copy.deepcopy(network.module),
        [LayerPlan(name, weights[name], method, tuple(rank), "") for name, (method, *rank) in line["ranks"].items()],
    )
    with TemporaryDirectory() as folder:
        files = [
            export(module.eval(), image, LATENCY_FORMAT, Path(folder, f"{name}.{LATENCY_FORMAT}"), network=name)
            for name, module in {"original": network.module, "compressed": small}.items()
        ]
        before, after = measure(files, image.numpy(), Schedule(cap_seconds=cap))
    if not isinstance(before, Measurement) or not isinstance(after, Measurement):
        return {"not measured": [row.reason for row in (before, after) if isinstance(row, NotMeasured)]}
    ratio = time_ratio(after, before)
    p50 = [summarize(row).p50 for row in (before, after)]
    return {"p50": p50, "ratio": asdict(ratio), "cpu": before.device.cpu, "runtime": before.runtime_version}
