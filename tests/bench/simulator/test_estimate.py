"""Estimates: operators put into classes, a sum that can be done by hand, and errors that are those of the record."""

import json
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest

from bench.measurement import BenchError
from bench.simulator.cores import read_cores
from bench.simulator.latency_estimate import CLASSES, CoreModel, OperatorCost, estimate_ms, operators_of, read_models

RESULTS = Path(__file__).resolve().parents[3] / "results"
RATES = dict.fromkeys(CLASSES, 2.0)
MODEL = CoreModel(
    "cortex-a72", 1000.0, RATES, bandwidth=1e9, overhead=1e5, device_error=0.1, error=0.2, ratio_error=0.3
)


def layer(window: tuple[int, int], groups: int = 1, size: int = 8, out: int = 8, kind: str = "conv") -> dict[str, Any]:
    shape = {"kind": kind, "inputs": 16, "outputs": 16, "groups": groups, "window": list(window)}
    shape |= {"in_size": [size, size], "out_size": [out, out]}
    return {"shape": shape, "cost": {"macs": 1000, "parameters": 50}, "calls": 1}


@pytest.mark.parametrize(
    ("found", "kind"),
    [
        (layer((3, 3)), "square"),
        (layer((3, 3), out=6), "square"),  # no padding
        (layer((3, 3), out=4), "window"),  # stride 2
        (layer((3, 3), groups=2), "window"),
        (layer((5, 5)), "window"),
        (layer((3, 1)), "window"),
        (layer((1, 1)), "pointwise"),
        (layer((3, 3), groups=16), "depthwise"),
        (layer((1, 1), size=1, out=1, kind="linear"), "connected"),
    ],
)
def test_a_layer_is_put_into_its_class(found: dict[str, Any], kind: str) -> None:
    (operator,) = operators_of({"layers": [found]})
    assert operator.kind == kind
    values = 16 * found["shape"]["in_size"][0] ** 2 + 16 * found["shape"]["out_size"][0] ** 2
    assert operator.bytes == 4 * values + (2 if kind == "connected" else 4) * 50


def test_a_layer_that_never_runs_costs_nothing() -> None:
    idle = layer((3, 3))
    idle["cost"]["macs"] = 0
    assert operators_of({"layers": [idle]}) == ()


def test_a_layer_of_another_kind_is_refused() -> None:
    with pytest.raises(BenchError, match="an estimate knows convolutions and fully connected layers, not 'attention'"):
        operators_of({"layers": [layer((1, 1), kind="attention")]})


def test_the_slower_of_work_and_traffic_counts_and_a_constant_for_each_operator() -> None:
    busy = OperatorCost("square", 4_000_000, 1000)  # 2 ms of work at 2 MACs a cycle and 1 GHz
    hungry = OperatorCost("connected", 1000, 5_000_000)  # 5 ms of traffic at 1 GB/s
    assert estimate_ms(MODEL, [busy, hungry]) == pytest.approx(2 + 5 + 2 * 0.1)


def test_only_cores_with_a_device_to_judge_by_are_estimated() -> None:
    runtime, models = read_models()
    assert runtime == "ncnn"
    assert set(models) == {"cortex-a72", "cortex-a73"}
    assert set(read_cores()) & set(models) == {"cortex-a72"}


def test_the_errors_are_those_of_the_record() -> None:
    rows = [json.loads(line) for line in (RESULTS / "devices.jsonl").read_text().splitlines()]
    for core, model in read_models()[1].items():
        own = [row for row in rows if row["core"] == core and "ms" in row]
        assert len(own) == 16
        assert all(row["error"] == pytest.approx(abs(row["estimate_ms"] / row["ms"] - 1), abs=0.006) for row in own)
        assert model.error == pytest.approx(fmean(row["error"] for row in own), abs=1e-3)
        assert model.device_error == pytest.approx(fmean(row["device_error"] for row in own), abs=1e-3)
