"""--share and fine_tune.regularizer: what is refused, and runs that share weights."""

import json

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from report_runs import report_run
from safetensors.numpy import load_file

from compress_export.cli.options import Given
from compress_export.cli.to_settings import share_of
from compress_export.errors import InputError
from compress_export.pipeline.load import RunContext
from compress_export.pipeline.share import share_stage
from compress_export.pipeline.validate import check_regularizer, regularization_of, while_training, with_centroids
from compress_export.run_directory import RunDirectory
from compress_export.settings import ShareSettings, SourceSettings, TuneSettings
from compressor.layer_shape import PlanError
from compressor.planning.recipes import RECIPES
from compressor.training.loop import TrainOptions
from compressor.weight_sharing.product_quantization import Sharing
from compressor.weight_sharing.regularizers import REGULARIZERS

DATA = SourceSettings("net.py:build", data="cifar10")
FROM_SCRATCH = SourceSettings("net.py:build", data="cifar10", train=3)
QUARTIC = TuneSettings(regularizer="quartic")


def test_a_sharing_is_written_in_one_word():
    assert Sharing.parse("4x256") == Sharing(4, 256)
    assert Sharing.parse("8x16,rows,block") == Sharing(8, 16, "rows", "block")
    for text in ("4", "4x", "axb", "4x256,diagonal", "4x256x2"):
        with pytest.raises(PlanError, match=r"weights are shared as length x centroids, with rows .* not '"):
            Sharing.parse(text)
    assert share_of(Given({"share.share": "4x16", "share.share_layers": ("a", "b")})) == ShareSettings(
        "4x16", ("a", "b")
    )
    with pytest.raises(PlanError, match=r"4x256 or 8x16,rows,block, not 'much'"):
        share_of(Given({"share.share": "much"}))
    with pytest.raises(
        InputError, match=r"share.share_layers names layers to share, and --share says how; pass it too"
    ):
        share_of(Given({"share.share_layers": ("fc",)}))


def test_the_recipe_trains_shares_and_cuts_nothing():
    recipe = "on-the-fly-2015"
    assert share_of(Given({}, recipe)) == ShareSettings("8x16", (), 2, 1e-3)
    given = Given({"share.share": "4x16", "share.share_epochs": 0}, recipe)
    assert share_of(given) == ShareSettings("4x16", (), 0, 1e-3)
    own = RECIPES["on-the-fly-2015"]
    assert (own.rank_rule, own.needs, own.regularizer in REGULARIZERS) == ("none", "linear", True)


def test_a_regularizer_needs_training():
    for source, tune, match in (
        (SourceSettings("alexnet"), QUARTIC, "acts while a network trains, and without --data none does; pass --data"),
        (SourceSettings("a", data="mnist", weights="none"), QUARTIC, "and --weights none is not trained; pass --train"),
        (DATA, TuneSettings(regularizer="quartic", epochs=0), "and --epochs 0 trains none; pass 1 or more"),
        (
            DATA,
            TuneSettings(regularizer_weight=2.0),
            "is the weight of a term that fine_tune.regularizer names; pass both",
        ),
        (DATA, TuneSettings(regularizer="quartik"), "there is no regularizer 'quartik': did you mean quartic"),
        (DATA, TuneSettings(regularizer="quartic:4x16"), "quartic follows no centroids; leave out :4x16"),
    ):
        with pytest.raises(InputError, match=match):
            check_regularizer(source, tune)
    check_regularizer(DATA, QUARTIC)
    trained = while_training(FROM_SCRATCH, QUARTIC)
    check_regularizer(trained, TuneSettings(regularizer="quartic", epochs=0))


def test_a_network_trained_from_scratch_is_trained_with_the_term():
    assert while_training(FROM_SCRATCH, QUARTIC).regularizer == "quartic"
    assert while_training(DATA, QUARTIC).regularizer is None
    assert while_training(SourceSettings("alexnet", data="digits"), QUARTIC).regularizer == "quartic"


def test_the_centroid_term_follows_what_will_be_shared():
    centroid = TuneSettings(regularizer="centroid", regularizer_weight=7.0)
    found = regularization_of(with_centroids(centroid, ShareSettings("8x16,rows")))
    assert (found.weight, found.sharing) == (7.0, Sharing(8, 16, "rows"))
    assert regularization_of(with_centroids(centroid, ShareSettings())).sharing == Sharing(4, 256)
    assert with_centroids(QUARTIC, ShareSettings("8x16")) == QUARTIC


def test_a_report_says_what_is_shared(tmp_path, call):
    path = report_run(tmp_path / "net")
    bits = {"indices": 8000, "codebooks": 2048, "dense": 640000}
    rows = [
        {"name": "fc1", "weight": [100, 200], "bits": bits, "kept": None, "error": 0.3},
        {"name": "fc2", "weight": [10, 100], "bits": None, "kept": "256 centroids for 250 sub-vectors", "error": None},
    ]
    record = {"sharing": "4x256 along columns, a codebook for each layer", "layers": rows}
    (path / "shared.json").write_text(json.dumps(record))
    (path / "original.safetensors").write_bytes(bytes(90_000))
    (path / "shared.safetensors").write_bytes(bytes(9_000))
    accuracy = json.loads((path / "accuracy.json").read_text())
    (path / "accuracy.json").write_text(json.dumps({**accuracy, "unshared": accuracy["original"] | {"top1": 98.5}}))
    status, out, _ = call(tmp_path, "report", "net", "--json")
    assert status == 0
    found = json.loads(out)
    assert found["shared"]["packed_bytes"] == 9000
    assert found["shared"]["layers"][0]["index_bits"] == 8000
    note = next(line for line in found["notes"] if "packed" in line)
    assert note.startswith(
        "Weights of fc1 are shared, 4x256 along columns, a codebook for each layer; fc2 is kept (256"
    )
    assert note.endswith(
        ".onnx files hold indices and codebook, as .mlpackage files do where Core ML has such a table; files of other "
        "formats hold ordinary weights and do not become smaller by it."
    )
    page = (path / "report.md").read_text()
    assert "| packed weights | 90.0 kB | 9.0 kB | 10.00x smaller |" in page
    assert "| of them 1 shared | 80.0 kB | 1.3 kB | 63.69x smaller |" in page
    assert "| top-1, before weight sharing |  | 98.50 % |  |" in page


SIZE = ("--input", "3x16x16")
WORDS = (*SIZE, "--data", "digits", "--set", "plan.rank_rule=none")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("shared")


def rows(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def steps(folder, net_file, digits_weights, call):
    """A run whose network was tuned with a regularizer and not cut, made once."""
    run = folder / "runs" / "steps"
    if not run.exists():
        assert call(folder, "plan", f"{net_file}:build", "--weights", digits_weights, *WORDS, "--name", "steps")[0] == 0
        assert call(folder, "compress", run)[0] == 0
        status, _, err = call(folder, "tune", run, "--epochs", "1", "--set", "fine_tune.regularizer=binarizing-l1")
        assert status == 0, err
    return run


@pytest.mark.slow
def test_the_verb_shares_and_exports_what_the_packed_file_holds(steps, folder, call):

    assert len(rows(steps / "tuning.jsonl")) == 2  # nothing is cut, but the term acts
    status, _, err = call(folder, "share", steps, "--share", "8x16")
    assert status == 0, err
    assert "of exported files, .onnx becomes smaller by it" in err
    sizes = [(steps / name).stat().st_size for name in ("tuned.safetensors", "shared.safetensors")]
    assert sizes[1] < 0.25 * sizes[0]
    accuracy = json.loads((steps / "accuracy.json").read_text())
    assert set(accuracy) == {"original", "compressed", "untuned", "unshared"}
    assert accuracy["compressed"]["top1"] > 60
    assert call(folder, "compress", steps)[0] == 0
    assert json.loads((steps / "accuracy.json").read_text()) == accuracy  # still that of the shared network
    assert call(folder, "export", steps, "--format", "onnx")[0] == 0
    book = load_file(steps / "shared.safetensors")["8.weight.codebook"]
    assert book.shape == (1, 16, 8)
    model = onnx.load(steps / "artifacts" / "compressed.onnx")
    stored = {each.name: numpy_helper.to_array(each) for each in model.graph.initializer}
    assert "8.weight" not in stored
    assert np.array_equal(stored["8.weight.codebook"], book[0])
    (artifact,) = (row for row in json.loads((steps / "artifacts.json").read_text()) if row["network"] == "compressed")
    assert artifact["parity"]["relative_error"] < 1e-4
    assert any(note.startswith("stored as codebook and indices: ") for note in artifact["notes"])
    assert artifact["bytes"] < 1.05 * sizes[1] + 8000  # the graph


@pytest.mark.slow
def test_other_ways_to_share_stop_and_can_be_forced(steps, folder, call):
    call(folder, "share", steps, "--share", "8x16")
    before = (steps / "shared.safetensors").read_bytes()
    status, _, err = call(folder, "share", steps, "--share", "4x16")
    assert (status, "made with other settings: --share 4x16 (was 8x16); pass --force" in err) == (1, True)
    assert (steps / "shared.safetensors").read_bytes() == before
    accuracy = (steps / "accuracy.json").read_text()
    assert call(folder, "share", steps, "--share", "4x16", "--set", "share.share_epochs=0", "--force")[0] == 0
    assert (steps / "shared.safetensors").read_bytes() != before
    assert (steps / "accuracy.json").read_text() != accuracy
    assert call(folder, "tune", steps, "--epochs", "1", "--set", "fine_tune.rate=0.001", "--force")[0] == 0
    assert not (steps / "shared.safetensors").exists()


class Killed(Exception):
    pass


@pytest.mark.slow
def test_an_interrupted_sharing_goes_on_to_the_same_bits(steps, folder, call, monkeypatch):
    torch.set_num_threads(1)
    words = ("share", steps, "--share", "8x16", "--set", "share.share_epochs=2", "--force")
    assert call(folder, *words)[0] == 0
    whole = (steps / "shared.safetensors").read_bytes()
    lines = rows(steps / "sharing.jsonl")
    assert [line["epoch"] for line in lines] == [0, 1, 2]
    assert call(folder, "share", steps, "--share", "16x4", "--force")[0] == 0

    append = RunDirectory.append_line

    def killed(run, name, value):
        append(run, name, value)
        if value.get("epoch") == 1:
            raise Killed

    monkeypatch.setattr(RunDirectory, "append_line", killed)
    with pytest.raises(Killed):
        call(folder, *words)
    monkeypatch.setattr(RunDirectory, "append_line", append)
    assert (steps / "sharing.pt").exists()
    status, _, err = call(folder, "export", steps, "--format", "onnx")
    assert (status, "was interrupted; finish it with `compress-export share" in err) == (1, True)
    status, _, err = call(folder, *words[:-1])
    assert (status, "Sharing the weights" in err) == (0, False)
    assert (steps / "shared.safetensors").read_bytes() == whole
    assert rows(steps / "sharing.jsonl") == lines


def test_the_stage_does_nothing_unless_asked(tmp_path):
    run = RunDirectory(tmp_path)
    module = torch.nn.Linear(2, 2)
    assert share_stage(RunContext(run, *[None] * 5), module, ShareSettings()) is module
    assert run.stored().share == ShareSettings()
    assert TrainOptions().regularizer is None
