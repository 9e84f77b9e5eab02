"""The stages on a CUDA GPU, beside the same on the CPU. Skipped where there is none."""

import copy
import json
import math
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from torch import nn

from compress_export.cli.main import cli
from compress_export.data.datasets import device_of, find_data, load_data
from compress_export.data.images import CIFAR10_CLASSES, View
from compressor.distributed import SINGLE_PROCESS, AccelerateGroup, SingleProcess
from compressor.plan import LayerPlan, Plan
from compressor.training.fine_tune import fine_tune
from compressor.training.loop import TrainOptions, Watch, accuracy, fit
from compressor.training.options import Distillation
from compressor.training.schedules import Step
from compressor.weight_sharing.regularizers import Regularization

GPU = torch.device("cuda")
pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU, and this machine has none")


@pytest.fixture(autouse=True)
def fresh_accelerator():
    """One process has one accelerator, whose precision stays; each test has its own."""
    AcceleratorState._reset_state(reset_partial_state=True)


VIEW = View((3, 24, 24), (0.5, 0.4, 0.3), (0.25, 0.2, 0.1))


@pytest.fixture(scope="module")
def cifar10(tmp_path_factory) -> Path:
    """Sheets of ten classes that a small network tells apart: 64 training and 20 test images of each, by colour."""
    root = tmp_path_factory.mktemp("data")
    (root / "cifar10").mkdir()
    random = torch.Generator().manual_seed(0)
    for place, name in enumerate(CIFAR10_CLASSES):
        for part, rows in (("train", 8), ("test", 2)):
            colour = torch.tensor([place % 3, place // 3 % 3, place // 9 % 3]) * 90 + 30
            noise = torch.randint(-25, 26, (32 * rows, 32 * 8, 3), generator=random)
            pixels = (colour + noise).clamp(0, 255).to(torch.uint8)
            Image.fromarray(pixels.numpy()).save(root / "cifar10" / f"{part}_{place}_{name}.png")
    return root


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10),
    )  # fmt: skip


def data_on(device: torch.device, root: Path):
    view = View(VIEW.input, VIEW.mean, VIEW.std, device)
    return load_data(find_data("cifar10", root), view, 32, 10)


def test_images_held_on_the_gpu_are_those_of_the_cpu(cifar10):
    cpu, gpu = (data_on(device, cifar10) for device in (torch.device("cpu"), GPU))
    assert device_of(gpu.train.dataset).type == "cuda"
    for part in ("train", "validation", "test", "calibration"):
        found = []
        for loader in (getattr(cpu, part), getattr(gpu, part)):
            torch.manual_seed(1)
            if loader.generator is not None:
                loader.generator.manual_seed(2)
            found.append(list(loader))
        for (here, labels), (there, same) in zip(*found, strict=True):
            assert there.device.type == "cuda"
            assert torch.equal(labels, same)
            torch.testing.assert_close(here, there.cpu(), rtol=1e-4, atol=1e-4)
    assert gpu.images(8).device.type == "cpu"


@pytest.mark.parametrize("group", [lambda: SingleProcess(GPU), AccelerateGroup], ids=["alone", "accelerated"])
def test_training_there_follows_the_cpus_course(cifar10, group):
    rows = []
    for own, device in ((SINGLE_PROCESS, torch.device("cpu")), (group(), GPU)):
        data = data_on(device, cifar10)
        rows.append(fit(network(), data.train, data.validation, (Step((), 2),), TrainOptions(rate=3e-3), group=own))
    for here, there in zip(*rows, strict=True):
        assert here.loss is None or there.loss == pytest.approx(here.loss, rel=0.02)
        assert there.top1 == pytest.approx(here.top1, abs=3)
    assert rows[1][-1].top1 > rows[1][0].top1 + 20


@pytest.mark.parametrize("half", ["no", "bf16"])
def test_a_cut_network_is_tuned_there_by_a_teacher(cifar10, half):
    group, data = AccelerateGroup(half), data_on(GPU, cifar10)
    original = network()
    fit(original, data.train, data.validation, (Step((), 4),), TrainOptions(rate=3e-3), group=SingleProcess(GPU))
    plan = Plan((LayerPlan("3", (32, 16, 3, 3), "cp", (12,), "by hand"),), "by hand", "by hand")
    options = TrainOptions(rate=1e-3, distillation=Distillation(), regularizer=Regularization("quartic", 0.01))
    before = accuracy(original, data.test, GPU).top1
    model, rows = fine_tune(
        copy.deepcopy(original), plan, data.train, data.validation, "one-shot", 2, options, group=group
    )
    assert rows[-1].top1 >= rows[0].top1
    assert accuracy(model.module, data.test, GPU).top1 > before - 10
    assert all(value.device.type == "cpu" for value in model.module.state_dict().values())


def test_an_interrupted_fit_goes_on_there(cifar10, tmp_path):
    class Killed(Exception):
        pass

    def killed(row) -> None:
        if row.epoch == 1:
            raise Killed

    data, options = data_on(GPU, cifar10), TrainOptions(rate=3e-3)
    whole, parts = network(), network()
    rows = fit(whole, data.train, data.validation, (Step((), 3),), options, group=SingleProcess(GPU))
    with pytest.raises(Killed):
        fit(parts, data.train, data.validation, (Step((), 3),), options, checkpoint=tmp_path / "fit.pt",
            watch=Watch(killed), group=SingleProcess(GPU))  # fmt: skip
    batches: list[int] = []
    again = fit(network(), data.train, data.validation, (Step((), 3),), options, checkpoint=tmp_path / "fit.pt",
                watch=Watch(batch=lambda done, _total: batches.append(done)), group=SingleProcess(GPU))  # fmt: skip
    assert len(batches) == 2 * len(data.train)  # the first epoch is not made again
    assert len(again) == len(rows)
    assert again[-1].loss == pytest.approx(rows[-1].loss, rel=0.02)


def test_unlabelled_pictures_join_images_that_lie_there(cifar10, tmp_path):
    """The verbs plan, compress and tune on a network of a module file."""
    module = tmp_path / "small.py"
    module.write_text(
        "from torch import nn\n\n\ndef small():\n    return nn.Sequential(\n"
        "        nn.Conv2d(3, 16, 3, 2, 1), nn.ReLU(), nn.Conv2d(16, 32, 3, 2, 1), nn.ReLU(),\n"
        "        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(128, 10))\n"
    )
    (tmp_path / "more").mkdir()
    for place in range(40):
        Image.effect_noise((40, 40), 60).convert("RGB").save(tmp_path / "more" / f"{place}.png")
    at = ["--runs", str(tmp_path / "runs"), "--name", "small"]
    words = ["plan", f"{module}:small", "--input", "3x24x24", "--data", "cifar10", "--data-root", str(cifar10),
             "--train", "2", "--max-macs", "0.5x", "--set", "plan.costs=counted", *at]  # fmt: skip
    run = tmp_path / "runs" / "small"
    for command in (words, ["compress", str(run)],
                    ["tune", str(run), "--epochs", "1", "--set", "fine_tune.distill=true",
                     "--set", f"fine_tune.unlabelled={tmp_path / 'more'}"]):  # fmt: skip
        cli.main(command, standalone_mode=False)
    epochs = [json.loads(line) for line in (run / "tuning.jsonl").read_text().splitlines()]
    assert epochs[-1]["epoch"] > 0
    assert math.isfinite(epochs[-1]["loss"])
