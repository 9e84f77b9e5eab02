"""Outputs by name: any nest of tensors, captured, written, run and compared output by output."""

import numpy as np
import pytest
import torch
from exporter_networks import SIZE, images
from torch import nn

from exporters.artifact import Artifact, ExportError, Parity
from exporters.capture import capture, load, save
from exporters.export import export_program
from exporters.outputs import Output, named_tensors, outputs_of, row_of, rows_of, split
from exporters.parity import compare, logits_of
from exporters.quantization.half import halve
from exporters.quantization.post_training import quantize

ONE, TWO = torch.ones(1, 2), torch.full((1, 2, 3, 3), 2.0)
NESTS = {
    "a row": (ONE, {"logits": (1, 2)}),
    "a map": (TWO, {"output": (1, 2, 3, 3)}),
    "a tuple": ((ONE, TWO), {"output_0": (1, 2), "output_1": (1, 2, 3, 3)}),
    "a dict": ({"out": TWO, "aux": None}, {"out": (1, 2, 3, 3)}),
    "a nest": ({"heads": [ONE, {"box.es": TWO}]}, {"heads_0": (1, 2), "heads_1_box_es": (1, 2, 3, 3)}),
    "taken names": ({"image": ONE, "a-b": ONE, "a.b": ONE}, {"output_image": (1, 2), "a_b": (1, 2), "a_b_": (1, 2)}),
}


@pytest.mark.parametrize(("answer", "wanted"), NESTS.values(), ids=NESTS)
def test_every_nest_has_names(answer, wanted):
    found = named_tensors(answer)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == wanted


def test_what_is_no_tensor_is_named():
    with pytest.raises(TypeError, match="str"):
        named_tensors({"label": "cat"})


class Heads(nn.Module):
    """A class map, and in a nest two rows of which the second is far smaller."""

    def __init__(self):
        super().__init__()
        self.stem, self.map, self.row = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 4, 1), nn.Linear(8, 3)

    def forward(self, image):
        features = self.stem(image).relu()
        return {"out": self.map(features), "aux": (self.row(features.mean((2, 3))), features.amax((2, 3)) / 1000)}


NAMES = ["out", "aux_0", "aux_1"]
KINDS = (Output("out", (4, SIZE, SIZE), "class map"), Output("aux_0", (3,), "logits"), Output("aux_1", (8,)))


@pytest.fixture(scope="module")
def heads():
    torch.manual_seed(0)
    return Heads().eval()


@pytest.fixture(scope="module")
def program(heads, tmp_path_factory):
    """Captured, stored and read again."""
    path = tmp_path_factory.mktemp("outputs") / "heads.pt2"
    save(capture(heads, images()), path)
    return load(path)


def test_a_captured_program_knows_its_outputs(program, heads):
    assert outputs_of(program) == tuple(Output(each.name, each.shape) for each in KINDS)
    answer = program.module()(images(1))
    assert list(answer) == NAMES
    assert torch.allclose(answer["aux_1"], heads(images(1))["aux"][1], atol=1e-7)


def test_one_output_may_have_a_name_of_its_own():
    module = nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE**2, 4))
    assert outputs_of(capture(module, images(), "embedding")) == (Output("embedding", (4,)),)
    assert outputs_of(capture(module, images(), "logits")) == (Output("logits", (4,), "logits"),)


@pytest.mark.parametrize("format", ["onnx", "ptl", pytest.param("pte", marks=pytest.mark.slow),
                                    pytest.param("tflite", marks=pytest.mark.slow),
                                    pytest.param("mlpackage", marks=pytest.mark.slow)])  # fmt: skip
def test_every_format_gives_every_output(program, heads, tmp_path, format):
    given = images().numpy()
    made = export_program(
        program, format, tmp_path / f"heads.{format}", images=given, reference=logits_of(heads, given), outputs=KINDS
    )
    assert isinstance(made, Artifact)
    assert made.outputs == KINDS
    if format == "mlpackage":
        assert f"output out 1x4x{SIZE}x{SIZE}, aux_0 1x3, aux_1 1x8" in made.parity.note
    assert made.verdict == "passed"
    assert [each.name for each in made.parity.outputs] == NAMES
    assert (made.parity.top1_agreement, made.parity.equal_pixels) == (1.0, 1.0)


def test_several_outputs_in_other_number_types(program, heads):
    given = images(16).numpy()
    reference = logits_of(heads, given)
    half = rows_of(halve(program).module()(images(1)))
    assert np.abs(half - reference[:1]).max() < 1e-2
    found = quantize(program, given)
    # by output: the small one, a thousandth of the others, counts as much
    assert 20 < found.signal_to_noise < 60
    assert [each.name for each in outputs_of(found.program)] == NAMES


def test_rows_hold_outputs_one_after_the_other(heads):
    rows = rows_of(heads(images(2)))
    parts = split(rows, KINDS)
    assert np.array_equal(parts["out"], heads(images(2))["out"].detach().numpy())
    assert np.array_equal(row_of([part[:1] for part in parts.values()]), rows[:1])


def compared(kind, given, reference):
    given, reference = np.float32(given), np.float32(reference)
    return compare(
        given.reshape(len(given), -1), reference.reshape(len(given), -1), outputs=(Output("y", given.shape[1:], kind),)
    )


def test_a_class_map_counts_equal_pixels_and_a_tie_as_equal():
    """Two classes, four pixels: one is another class, one is a tie in the reference."""
    reference = np.array([[[[2, 2, 1, 0]], [[0, 0, 1, 2]]]])
    found = compared("class map", [[[[2, 0, 1, 0]], [[0, 2, 1.00001, 2]]]], reference)
    assert (found.equal_pixels, found.top1_agreement) == (0.75, None)
    assert found.verdict("float32") == "failed"
    assert compared("class map", reference, reference).verdict("float32") == "passed"


def test_values_have_no_classes():
    """The largest number moves: nothing but the error tells."""
    found = compared("values", [[1.0, 1.00001]], [[1.00001, 1.0]])
    assert (found.top1_agreement, found.equal_pixels) == (None, None)
    assert found.cosine == pytest.approx(1)
    assert found.outputs[0].agreement is None


def test_each_output_has_its_own_deviation():
    outputs = (Output("large", (2,)), Output("small", (2,)))
    reference = np.float32([[-100, 100, -0.1, 0.1]])
    found = compare(reference + np.float32([[0, 0, 0, 0.05]]), reference, outputs=outputs)
    large, small = found.outputs
    assert (large.relative_error, small.relative_error) == (0, pytest.approx(0.5, rel=1e-3))
    assert found.relative_error == small.relative_error
    assert found.verdict("float32") == "failed"


def test_an_output_that_is_one_number_everywhere_proves_nothing():
    outputs = (Output("a", (2,)), Output("b", (1,)))
    found = compare(np.float32([[1, 2, 0]]), np.float32([[1, 2, 0]]), outputs=outputs)
    assert found.note == "the module gives one number in ['b'], which proves nothing"


def test_parity_without_outputs_is_as_it_was():
    found = compare(np.float32([[1, 2]]), np.float32([[1, 2]]))
    assert found == Parity(True, 1, 0.0, 0.0, pytest.approx(1), 1.0, "", 0.0)


class Gives(nn.Module):
    def __init__(self, what):
        super().__init__()
        self.layer, self.what = nn.Conv2d(3, 2, 1), what

    def forward(self, image):
        return {"nothing": None, "classes": self.layer(image).argmax(1)}[self.what]


@pytest.mark.parametrize(
    ("what", "text"),
    [
        ("nothing", "Gives gives no tensor; a network gives at least one"),
        ("classes", "outputs are float32 tensors, and Gives gives int64 as its output; return tensors"),
    ],
)
def test_what_no_file_can_give_is_refused(what, text):
    with pytest.raises(ExportError, match=text):
        capture(Gives(what), images())
