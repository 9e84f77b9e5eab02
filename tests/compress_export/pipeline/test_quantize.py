"""Quantization-aware tuning within a run: where int8 lost accuracy, kept where it gains, and not done twice."""

import re
from dataclasses import asdict, replace
from types import SimpleNamespace

import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from bench.run_files import RunFile
from compress_export.console import Reporter
from compress_export.errors import InputError
from compress_export.pipeline.quantize import _Compared, asked_of, calibrated_otherwise, tuned
from compress_export.run_directory import open_run
from compress_export.settings import ExportSettings, SourceSettings, TuneSettings
from compressor.distributed import SINGLE_PROCESS
from compressor.outputs import CLASSIFICATION
from compressor.training.loop import TrainOptions, fit
from compressor.training.schedules import Step
from exporters.artifact import Quantization
from exporters.capture import capture
from exporters.quantization.post_training import PLAIN, quantize

SETTINGS = ExportSettings(quantize="int8", epochs=2, rate=0.003)
DIGITS = load_digits()
IMAGES, LABELS = torch.from_numpy(DIGITS.images).float()[:, None] / 8 - 1, torch.from_numpy(DIGITS.target)


@pytest.fixture(scope="module")
def splits():
    parts = [TensorDataset(IMAGES[a:b], LABELS[a:b]) for a, b in ((0, 1300), (1300, 1797))]
    return [DataLoader(part, 32, shuffle=number == 0, generator=torch.Generator()) for number, part in enumerate(parts)]


@pytest.fixture(scope="module")
def network(splits):
    """A small network of 84 % on digits, one of whose channels leaves the others none of the 256 values of int8."""
    torch.manual_seed(0)
    found = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16, padding=1), nn.ReLU(),
        nn.Conv2d(16, 32, 1), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip
    fit(found, *splits, (Step((), 6),), TrainOptions(rate=0.005))
    with torch.no_grad():
        found[0].weight[0] *= 1500
        found[0].bias[0] *= 1500
        found[2].weight[0] /= 1500
    return found


@pytest.fixture(scope="module")
def quantized(network):
    return quantize(capture(network, IMAGES[:1]), IMAGES[1300:1364].numpy(), PLAIN)


@pytest.fixture
def context(tmp_path, splits):
    with open_run(tmp_path / "run") as run:
        run.begin("source", SourceSettings("net", data="digits"))
        run.begin("tune", TuneSettings(epochs=1))
        run.begin("export", SETTINGS)
        data = SimpleNamespace(train=splits[0], validation=splits[1])
        facts = {"trainable": True, "seed": 0, "group": SINGLE_PROCESS, "objective": CLASSIFICATION}
        yield SimpleNamespace(run=run, data=data, reporter=Reporter(), **facts)


def test_what_int8_lost_is_regained_in_part(context, network, quantized):
    found = tuned(context, quantized, network, SETTINGS)
    rows = context.run.read_lines(RunFile.QUANTIZED_TUNING)
    assert [row["epoch"] for row in rows] == [0, 1, 2]
    assert rows[0]["top1"] < 60  # else there would be nothing to regain
    assert rows[2]["top1"] >= rows[0]["top1"] + 2
    said = re.fullmatch(
        r"tuned in int8 \(epochs: 2; on the validation split (\S+) to (\S+) %, and (\S+) to (\S+) nats from float32\)",
        found.notes[-1],
    )
    assert said is not None, found.notes
    assert said.groups()[:2] == (f"{rows[0]['top1']:.2f}", f"{rows[2]['top1']:.2f}")
    assert float(said[4]) < float(said[3])
    assert not context.run.has(RunFile.QUANTIZED_CHECKPOINT)
    written = (context.run / RunFile.QUANTIZED_WEIGHTS).stat().st_mtime_ns
    again = tuned(context, quantized, network, SETTINGS)  # another format later: nothing is trained twice
    assert (context.run / RunFile.QUANTIZED_WEIGHTS).stat().st_mtime_ns == written
    image = IMAGES[:1]
    assert torch.equal(found.program.module()(image), again.program.module()(image))
    assert calibrated_otherwise(context.run, SETTINGS) == set()
    assert context.run.has(RunFile.QUANTIZED_WEIGHTS)
    assert calibrated_otherwise(context.run, replace(SETTINGS, quantize="auto")) == set()
    assert not context.run.has(RunFile.QUANTIZED_WEIGHTS)


def test_the_images_of_the_fine_tuning_teach_in_int8_too(context, network, quantized):
    context.run.begin("tune", TuneSettings(epochs=1, unlabelled="nowhere"))
    context.network, context.data.changes = SimpleNamespace(input=(1, 8, 8), mean=(1,), std=(1,), resize=None), ()
    with pytest.raises(InputError, match=r"--set fine_tune.unlabelled=nowhere: there is no such folder"):
        tuned(context, quantized, network, SETTINGS)


def test_a_tuning_without_a_gain_is_not_kept(context, network, quantized):
    found = tuned(context, quantized, network, replace(SETTINGS, rate=100.0, epochs=1))
    assert found.notes[-1].startswith("tuned in int8 without a gain, which is not kept (epochs: 1; ")
    assert found.program is quantized.program


@pytest.mark.parametrize(
    ("changes", "settings"),
    [({"data": None}, SETTINGS), ({"trainable": False}, SETTINGS), ({}, replace(SETTINGS, epochs=0))],
)
def test_nothing_is_tuned_without_images_weights_or_epochs(context, network, quantized, changes, settings):
    changed = SimpleNamespace(**vars(context) | changes)
    assert tuned(changed, quantized, network, settings) is quantized


def test_nothing_is_tuned_where_the_network_was_not(context, network, quantized):
    context.run.begin("tune", TuneSettings(epochs=0))
    assert tuned(context, quantized, network, SETTINGS) is quantized


def test_what_changes_hardly_a_prediction_is_not_tuned(context, splits):
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    fit(plain, *splits, (Step((), 2),), TrainOptions(rate=0.005))
    found = tuned(context, quantize(capture(plain, IMAGES[:1]), IMAGES[1300:1364].numpy()), plain, SETTINGS)
    said = r"not tuned in int8, which loses nothing on the validation split and changes 0\.\d % of its predictions"
    assert re.fullmatch(said, found.notes[-1])
    assert not context.run.has(RunFile.QUANTIZED_TUNING)


@pytest.mark.parametrize("lost", [0.0, 0.2])
def test_accuracy_lost_beyond_chance_outweighs_outputs_that_are_nearer(context, network, quantized, monkeypatch, lost):
    """Of 500 images the tuned network has `lost` fewer right, by outputs nearer to those in float32."""
    right = [tuple(number >= 500 * part for number in range(500)) for part in (0.1, 0.1 + lost)]
    answers = iter([_Compared(90, 5, right[0], 0.1, 0.2), _Compared(90, 5, right[1], 0.1, 0.1)])
    monkeypatch.setattr("compress_export.pipeline.quantize._compared", lambda *_: next(answers))
    found = tuned(context, quantized, network, replace(SETTINGS, epochs=1))
    kept = "tuned in int8 (epochs: 1" if not lost else "tuned in int8 without a gain, which is not kept (epochs: 1"
    assert found.notes[-1].startswith(kept)


@pytest.mark.parametrize(
    ("changes", "otherwise"),
    [
        ({}, set()),
        ({"calibration": 64}, {"original.int8", "compressed.int8", "original.auto", "compressed.auto"}),
        ({"rate": 0.5}, {"compressed.int8", "compressed.auto"}),
        ({"epochs": 0}, {"compressed.int8", "compressed.auto"}),
        ({"signal_to_noise": 30.0}, {"original.auto", "compressed.auto"}),
    ],
)
def test_networks_are_calibrated_anew_where_their_own_settings_change(context, changes, otherwise):
    entries = {
        name: Quantization(512, 512, "the validation split", 20.0, (), asked=asked_of(name, SETTINGS))
        for name in ("original.int8", "compressed.int8", "original.auto", "compressed.auto")
    }
    context.run.write_json(RunFile.QUANTIZATION, {name: asdict(entry) for name, entry in entries.items()})
    assert calibrated_otherwise(context.run, replace(SETTINGS, **changes)) == otherwise
