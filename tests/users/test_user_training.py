"""Training on users' data: pictures that must not be mirrored, layers that are frozen."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torchvision.utils import save_image
from user_networks import Fourier, Grown, Sides, frozen_sides

from compress_export.data.datasets import alike_mirrored, find_data, load_data
from compress_export.data.images import View
from compress_export.errors import InputError
from compress_export.pipeline.load import network_notes
from compress_export.pipeline.run import compressed_run
from compress_export.pipeline.validate import RunRequest, changes_of
from compress_export.settings import PlanSettings, SourceSettings, TuneSettings
from compressor.equivalence import DIFFERS, FactorsDifferError
from compressor.plan import Plan
from compressor.survey import survey


@dataclass(frozen=True)
class Signs:
    """Images of so many classes: of each pair of `sided` ones one is the other's mirror image."""

    classes: int
    sided: int
    images: int
    mirrored: bool


MIRRORED = [
    Signs(classes=2, sided=2, images=12, mirrored=False),
    Signs(classes=10, sided=2, images=40, mirrored=False),
    Signs(classes=50, sided=2, images=500, mirrored=False),
    Signs(classes=2, sided=0, images=12, mirrored=True),
    Signs(classes=20, sided=0, images=100, mirrored=True),
]


class Reads(nn.Module):
    """Reads the class off an image whose left and right pixel hold it, and of sided ones the side too."""

    def __init__(self, case: Signs) -> None:
        super().__init__()
        self.case = case

    def forward(self, images: Tensor) -> Tensor:
        left, right = images[:, 0, 0, 0].round().long(), images[:, 0, 0, -1].round().long()
        found = torch.where(left > 0, left, right) - 1
        sided = found < self.case.sided
        found = torch.where(sided & (left == 0), found ^ 1, found)
        return nn.functional.one_hot(found, self.case.classes).float()


@pytest.mark.parametrize("case", MIRRORED, ids=str)
def test_what_differs_on_mirrored_pictures_is_not_mirrored(case: Signs) -> None:
    labels = torch.arange(case.images) % case.classes
    images = torch.zeros(case.images, 3, 4, 4)
    images[:, :, :, 0] = (labels + 1).float()[:, None, None]
    images[labels >= case.sided, :, :, -1] = images[labels >= case.sided, :, :, 0]
    right = int((labels >= case.sided).sum())
    assert alike_mirrored(Reads(case), [(images, labels)]) == (
        case.mirrored,
        f"pictures are {'' if case.mirrored else 'not '}mirrored by chance in training: the network is right on "
        f"{case.images} of {case.images} validation images, mirrored on {right} (fine_tune.augment)",
    )


@pytest.mark.parametrize(
    ("text", "changes"),
    [("auto", None), ("none", ()), ("crop", ("crop",)), ("flip", ("flip",)), ("crop,flip", ("crop", "flip"))],
)
def test_changes_by_name(text: str, changes: tuple[str, ...] | None) -> None:
    assert changes_of(TuneSettings(augment=text)) == changes
    with pytest.raises(InputError, match=rf"fine_tune.augment takes auto, none, crop, flip or .*, not '{text},mirror'"):
        changes_of(TuneSettings(augment=f"{text},mirror"))


def test_digits_are_trained_on_as_they_are(tmp_path: Path) -> None:
    source = find_data("digits", tmp_path)
    with pytest.raises(InputError, match=r"fine_tune.augment=flip: a mirrored or cropped digit is another one"):
        source.open(View((3, 8, 8), (0.5,) * 3, (0.5,) * 3), True, ("flip",))


@pytest.fixture(scope="module")
def signs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures: bright on the left, bright on the right; with noise."""
    folder = tmp_path_factory.mktemp("signs")
    random = torch.Generator().manual_seed(0)
    for part, count in (("train", 60), ("val", 20)):
        for side, place in (("left", slice(0, 8)), ("right", slice(8, 16))):
            (folder / part / side).mkdir(parents=True)
            for number in range(count):
                picture = 0.3 * torch.rand(3, 16, 16, generator=random)
                picture[:, :, place] += 0.5
                save_image(picture, folder / part / side / f"{number}.png")
    return folder


def run_of(folder: Path, signs: Path, build: str, **tune: object):
    """A run on the signs that compresses the network of that function to half its MACs and tunes it for an epoch."""
    source = SourceSettings(f"{Path(__file__).with_name('user_networks.py')}:{build}", input=(3, 16, 16),
                            data=str(signs), batch=16)  # fmt: skip
    plan = PlanSettings(max_macs="0.5x", costs="counted")
    return compressed_run(folder, RunRequest(source, plan, TuneSettings(epochs=1, **tune)))


@pytest.fixture(scope="module")
def tuned(signs: Path, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp("run") / "sides"
    return folder, run_of(folder, signs, "frozen_sides")


def test_left_and_right_stay_apart_in_a_tuned_network(tuned) -> None:
    folder, context = tuned
    network = json.loads((folder / "network.json").read_text())
    assert network["augment"] == ["crop"]
    assert any(note.startswith("pictures are not mirrored by chance in training") for note in network["notes"])
    assert context.data.changes == ("crop",)
    accuracy = json.loads((folder / "accuracy.json").read_text())
    assert accuracy["original"]["top1"] == 100
    assert accuracy["compressed"]["top1"] >= 95


def test_factors_of_frozen_layers_are_trained_and_it_is_said(tuned) -> None:
    from safetensors.torch import load_file

    folder, _ = tuned
    before, after = (load_file(folder / f"{name}.safetensors") for name in ("compressed", "tuned"))
    factored = [row.name for row in Plan.read(folder / "plan.json").factored]
    assert "deep" in factored
    assert not any(torch.equal(before[name], after[name]) for name in before if name.startswith("deep."))
    assert torch.equal(before["stem.weight"], after["stem.weight"])
    notes = json.loads((folder / "network.json").read_text())["notes"]
    assert (
        "4 of 6 weights are frozen (requires_grad=False), stem.weight first: where such a layer is factored its "
        "factors are trained, all others stay as they are"
    ) in notes


@pytest.mark.parametrize(("changes", "mirrored", "cropped"), [((), 0, 0), (("flip",), 1, 0), (("crop",), 0, 1)])
def test_each_change_is_made_alone(signs: Path, changes: tuple[str, ...], mirrored: int, cropped: int) -> None:
    data = load_data(find_data(str(signs), signs), View((3, 16, 16), (0.5,) * 3, (0.5,) * 3), 16, 2)
    assert data.changes == ("crop",)
    plain, changed = (data.with_changes(some).train.dataset for some in ((), changes))
    torch.manual_seed(0)
    pairs = [(changed[place][0], plain[place][0]) for place in range(40)]
    same = sum(torch.equal(*pair) for pair in pairs)
    turned = sum(torch.equal(new, old.flip(2)) for new, old in pairs)
    assert (turned > 5, 40 - same - turned > 30) == (bool(mirrored), bool(cropped))
    assert cropped or same + turned == 40


def test_a_layer_that_the_network_treats_otherwise_is_kept_and_named(tmp_path: Path, capsys) -> None:
    source = SourceSettings(f"{Path(__file__).with_name('user_networks.py')}:CountsParameters", weights="none",
                            input=(3, 8, 8))  # fmt: skip
    plan = PlanSettings(max_macs="0.65x", costs="counted")
    context = compressed_run(tmp_path / "run", RunRequest(source, plan, TuneSettings()))
    made = Plan.read(tmp_path / "run" / "plan.json")
    assert f"note: two: kept, {DIFFERS}: planning again" in capsys.readouterr().err
    assert (made.layer("two").method, made.layer("two").reason) == ("keep", f"kept: {DIFFERS}")
    assert not made.layer("three").kept
    assert made.chosen is not None
    assert made.chosen.macs <= 0.65 * context.survey.macs
    given = PlanSettings(ranks={"two": 2}, costs="counted")
    with pytest.raises(FactorsDifferError, match=r"^two: with factors in its place .* pass --keep-layers two$"):
        compressed_run(tmp_path / "given", RunRequest(source, given, TuneSettings()))


def test_work_outside_the_layers_is_said() -> None:
    images = torch.randn(4, 3, 8, 8)
    notes = [*network_notes(Grown(), survey(Grown(), images), True)]
    share = 100 * 16 * 8 * 16 * 16 / (16 * 8 * 16 * 16 + 16 * 8 * 27 + 80)
    assert notes == [
        f"{share:.0f} % of the network's 0.0M MACs lie outside Conv2d and Linear layers (transposed, 1-d and 3-d "
        "convolutions, attention, weights read directly): no plan makes these fewer"
    ]
    notes = [*network_notes(Fourier(), survey(Fourier(), images), True)]
    assert notes == ["MACs are without those of aten::_fft_r2c, which torch's flop counter does not count"]
    assert [*network_notes(Sides(), survey(Sides(), images), True)] == []
    assert [*network_notes(frozen_sides(), survey(Sides(), images), False)] == []
