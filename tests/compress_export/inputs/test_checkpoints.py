"""Users' checkpoints: what training scripts store comes into the network whole, or one sentence says why not."""

import re
from argparse import Namespace
from collections import OrderedDict

import numpy as np
import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from compress_export.errors import InputError
from compress_export.models.checkpoint_file import load_checkpoint, read_checkpoint


class Plain(nn.Module):
    """A trunk with BatchNorm, and a head of five classes."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
        self.head = nn.Linear(16, 5)


class Wrapping(nn.Module):
    """A network whose own names begin as wrappers' names do."""

    def __init__(self):
        super().__init__()
        self.module = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 5))


def trained(make):
    """A network's state dict with numbers that no fresh network has."""
    torch.manual_seed(7)
    own = make().state_dict()
    return OrderedDict((name, torch.rand_like(value.float()).to(value.dtype)) for name, value in own.items())


def under(prefix, state):
    return {f"{prefix}{name}": value for name, value in state.items()}


def inside(state, part, name):
    return {key.replace(part, f"{part}{name}.", 1): value for key, value in state.items()}


PLAIN = trained(Plain)
OTHER = {name: value + 1 for name, value in PLAIN.items()}
COUNTS = {name: torch.zeros(1) for name in ("total_ops", "features.0.total_ops", "features.0.total_params")}
OPTIMIZER = {"state": {0: {"exp_avg": torch.zeros(2)}}, "param_groups": [{"lr": 0.1}]}

FITTING = {
    "bare": (Plain, PLAIN, "", ()),
    "state_dict": (Plain, {"state_dict": PLAIN, "epoch": 3}, "", ()),
    "model": (Plain, {"model": PLAIN, "optimizer": OPTIMIZER}, "", ()),
    "model_state_dict": (Plain, {"model_state_dict": PLAIN, "optimizer_state_dict": OPTIMIZER, "loss": 0.1}, "", ()),
    "net": (Plain, {"net": PLAIN, "acc": 91.2, "epoch": 199}, "", ()),
    "under another name": (Plain, {"weights_of_tuesday": PLAIN, "epoch": 1}, "", ()),
    "nested": (Plain, {"model": {"state_dict": PLAIN}, "epoch": 1}, "", ()),
    "a script's arguments": (Plain, {"model": PLAIN, "args": Namespace(lr=0.1)}, "", ()),
    "numpy's numbers": (Plain, {"model": PLAIN, "best": np.float64(0.9), "epoch": np.int64(4)}, "", ()),
    "ema alone": (Plain, {"ema": PLAIN}, "", ()),
    "ema beside": (
        Plain, {"state_dict": PLAIN, "state_dict_ema": OTHER}, "",
        ("w.pt holds several state dicts, and state_dict is taken; for another pass .*w.pt#state_dict_ema",),
    ),
    "ema asked for": (
        Plain, {"state_dict": OTHER, "state_dict_ema": PLAIN}, "#state_dict_ema",
        ("state_dict_ema is taken; for another pass .*w.pt#state_dict$",),
    ),
    "nested, asked for": (Plain, {"a": {"student": PLAIN, "teacher": OTHER}}, "#a.student", ("a.student is taken",)),
    "DataParallel": (Plain, under("module.", PLAIN), "", ()),
    "torch.compile": (Plain, under("_orig_mod.", PLAIN), "", ()),
    "DataParallel, compiled": (Plain, under("module._orig_mod.", PLAIN), "", ()),
    "Lightning": (Plain, {"state_dict": under("model.", PLAIN), "pytorch-lightning_version": "2"}, "", ()),
    "Lightning, DataParallel": (Plain, under("net.module.", PLAIN), "", ()),
    "a trunk in DataParallel": (Plain, inside(PLAIN, "features.", "module"), "", ()),
    "a trunk compiled": (Plain, inside(PLAIN, "features.", "_orig_mod"), "", ()),
    "trunk and network": (Plain, under("module.", inside(PLAIN, "features.", "module")), "", ()),
    "its own part is called module": (Wrapping, trained(Wrapping), "", ()),
    "the same in DataParallel": (Wrapping, under("module.", trained(Wrapping)), "", ()),
    "averaged": (
        Plain, {**under("module.", PLAIN), "n_averaged": torch.tensor(3)}, "",
        (r"1 counters that are no weights are left out \(n_averaged\)",),
    ),
    "profiled": (Plain, {**PLAIN, **COUNTS}, "", (r"3 counters .* are left out \(total_ops, total_params\)",)),
    "before batches were counted": (Plain, {k: v for k, v in PLAIN.items() if "batches" not in k}, "", ()),
    "half precision": (Plain, {k: v.half() if v.is_floating_point() else v for k, v in PLAIN.items()}, "", ()),
}  # fmt: skip


@pytest.mark.parametrize(("make", "content", "asked", "notes"), FITTING.values(), ids=FITTING)
def test_a_checkpoint_comes_into_the_network_whole(tmp_path, make, content, asked, notes):
    torch.save(content, tmp_path / "w.pt")
    network, text = make(), f"{tmp_path / 'w.pt'}{asked}"
    said = load_checkpoint(network, read_checkpoint(text), f"--weights {text}")
    for name, value in trained(make).items():
        if "batches" not in name:
            torch.testing.assert_close(network.state_dict()[name], value, rtol=1e-3, atol=0, msg=name)
    assert len(said) == len(notes)
    for sentence, wanted in zip(said, notes, strict=True):
        assert re.search(wanted, sentence)


def test_torchs_own_average_of_models_is_read(tmp_path):
    torch.save(AveragedModel(Plain()).state_dict(), tmp_path / "w.pt")
    assert load_checkpoint(Plain(), read_checkpoint(str(tmp_path / "w.pt")), "w.pt")[0].endswith("(n_averaged)")


TEN = {**PLAIN, "head.weight": torch.zeros(10, 16), "head.bias": torch.zeros(10)}
REFUSED = {
    "ten classes": (Plain, TEN, "", "has 10 classes and the network 5: build it with 10 outputs and pass --data of 10"),
    "ten classes, wrapped": (Plain, under("module.", TEN), "", "has 10 classes and the network 5"),
    "another trunk": (
        Plain, {**PLAIN, "features.0.weight": torch.zeros(4, 3, 5, 5)}, "",
        "is of another network: features.0.weight is 4x3x5x5 there and 4x3x3x3 here",
    ),
    "another network": (Wrapping, PLAIN, "", "is of another network: it has no module.0.weight"),
    "two that nobody tells apart": (
        Plain, {"student": PLAIN, "teacher": OTHER}, "",
        r"holds several state dicts \(student, teacher\); name one: --weights .*#student",
    ),
    "a name that is not there": (
        Plain, {"model": PLAIN, "model_ema": OTHER}, "#modle_ema",
        "has no state dict 'modle_ema': did you mean model_ema",
    ),
    "an optimizer alone": (Plain, {"optimizer": OPTIMIZER}, "", "holds dict, not a state_dict of named tensors"),
}  # fmt: skip


@pytest.mark.parametrize(("make", "content", "asked", "message"), REFUSED.values(), ids=REFUSED)
def test_a_checkpoint_that_does_not_fit_is_one_sentence(tmp_path, make, content, asked, message):
    torch.save(content, tmp_path / "w.pt")
    text = f"{tmp_path / 'w.pt'}{asked}"
    with pytest.raises(InputError, match=message):
        load_checkpoint(make(), read_checkpoint(text), f"--weights {text}")


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")  # users have such files all the same
def test_a_torchscript_archive_is_called_one(tmp_path):
    torch.jit.script(nn.Linear(2, 2)).save(tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"is a TorchScript archive, .*torch.jit.load\('w.pt'\).state_dict\(\)"):
        read_checkpoint(str(tmp_path / "w.pt"))
