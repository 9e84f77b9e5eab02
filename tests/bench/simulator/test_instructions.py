"""Predicted instructions: units of work that can be counted by hand, and operators and files that were counted."""

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from bench.measurement import BenchError
from bench.simulator.instructions import InstructionModel, read_model, traffic, work

ROOT = Path(__file__).resolve().parents[3]
ROWS = [json.loads(line) for line in (ROOT / "results" / "instructions.jsonl").read_text().splitlines()]
WHOLE = [row for row in ROWS if not row["network"].startswith("chain-")]
FLOAT, HALF, INT8 = map(read_model, ("float32", "float16", "int8"))


@dataclass(frozen=True)
class Shape:
    inputs: int
    outputs: int
    in_size: tuple[int, int]
    out_size: tuple[int, int]
    window: tuple[int, int] = (1, 1)
    groups: int = 1


def square(inputs: int, outputs: int, size: int, window: int = 1, groups: int = 1, out: int | None = None) -> Shape:
    return Shape(inputs, outputs, (size, size), (out or size, out or size), (window, window), groups)


@pytest.mark.parametrize(
    ("shape", "kernel", "units"),
    [
        # 1024 pixels by 6 are 171 rows, 16 outputs by 8 two columns; 16 inputs are two turns of 8, at 9 positions
        (square(16, 16, 32, 3), "window", {"tile": 342, "turn": 342 * 9 * 2, "position": 342 * 9, "row": 171}),
        (square(19, 16, 32, 3), "window", {"turn": 342 * 9 * 2, "loose": 0, "two": 342 * 9, "one": 342 * 9}),
        (square(64, 24, 14), "product", {"tile": 33 * 3, "turn": 33 * 3 * 8, "position": 0, "call": 1}),
        (square(64, 20, 14), "narrow_product", {"tile": 49 * 10, "turn": 49 * 10 * 16}),
        (square(64, 390, 14), "product", {"tile": 33 * 49}),  # two columns of 392 are wasted
        (square(64, 20, 14, 3), "window", {"tile": 33 * 3, "uneven": 33}),
        (square(64, 4, 14, 3), "narrow_window", {"tile": 49 * 2}),
        (square(64, 24, 2), "product_of_few", {"tile": 3}),
        (square(100, 16, 1), "product_of_one", {"tile": 2, "turn": 2 * 12, "loose": 2}),
        (square(64, 24, 14, out=7), "window", {"position": 9 * 3}),  # a stride reads through pointers
        (square(64, 24, 14, groups=2), "window", {"tile": 2 * 33 * 2, "turn": 2 * 33 * 2 * 4}),
        (square(24, 24, 14, 3, groups=24), "depthwise_9", {"pixel": 196, "block": 196 * 6, "rest": 0}),
        (square(24, 24, 14, 7, groups=24), "depthwise_passes", {"block_position": 196 * 6 * 49}),
    ],
)
def test_work_of_kernels_is_counted_in_tiles(shape: Shape, kernel: str, units: dict[str, float]) -> None:
    found, amounts = work(shape, FLOAT.tiles)
    assert found == kernel
    assert {name: amounts[name] for name in units} == units


@pytest.mark.parametrize(
    ("shape", "of_float", "of_int8"),
    [
        (square(16, 16, 32, 3), 879_115, 274_778),  # counted in ResNet-20
        (square(3, 16, 32, 3), 291_217, 145_754),
        (square(32, 64, 16, 3, out=8), 418_204, 111_578),
        (square(64, 24, 32, 1, out=16), None, None),
    ],
)
def test_a_layer_takes_what_was_counted(shape: Shape, of_float: int | None, of_int8: int | None) -> None:
    for model, counted in ((FLOAT, of_float), (INT8, of_int8)):
        if counted is not None:
            assert model.layer(shape) == pytest.approx(counted, rel=0.03)
        assert model.cost(shape) == model.layer(shape) + model.line * model.missed_lines(shape)


@pytest.mark.parametrize("model", [FLOAT, HALF, INT8], ids=lambda model: model.dtype)
@pytest.mark.parametrize("outputs", [4, 20, 64])
@pytest.mark.parametrize("window", [1, 3])
@pytest.mark.parametrize("out", [1, 2, 14])
def test_every_layer_takes_some(model: InstructionModel, outputs: int, window: int, out: int) -> None:
    """Also one of a kind that the fit has not seen, such as a window over one pixel: less than one of more pixels."""
    found = [model.layer(square(64, outputs, side, window, out=side)) for side in (out, 28)]
    assert 0 < found[0] < found[1]


def test_a_rank_that_fills_no_column_costs_more_than_the_next_that_does() -> None:
    assert FLOAT.layer(square(64, 20, 14)) > FLOAT.layer(square(64, 24, 14))
    assert INT8.layer(square(64, 24, 14)) == pytest.approx(INT8.layer(square(64, 32, 14)), rel=0.05)


def test_a_wide_depthwise_window_gains_little_from_int8_and_misses_more() -> None:
    """Between two 1x1 convolutions it makes CP slower than the dense layer in int8, though not in float32."""
    dense, wide = square(64, 64, 56, 3), square(128, 128, 56, 3, groups=128)
    assert FLOAT.layer(dense) / INT8.layer(dense) > 3.5
    assert FLOAT.layer(wide) / INT8.layer(wide) < 1.5
    factors = (square(64, 128, 56), wide, square(128, 64, 56))
    assert sum(map(FLOAT.layer, factors)) < FLOAT.layer(dense)
    assert sum(map(FLOAT.missed_lines, factors)) > 3 * FLOAT.missed_lines(dense)


def test_activations_count_as_far_as_they_fill_the_cache() -> None:
    small, large = (traffic(square(16, 16, size), 4) for size in (16, 128))
    assert small["weights"] == large["weights"] == 16 * 16 * 4 / 64
    assert small["activations"] == pytest.approx(512 * 32_768 / 524_288)
    assert large["activations"] == 2 * 16 * 128 * 128 * 4 / 64


@pytest.mark.parametrize("row", WHOLE, ids=lambda row: f"{row['network']} {row['dtype']}")
def test_layers_of_networks_that_the_fit_has_not_seen(row: dict) -> None:  # type: ignore[type-arg]  # a line of JSON
    model, predicted = read_model(row["dtype"]), 0.0
    for layer in row["layers"]:
        if layer["kind"] == "linear":
            size = (layer["positions"], 1)
            shape = Shape(layer["inputs"], layer["outputs"], size, size)
        else:
            sizes = (tuple(layer[name]) for name in ("in", "out", "window"))
            shape = Shape(layer["inputs"], layer["outputs"], *sizes, layer["groups"])
        predicted += model.layer(shape)
    counted = sum(count for name, count in row["operators"] if name.startswith(("Convolution", "Fully Connected")))
    assert predicted == pytest.approx(counted, rel=0.03)


def test_errors_are_published_with_the_coefficients() -> None:
    lines = [json.loads(line) for line in (ROOT / "results/instructions_predicted.jsonl").read_text().splitlines()]
    for model in (FLOAT, read_model("float16"), INT8):
        own = [line for line in lines if line["dtype"] == model.dtype]
        errors = {line["network"]: abs(line["predicted"] / line["instructions"] - 1) for line in own}
        assert model.worst == pytest.approx(max(errors.values()), abs=1e-4)
        assert model.error == pytest.approx(sum(errors.values()) / len(errors), abs=1e-4)
        assert model.runtime.startswith("ExecuTorch ")
        # in int8 its products of an image with a number for each channel cost more than those of equal shapes
        worst = errors.pop("mobilenet_v3_small")
        assert max(errors.values()) <= 0.03
        assert worst <= 0.06


def test_a_number_type_that_was_not_fitted_is_refused() -> None:
    with pytest.raises(BenchError, match=r"of int4 on cortex-a76 are not predicted; there are float32 on cortex-a76"):
        read_model("int4")
    with pytest.raises(BenchError, match="of int8 on cortex-a53 are not predicted"):
        read_model("int8", "cortex-a53")


def test_an_unknown_operator_is_the_dearest_and_never_free() -> None:
    assert FLOAT.operator("other", 1000) == max(FLOAT.operator(kind, 1000) for kind in FLOAT.operators)
    assert FLOAT.operator("no such kind", 1000) == FLOAT.operator("other", 1000)
