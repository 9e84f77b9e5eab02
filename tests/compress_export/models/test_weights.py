import pickle
import re

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from compress_export.errors import InputError
from compress_export.models.checkpoint_file import load_into, outputs_of, published_names, read_checkpoint


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5))


def read_weights(path):
    return read_checkpoint(str(path)).weights


def test_safetensors_are_read(tmp_path):
    state = network().state_dict()
    save_file(state, tmp_path / "w.safetensors")
    assert torch.equal(read_weights(tmp_path / "w.safetensors")["2.bias"], state["2.bias"])


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match=r"w\.pt: there is no such file"):
        read_weights(tmp_path / "w.pt")


def test_broken_safetensors_are_refused(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(b"not tensors at all")
    with pytest.raises(InputError, match="is not a safetensors file"):
        read_weights(tmp_path / "w.safetensors")


class Evil:
    def __reduce__(self):
        return (print, ("this code ran",))


@pytest.mark.parametrize("content", [Evil(), {"a": Evil()}], ids=["object", "inside a dict"])
def test_code_in_a_pickle_is_never_run(tmp_path, content, capsys):
    torch.save(content, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"read as weights alone \(it would call \S*print\); a pickle with code"):
        read_weights(tmp_path / "w.pt")
    assert capsys.readouterr().out == ""


def test_a_file_of_something_else_is_called_that(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"\x00\x13rubbish" * 100)
    with pytest.raises(InputError, match=r"cannot be read as weights alone \(it is no torch file\)"):
        read_weights(tmp_path / "w.pt")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")  # torch's word on a file that is refused just then
def test_a_plain_pickle_is_refused(tmp_path):
    (tmp_path / "w.pt").write_bytes(pickle.dumps({"a": [1, 2, 3]}))
    with pytest.raises(InputError, match=r"weights alone|not a state_dict"):
        read_weights(tmp_path / "w.pt")


def test_numbers_are_no_state_dict(tmp_path):
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(InputError, match="holds dict, not a state_dict of named tensors"):
        read_weights(tmp_path / "w.pt")


def test_a_truncated_file_is_refused(tmp_path):
    torch.save(network().state_dict(), tmp_path / "w.pt")
    (tmp_path / "w.pt").write_bytes((tmp_path / "w.pt").read_bytes()[:300])
    with pytest.raises(InputError, match=r"cannot be read as weights alone \(it is cut short, or holds more than"):
        read_weights(tmp_path / "w.pt")


def test_the_first_mismatch_is_named_with_both_shapes():
    state = network().state_dict()
    with pytest.raises(InputError, match=r"0\.weight is 4x3x5x5 there and 4x3x3x3 here"):
        load_into(network(), {**state, "0.weight": torch.zeros(4, 3, 5, 5)}, "file")
    with pytest.raises(InputError, match=r"it has no 2\.bias \(5\)"):
        load_into(network(), {name: value for name, value in state.items() if name != "2.bias"}, "file")
    with pytest.raises(InputError, match=r"its 3\.scale \(2\) has no place here"):
        load_into(network(), {**state, "3.scale": torch.zeros(2)}, "file")


def test_the_number_of_outputs_does_not_depend_on_the_files_order(tmp_path):
    state = models.resnet18(num_classes=7).state_dict()
    save_file(state, tmp_path / "w.safetensors")
    read = read_weights(tmp_path / "w.safetensors")
    assert list(read)[-1] != "fc.bias"
    assert outputs_of(read, models.resnet18()) == 7
    assert outputs_of({"other": torch.zeros(3)}, models.resnet18()) is None


def test_tied_weights_are_stored_once_and_loaded_everywhere():
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    load_into(tied, {"0.weight": torch.ones(4, 4), "0.bias": torch.zeros(4), "1.bias": torch.zeros(4)}, "file")
    assert tied[1].weight.eq(1).all()


def test_published_files_with_other_names_are_understood():
    densenet = models.densenet121()
    old = {
        re.sub(r"(denselayer\d+\.)(norm|conv)([12])", r"\1\2.\3", name): v for name, v in densenet.state_dict().items()
    }
    assert set(old) != set(densenet.state_dict())
    assert set(published_names(old, densenet)) == set(densenet.state_dict())
    whole = models.googlenet(init_weights=False).state_dict()
    assert any(name.startswith("aux1.") for name in whole)
    bare = models.googlenet(init_weights=False, aux_logits=False)
    assert set(published_names(whole, bare)) == set(bare.state_dict())
