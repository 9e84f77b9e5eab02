"""Factors put in place in networks of all makes, and weights written and read."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from compressor.decompositions.methods import Decompositions, decomposition
from compressor.layer_shape import PlanError
from compressor.layers import check_layer_names, replace_module
from compressor.plan import KEEP, LayerPlan, Plan
from compressor.surgery import (
    Footprint,
    WeightsError,
    apply,
    compress,
    load_weights,
    save_weights,
    skeleton,
)


class Bag(nn.Module):
    """A custom container: one convolution used twice under two names, another inside a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(6, 6, 3, padding=1)
        self.again = self.first
        self.inside = nn.ModuleDict({"deep": nn.Sequential(nn.Conv2d(6, 8, (1, 3)), nn.BatchNorm2d(8))})
        self.head = nn.Linear(8, 5)

    def forward(self, image: Tensor) -> Tensor:
        hidden = self.inside["deep"](self.again(self.first(image)).relu())
        head: Tensor = self.head(hidden.mean((2, 3)))
        return head


ROWS = (
    LayerPlan("first", (6, 6, 3, 3), "cp", (4,), "test"),
    LayerPlan("inside.deep.0", (8, 6, 1, 3), "cp", (3,), "test"),
    LayerPlan("head", (5, 8), KEEP, (), "kept: test"),
)
IMAGE = torch.randn(2, 6, 7, 7, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def bag() -> Bag:
    torch.manual_seed(0)
    return Bag().eval()


def test_compress_works_on_a_copy_and_replaces_a_module_everywhere(bag: Bag) -> None:
    before = bag(IMAGE)
    made = compress(bag, Plan(ROWS, "given", "test"))
    assert torch.equal(bag(IMAGE), before)
    assert made.module.first is made.module.again
    assert [type(layer) for layer in (made.module.first, *made.module.first.children())] == [nn.Conv2d] * 4
    assert [tuple(layer.kernel_size) for layer in made.module.inside["deep"][0].children()] == [(1, 1), (1, 3), (1, 1)]
    factors = 4 * (6 + 9 + 6) + 6 + 3 * (6 + 3 + 8) + 8
    assert made.after.parameters == factors + 16 + 45
    # BatchNorm's two running statistics of 8 floats and its counter of 8 bytes.
    assert made.before == Footprint(6 * 55 + 8 * 19 + 16 + 45, 4 * (6 * 55 + 8 * 19 + 16 + 45) + 72)


def test_full_rank_svd_leaves_the_answers(bag: Bag) -> None:
    row = LayerPlan("head", (5, 8), "svd", (5,), "test")
    made = compress(bag, Plan((row,), "given", "test"))
    torch.testing.assert_close(made.module(IMAGE), bag(IMAGE), rtol=1e-5, atol=1e-6)


def test_ready_decompositions_are_taken_and_new_ones_kept(bag: Bag) -> None:
    ready: Decompositions = {}
    known = decomposition(ready, bag, "first", "cp", 7)
    heard: list[tuple[int, int, str]] = []
    made = compress(bag, Plan(ROWS, "given", "test"), ready, lambda *step: heard.append(step))
    assert torch.equal(made.module.get_submodule("first.0").weight, known.factors((4,))[0].weight)
    assert set(ready) == {("first", "cp"), ("inside.deep.0", "cp")}
    assert [step[:2] for step in heard] == [(1, 2), (2, 2)]
    assert {name for _, _, name in heard} == {"first", "inside.deep.0"}


def test_the_module_can_be_trained(bag: Bag) -> None:
    apply(bag, ROWS)
    bag(IMAGE).sum().backward()
    assert all(parameter.grad is not None for parameter in bag.first.parameters())


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (LayerPlan("frist", (6, 6, 3, 3), "cp", (2,), ""), "no layer 'frist'; the nearest are first"),
        (LayerPlan("head", (6, 8), "svd", (2,), ""), "made for head of 6x8, this network has 5x8; make a plan for"),
        (LayerPlan("head", (5, 8), "svd", (6,), ""), "rank 6 does not fit head .5x8.: SVD ranks go up to 5; lower it"),
        (LayerPlan("head", (5, 8), "cp", (2,), ""), "cp does not fit head: a fully connected layer has no window"),
        (LayerPlan("inside", (5, 8), "cp", (2,), ""), "inside is a ModuleDict, neither a convolution nor"),
        (LayerPlan("again", (6, 6, 3, 3), "cp", (2,), ""), "first and again are one module under two names"),
    ],
)
def test_a_plan_that_does_not_fit_changes_nothing(bag: Bag, row: LayerPlan, message: str) -> None:
    names = [name for name, _ in bag.named_modules()]
    for put in (apply, skeleton):
        with pytest.raises(PlanError, match=message):
            put(bag, (*ROWS[:2], row))
    assert [name for name, _ in bag.named_modules()] == names


def test_the_network_itself_is_not_replaced(bag: Bag) -> None:
    with pytest.raises(PlanError, match=r"wrap it in nn.Sequential"):
        replace_module(bag, "", nn.Identity())
    with pytest.raises(PlanError, match=r"no layer 'heat'; the nearest are head"):
        replace_module(bag, "heat", nn.Identity())


def test_names_are_checked_against_the_known() -> None:
    check_layer_names(["a"], ["a", "b"])
    with pytest.raises(PlanError, match=r"no layer 'features.4'; the nearest are features.3"):
        check_layer_names(["features.4"], iter(["features.3", "classifier.1"]))
    with pytest.raises(PlanError, match=r"none at all"):
        check_layer_names(["x"], [])


def test_weights_come_back_in_a_skeleton(bag: Bag, tmp_path: Path) -> None:
    made = compress(bag, Plan(ROWS, "given", "test"))
    save_weights(made.module, tmp_path / "weights.safetensors")
    torch.manual_seed(1)
    fresh = Bag().eval()
    skeleton(fresh, ROWS)
    assert not fresh.get_submodule("first.0").weight.any()
    load_weights(fresh, tmp_path / "weights.safetensors")
    assert torch.equal(fresh(IMAGE), made.module(IMAGE))
    assert [path.name for path in tmp_path.iterdir()] == ["weights.safetensors"]


def test_a_shared_module_is_written_once(bag: Bag, tmp_path: Path) -> None:
    save_weights(bag, tmp_path / "shared.safetensors")
    alone = copy.deepcopy(bag)
    alone.again = copy.deepcopy(alone.first)
    save_weights(alone, tmp_path / "apart.safetensors")
    sizes = [(tmp_path / name).stat().st_size for name in ("shared.safetensors", "apart.safetensors")]
    assert sizes[1] - sizes[0] >= 4 * 6 * 55


def test_weights_of_another_network_are_refused_by_the_first_difference(bag: Bag, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    save_weights(bag, path)
    before = bag.first.weight.clone()
    bag.head = nn.Linear(8, 4)
    with pytest.raises(WeightsError, match=r"head.weight is 5x8 of float32 in the file and 4x8 of float32 in the net"):
        load_weights(bag, path)
    bag.head = nn.Identity()
    with pytest.raises(WeightsError, match=r"head.bias is 5 of float32 in the file and missing in the network"):
        load_weights(bag, path)
    assert torch.equal(bag.first.weight, before)


def test_a_file_that_is_no_safetensors_file_is_named(bag: Bag, tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not weights")
    with pytest.raises(WeightsError, match=r"weights.safetensors is not a safetensors file: .*; write it again"):
        load_weights(bag, path)
    with pytest.raises(FileNotFoundError):
        load_weights(bag, tmp_path / "absent.safetensors")
