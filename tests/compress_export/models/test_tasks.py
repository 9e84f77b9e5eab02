"""Tasks: which one it is, their metrics against figures worked out by hand, and evaluations of a user's own."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from bench.runner.protocol import several_outputs
from compress_export.console import Reporter
from compress_export.errors import InputError
from compress_export.models.networks import NetworkRequest, load_network
from compress_export.models.tasks import (
    TASKS,
    VOID,
    Evaluation,
    choose_task,
    objective_of,
    with_kinds,
)
from compress_export.pipeline.load import load, training_images
from compress_export.pipeline.task_metric import measure_metrics
from compress_export.run_directory import RunDirectory
from compress_export.settings import SourceSettings, TuneSettings
from compressor.outputs import CLASSIFICATION, UNLABELLED
from exporters.outputs import Output


@pytest.mark.parametrize(
    ("shapes", "asked", "own", "task"),
    [
        ([(10,)], None, "", "classify"),
        ([(10,)], "embed", "", "embed"),
        ([(3, 8, 8)], None, "", "outputs"),
        ([(3, 8, 8)], None, "segment", "segment"),
        ([(3, 8, 8)], "outputs", "segment", "outputs"),
        ([(10,), (4,)], None, "", "outputs"),
    ],
)
def test_the_task_follows_from_the_network_unless_it_is_named(shapes, asked, own, task):
    assert choose_task(asked, shapes, own) == task


@pytest.mark.parametrize(
    ("shapes", "asked", "text"),
    [
        (
            [(4, 4, 4)],
            "classify",
            "answers an image with one row of logits, and this network gives 4x4x4; pass source.task",
        ),
        ([(10,)], "segment", "is a class map (classes, height, width) of 2 classes or more, and this network gives 10"),
        ([(1, 4, 4)], "segment", "of 2 classes or more, and this network gives 1x4x4"),
        (
            [(10,)],
            "detect",
            "a detector's boxes and scores are exported and compared like other outputs with source.task",
        ),
        ([(10,)], "segmnt", "there is no task 'segmnt': did you mean segment?"),
    ],
)
def test_a_task_that_cannot_be_is_one_sentence(shapes, asked, text):
    with pytest.raises(InputError) as error:
        choose_task(asked, shapes)
    assert text in str(error.value)


class Fixed(nn.Module):
    """Gives the same whatever it sees."""

    def __init__(self, *given):
        super().__init__()
        self.given, self.weight = given, nn.Parameter(torch.zeros(1))

    def forward(self, images):
        found = tuple(each.expand(len(images), *each.shape[1:]) for each in self.given)
        return found if len(found) > 1 else found[0]


def scored(task, shapes, module, batches, labelled=True, original=None):
    outputs = with_kinds([Output(f"output_{place}", shape) for place, shape in enumerate(shapes)], task)
    objective = objective_of(task, outputs, labelled, original or module)
    return objective.metric, objective.score(module, batches, None)


def test_mean_iou_counts_every_pixel_but_those_without_a_class():
    """Classes 0, 0, 1, 1 where the masks say 0, 1, 1, void: IoU 1/2 and 1/2; class 2 is in neither and is no class."""
    maps = torch.zeros(1, 3, 1, 4)
    maps[0, 0, 0, :2] = maps[0, 1, 0, 2:] = 1
    masks = torch.tensor([[[0, 1, 1, VOID]]])
    assert scored("segment", [(3, 1, 4)], Fixed(maps), [(torch.zeros(1, 3, 1, 4), masks)]) == ("mean IoU", 50.0)
    masks = torch.tensor([[[0, 0, 1, 2]]])  # IoU 1, 1/2 and 0
    assert scored("segment", [(3, 1, 4)], Fixed(maps), [(torch.zeros(1, 3, 1, 4), masks)])[1] == pytest.approx(50.0)


def test_smaller_class_maps_are_enlarged_to_the_masks():
    maps = torch.tensor([[[[1.0, 0.0]], [[0.0, 1.0]]]])
    masks = torch.tensor([[[0, 0, 1, 1]]])
    assert scored("segment", [(2, 1, 2)], Fixed(maps), [(torch.zeros(1, 3, 1, 4), masks)])[1] == 100


def test_recall_at_1_is_by_the_nearest_other_image():
    """Two of a class lie near each other; the third's nearest is of another class."""
    rows = torch.tensor([[1.0, 0.0], [2.0, 0.1], [0.0, 3.0], [0.3, 1.0]])
    batches = [(rows[:2], torch.tensor([0, 0])), (rows[2:], torch.tensor([1, 2]))]
    module = nn.Linear(2, 2, bias=False)
    module.weight.data = torch.eye(2)
    assert scored("embed", [(2,)], module, batches) == ("recall at 1", 50.0)


def test_without_labels_the_outputs_are_held_against_the_original():
    original = Fixed(torch.tensor([[1.0, 0.0]]), torch.ones(1, 2, 1, 1))
    other = Fixed(torch.tensor([[1.0, 1.0]]), 5 * torch.ones(1, 2, 1, 1))
    batches = [(torch.zeros(3, 1), torch.full((3,), UNLABELLED))]
    metric, found = scored("segment", [(2,), (2, 1, 1)], other, batches, False, original)
    assert torch.is_grad_enabled()
    assert (metric, found) == (TASKS["outputs"].metric, pytest.approx(50 * (1 / math.sqrt(2) + 1)))


EVALUATIONS = """
import itertools
calls = itertools.count()
def mean(model, images):
    return model(images).mean()
def several(model, images):
    return {"error": 0.25, "images": len(images)}
def raises(model, images):
    return model(images)["boxes"]
def nothing(model, images):
    return float("nan")
def text(model, images):
    return "good"
def empty(model, images):
    return {}
def draws(model, images):
    return 1 + next(calls)
"""


def test_an_evaluation_gives_figures_by_name(tmp_path):
    (tmp_path / "metric.py").write_text(EVALUATIONS)
    module, images = Fixed(torch.tensor([[2.0]])), torch.zeros(3, 1)
    assert Evaluation(f"{tmp_path}/metric.py:mean").measure(module, images) == {"mean": 2.0}
    assert Evaluation(f"{tmp_path}/metric.py:several").measure(module, images) == {"error": 0.25, "images": 3}


@pytest.mark.parametrize(
    ("function", "text"),
    [
        ("raises", "metric.py:raises raised IndexError: "),
        ("nothing", "metric.py:nothing gave nothing=nan; a figure that counts is a finite number"),
        ("text", "metric.py:text gave str; it gives a number, or a dict of numbers by name"),
        ("empty", "metric.py:empty gave no figure; a figure that counts"),
        ("draws", "draws of one network on the same images is 1 and then 2; an evaluation gives the same figure each"),
        ("gone", "metric.py has no function gone"),
    ],
)
def test_an_evaluation_that_says_nothing_is_one_sentence(tmp_path, function, text):
    (tmp_path / "metric.py").write_text(EVALUATIONS)
    with pytest.raises(InputError) as error:
        Evaluation(f"{tmp_path}/metric.py:{function}").measure(Fixed(torch.tensor([[2.0]])), torch.zeros(3, 1))
    assert text in str(error.value)


ODD = """
import torch
from torch import nn
class Odd(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.layer, self.what = nn.Conv2d(3, 2, 3), what
        nn.init.ones_(self.layer.bias)
    def forward(self, image):
        features = self.layer(image)
        found = features.flatten(2).mT[features.max(1).values.flatten(1) > 0]
        return {
            "chosen": {"boxes": found, "features": features},
            "text": {"label": "cat"},
            "double": (features, features.double()),
            "nothing": {"aux": None},
        }[self.what]
def chosen(): return Odd("chosen")
def text(): return Odd("text")
def double(): return Odd("double")
def nothing(): return Odd("nothing")
"""


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (
            "chosen",
            "gives boxes of shape (36, 2) for one image, and the first side of an output counts images: how",
        ),
        ("text", "odd.py:text answers with str, and outputs are tensors, or tuples, lists and dicts of them"),
        ("double", "odd.py:double answers in float64 (output_1), and files hold float32"),
        ("nothing", "odd.py:nothing answers an image with no tensor; return at least one"),
    ],
)
def test_outputs_that_no_file_can_hold_are_named(tmp_path, function, text):
    (tmp_path / "odd.py").write_text(ODD)
    with pytest.raises(InputError) as error:
        load_network(NetworkRequest(f"{tmp_path}/odd.py:{function}", input=(3, 8, 8)))
    assert text in str(error.value)


def test_a_segmenter_and_an_embedder_by_name():
    torch.manual_seed(0)
    network = load_network(NetworkRequest("lraspp_mobilenet_v3_large", "none", (3, 32, 32), 4))
    assert (network.task, network.outputs) == ("segment", 4)
    assert network.layout == (Output("out", (4, 32, 32), "class map"),)
    embedder = load_network(NetworkRequest("timm:mobilenetv3_small_050", "none", (3, 32, 32), task="embed"))
    assert embedder.layout == (Output("embedding", (1024,)),)


def test_pictures_without_masks_do_not_stand_beside_masks():
    objective = objective_of("segment", [Output("out", (2, 4, 4), "class map")], True, nn.Identity())
    context = SimpleNamespace(data=SimpleNamespace(train=None), network=None, objective=objective)
    with pytest.raises(InputError, match=r"unlabelled=more: pictures without masks stand beside pictures with"):
        training_images(context, TuneSettings(unlabelled="more"))


def test_training_from_scratch_needs_labels_that_the_task_reads(tmp_path):
    (tmp_path / "odd.py").write_text(ODD.replace('"text"', '"map"').replace("text()", "map()").replace(
        '"map": {"label": "cat"}', '"map": features'))  # fmt: skip
    settings = SourceSettings(f"{tmp_path}/odd.py:map", data="digits", train=1, input=(3, 8, 8), task="segment")
    with pytest.raises(InputError, match=r"--train 1 learns from labels, and digits has none that source.task=segment"):
        load(RunDirectory(tmp_path), settings, Reporter())


def test_an_evaluation_gives_the_same_figures_of_every_network(tmp_path):
    (tmp_path / "metric.py").write_text("def own(model, images):\n    return {model.name: 1.0}\n")
    run = RunDirectory(tmp_path)
    run.begin("source", SourceSettings("net", evaluate=f"{tmp_path}/metric.py:own"), True)
    networks = {name: Fixed(torch.ones(1, 1)) for name in ("original", "compressed")}
    for name, network in networks.items():
        network.name = name
    context = SimpleNamespace(
        run=run, reporter=Reporter(), objective=CLASSIFICATION, trainable=False, data=None, images=torch.zeros(2, 1)
    )
    with pytest.raises(
        InputError, match="gave compressed of compressed and original of the original; it gives the sam"
    ):
        measure_metrics(context, networks)


def test_files_of_several_outputs_are_not_run_on_a_phone():
    outputs = (Output("boxes", (4,)), Output("scores", (2,)))
    artifact = SimpleNamespace(outputs=outputs)
    assert several_outputs(artifact).startswith(
        "the programs that run files there read one output, and this file gives 2 (boxes, scores); measure it with"
    )
    assert several_outputs(SimpleNamespace(outputs=outputs[:1])) == ""
