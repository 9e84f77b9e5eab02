"""Times of variants: measured by real exports in real runtimes, kept, taken up again, and interpolated."""

import itertools
import os
import re
import signal
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from importlib.metadata import version
from math import prod
from pathlib import Path

import msgspec
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from bench.file_contents import read_ptl
from bench.host.layer_latency import LAYER_DEVICES, Timing
from bench.measurement import BenchError
from compress_export.errors import InputError
from compress_export.latency import cache
from compress_export.latency.layer_files import Geometry, build, example, geometry_of, writing
from compress_export.latency.measured_costs import MeasuredCosts, interpolate
from compressor.decompositions.methods import METHODS
from compressor.layers import find_layer
from compressor.plan import LayerVariant
from compressor.planning.cost_model import price, variant_cost
from compressor.survey import survey
from exporters.capture import capture
from exporters.formats import FORMATS

IMAGE = torch.zeros(1, 3, 12, 12)
SPATIAL = [LayerVariant("2", "spatial", (rank,)) for rank in (1, 3, 6)]


def network():
    """A stem, one convolution that runs twice, another like it, a convolution that never runs, a linear layer."""
    twice = nn.Conv2d(8, 8, 3, padding=1)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), twice, nn.ReLU(), twice, nn.Conv2d(8, 8, 3, padding=1), nn.Flatten(),
        nn.Linear(8 * 144, 4),
    )  # fmt: skip
    net[6].idle = nn.Conv2d(1, 1, 1)
    return net.eval()


NETWORK = network()
SURVEY = survey(NETWORK, IMAGE)
KEPT = [LayerVariant(layer.name) for layer in SURVEY.layers]


def model(**asked):
    return MeasuredCosts(NETWORK, SURVEY, IMAGE, **{"format": "ptl"} | asked)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A cache folder with the times of the network, its layers and three ranks, and what was heard on the way."""
    folder, heard = tmp_path_factory.mktemp("cache"), []
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(cache.FOLDER_VARIABLE, str(folder))
        with model() as costs:
            costs.measure([*KEPT, *SPATIAL], lambda *words: heard.append(words))
            costs.network()
    return folder, heard


@pytest.fixture
def warm(measured, monkeypatch):
    """A model that finds everything in the cache."""
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(measured[0]))
    return model()


def test_a_geometry_is_measured_once_and_its_calls_multiply(measured, warm):
    _, heard = measured
    assert [words[:2] for words in heard] == [(0, 6), (1, 6), (5, 6)]
    assert heard[1][2] == "conv 8->8 3x3 at 12x12"
    assert warm.cost(LayerVariant("2")) == 2 * warm.cost(LayerVariant("5")) > 0
    assert warm.cost(LayerVariant("6.idle")) == 0
    assert warm.network() > 0


def test_what_is_kept_starts_no_process(warm):
    warm.measure([*KEPT, *SPATIAL], lambda *words: pytest.fail(f"measures {words}"))
    warm.network()
    assert warm._started is None


def test_the_source_names_device_runtime_and_threads(warm):
    assert re.fullmatch(r"measured on this machine \(.+, 1 thread\) in PyTorch lite interpreter \d.*", warm.source)
    assert (warm.unit, warm.multiple) == ("ms", 16)


def test_between_measured_ranks_the_time_lies_on_a_line_in_work(warm):
    ends = [warm.cost(variant) for variant in SPATIAL[1:]]
    between = warm.cost(LayerVariant("2", "spatial", (4,)))
    assert min(ends) <= between <= max(ends)
    work = [price(variant_cost(SURVEY, LayerVariant("2", "spatial", (rank,)))) for rank in (3, 4, 6)]
    share = (work[1] - work[0]) / (work[2] - work[0])
    assert between == pytest.approx(ends[0] + share * (ends[1] - ends[0]))


def test_a_method_of_which_nothing_was_measured_is_an_error(warm):
    with pytest.raises(BenchError, match=r"no time of 2 as tucker was measured; measure that layer and method at a"):
        warm.cost(LayerVariant("2", "tucker", (2, 2)))


@pytest.mark.slow
def test_a_device_that_vanishes_keeps_what_it_measured_and_the_next_run_goes_on(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path))
    variants = [LayerVariant("0"), LayerVariant("7")]
    with model() as costs:

        def pull_the_plug(done, _total, _now):
            if done:
                os.kill(costs._started[1].worker.process.pid, signal.SIGKILL)

        text = r"killed by SIGKILL .*; 1 of 2 times are measured and kept, the same command goes on from there$"
        with pytest.raises(BenchError, match=text):
            costs.measure(variants, pull_the_plug)
    heard = []
    with model() as costs:
        costs.measure(variants, lambda *words: heard.append(words))
        assert heard == [(0, 1, "linear 1152->4")]
        assert all(costs.cost(variant) > 0 for variant in variants)


def test_times_of_another_runtime_are_not_used_and_that_is_said_once(measured, tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path))
    (file,) = (measured[0] / "layer-times").glob("*.jsonl")
    (tmp_path / "layer-times").mkdir()
    here = version("torch")
    old = file.read_text().replace(f'"version": "{here}"', '"version": "1.0"', 1)
    (tmp_path / "layer-times" / "old.jsonl").write_text(old)
    (tmp_path / "layer-times" / "older.jsonl").write_text('{"schema": 0}\n')
    said = []
    costs = model(say=said.append)
    assert said == [
        f"Times kept from PyTorch lite interpreter 1.0 are not used, {here} runs here; "
        "`compress-export costs --clear` removes them",
        "Times kept by another version of compress-export are not used; `compress-export costs --clear` removes them",
    ]
    with pytest.raises(BenchError, match="no time of 0 as keep was measured"):
        costs.cost(LayerVariant("0"))


def test_a_device_that_is_none_is_refused():
    with pytest.raises(InputError, match=r"there is no device 'toaster' that times layers: did you mean host\?"):
        model(device="toaster")


@pytest.mark.slow
@pytest.mark.parametrize("format", ["pte", "onnx"])
def test_other_runtimes(format, tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path))
    with model(format=format) as costs:
        costs.measure([KEPT[0], SPATIAL[1]], lambda *_words: None)
        assert all(costs.cost(variant) > 0 for variant in (KEPT[0], SPATIAL[1]))
        assert costs.network() > 0


@pytest.mark.slow
@pytest.mark.parametrize("format", ["pte", "onnx"])
def test_a_file_to_be_timed_is_byte_for_byte_what_the_exporter_writes(format, tmp_path):
    geometries = [
        Geometry("conv", 8, 16, True, (12, 12), window=(3, 3), padding="same", padding_mode="reflect"),
        Geometry("linear", 32, 10, True, (1, 1)),
    ]
    with writing(format, tmp_path, 1) as files:
        written = [files.variant(geometry, "keep", ()).result() for geometry in geometries]
    for geometry, file in zip(geometries, written, strict=True):
        path = tmp_path / f"own.{format}"
        FORMATS[format].writer.export(capture(build(geometry, "keep", ()), example(geometry)), path)
        assert file.read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("layer", "image"),
    [
        (nn.Conv2d(4, 6, (3, 1), stride=(2, 1), padding="valid", groups=2), (4, 9, 7)),
        (nn.Conv2d(4, 4, 3, padding=2, dilation=2, padding_mode="circular", bias=False), (4, 9, 7)),
        (nn.Linear(5, 3), (5,)),
        (nn.Linear(5, 3), (7, 5)),
    ],
)
def test_a_geometry_holds_all_that_a_layer_is(layer, image):
    net = nn.Sequential(layer)
    seen = survey(net, torch.zeros(1, *image)).layers[0]
    geometry = geometry_of(find_layer(net, "0"), seen.shape)
    assert msgspec.json.decode(geometry.text, type=Geometry) == geometry
    again = survey(build(geometry, "keep", ()), example(geometry)).layers[0]
    assert (again.shape, again.weight, again.cost) == (seen.shape, seen.weight, seen.cost)
    method = next(name for name, method in METHODS.items() if method.supports(seen.shape) is None)
    rank = tuple(1 for _ in METHODS[method].full_rank(seen.shape))
    factors = build(geometry, method, rank)
    assert factors(example(geometry)).shape == build(geometry, "keep", ())(example(geometry)).shape
    assert all(weight.abs().max() > 0 for weight in factors.parameters())


@dataclass(frozen=True)
class Weighing:
    """A stopwatch by which a file takes its edges and a microsecond for each weight (the network, which is not swept,
    another fraction of that), at a pace of its own each time."""

    edges: float
    network: float
    paces: Iterator[float] = field(default_factory=lambda: itertools.cycle((1.0, 3.0)))

    def time(self, files, effort):
        del effort
        pace = next(self.paces)
        taken = [self.edges + 1e-3 * sum(prod(w.shape) for w in read_ptl.read(each.file).weights) for each in files]
        return tuple(
            Timing(pace * ms * (1.0 if each.sweep else self.network), 1) for each, ms in zip(files, taken, strict=True)
        )


@pytest.mark.parametrize(("network", "scale"), [(1.0, 1.0), (0.5, 0.5)])
def test_costs_are_parts_of_the_network_without_the_edges_of_files(network, scale, tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path))
    device = replace(LAYER_DEVICES["host"], stopwatch=lambda _format, _threads: nullcontext(Weighing(1.0, network)))
    monkeypatch.setitem(LAYER_DEVICES, "host", device)
    with model() as costs:
        costs.measure([*KEPT, *SPATIAL], lambda *_: None)
        whole, kept = costs.network(), [costs.cost(variant) for variant in KEPT]
        dense, calls = 8 * 8 * 9 + 8, 2
        parameters = [8 * 27 + 8, calls * dense, dense, 4 * 8 * 144 + 4, 0]
        one = kept[1] / parameters[1]
        assert kept == pytest.approx([one * own for own in parameters])
        assert [costs.cost(variant) for variant in SPATIAL] == pytest.approx(
            [one * calls * (48 * rank + 8) for (rank,) in (variant.rank for variant in SPATIAL)]
        )
        counted = sum(parameters) - dense  # a layer that runs twice has its weights once
        if scale == 1:
            assert whole == pytest.approx(one * (counted + 1000))
        else:
            assert whole == pytest.approx(sum(kept))


POINTS = st.dictionaries(st.integers(1, 10**9), st.floats(0, 1e3), min_size=1, max_size=6)


@given(POINTS, st.integers(0, 10**10))
def test_interpolation_is_exact_at_points_and_never_negative(points, at):
    assert all(interpolate(points, place) == pytest.approx(value) for place, value in points.items())
    assert interpolate(points, at) >= 0


@given(POINTS, st.integers(0, 10**10), st.integers(0, 10**10))
def test_interpolation_of_rising_times_rises(points, one, other):
    rising = dict(zip(sorted(points), sorted(points.values()), strict=True))
    low, high = sorted((one, other))
    assert interpolate(rising, low) <= interpolate(rising, high) + 1e-6


def test_the_cache_skips_a_line_that_a_killed_run_left_half_written(tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path))
    conditions = cache.Conditions("host", "a CPU", "pte", "ExecuTorch", "1.5", 1)
    entries = [cache.Entry("g", "cp", (rank,), 1.5, 2.5, 9) for rank in (1, 2)]
    cache.add(conditions, entries[:1])
    (file,) = (tmp_path / "layer-times").iterdir()
    with file.open("a") as half:
        half.write('{"what": "g", "meth')
    cache.add(conditions, entries[1:])
    assert cache.load(conditions) == tuple(entries)


def test_the_command_lists_and_clears(call, tmp_path, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(tmp_path))
    conditions = cache.Conditions("host", "a CPU", "pte", "ExecuTorch", "1.5", 1)
    cache.add(conditions, (cache.Entry("g", "cp", (3,), 1.5, 2.5, 9, "2026-11-01T10:00:00+00:00"),))
    (tmp_path / "layer-times" / "older.jsonl").write_text('{"schema": 0}\n')
    file: Path = tmp_path / "layer-times" / conditions.file_name
    size = file.stat().st_size
    assert call(tmp_path, "costs")[:2] == (
        0,
        f"a CPU (host, 1 thread), ExecuTorch 1.5: 1 times, 2026-11-01, {size} bytes\n"
        "older.jsonl: 14 bytes, written by another version of compress-export, not used\n"
        f"Times lie in {tmp_path / 'layer-times'}; `compress-export costs --clear` removes them\n",
    )
    assert cache.foreign(conditions) == ("another version of compress-export",)
    assert call(tmp_path, "costs", "--clear")[1] == (
        f"Removed 1 times ({size + 14} bytes) from {tmp_path / 'layer-times'}\n"
    )
    assert not file.exists()
    assert cache.files() == ()


@pytest.mark.slow
def test_a_changed_network_is_timed_in_turns_with_the_whole(measured, monkeypatch):
    monkeypatch.setenv(cache.FOLDER_VARIABLE, str(measured[0]))
    torch.manual_seed(0)
    half = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    double = nn.Sequential(nn.Conv2d(3, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3), nn.ReLU())
    example = torch.randn(1, 3, 40, 40)
    with MeasuredCosts(half, survey(half, example), example, "ptl") as costs:
        share = costs.share(double)
        assert share > 3
        assert costs.share(double) == share
    with MeasuredCosts(half, survey(half, example), example, "ptl") as again:
        assert again.share(double) == share
        assert again._started is None
