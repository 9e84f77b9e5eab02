"""Settings made of `--recipe` and the options of tuning, and contradictions among them."""

from dataclasses import replace

import pytest

from compress_export.cli.main import run
from compress_export.cli.options import Given, given_in
from compress_export.cli.to_settings import plan_of, source_of, tune_again_of, tune_of
from compress_export.data.picture_files import unlabelled_images
from compress_export.errors import InputError
from compress_export.pipeline.run import compressed_run, initialize
from compress_export.pipeline.validate import RunRequest
from compress_export.run_directory import RunSettings
from compress_export.settings import TuneSettings
from compressor.plan import Plan
from compressor.planning.recipes import RECIPES


def given(*words):
    return given_in(run.make_context("run", ["alexnet", *words]))


def settings(*words):
    return plan_of(given(*words)), tune_of(given(*words))


def test_a_recipe_sets_what_nobody_asked_for():
    plan, tune = settings("--recipe", "cp-tpm-2017")
    assert (plan.rank_rule, plan.fit, plan.recipe) == ("sensitivity", "weights", "cp-tpm-2017")
    assert (tune.schedule, tune.epochs, tune.optimizer, tune.rate, tune.rate_schedule, tune.rate_step) == (
        "iterative", 15, "sgd", None, "step", 5)  # fmt: skip


def test_options_go_before_the_recipe():
    plan, tune = settings(
        "--recipe",
        "cp-als",
        "--set",
        "plan.rank_rule=vbmf",
        "--set",
        "plan.fit=outputs",
        "--epochs",
        "1",
        "--set",
        "fine_tune.rate=0.5",
    )
    assert (plan.rank_rule, plan.methods, plan.fit) == ("vbmf", (), "outputs")
    assert (tune.epochs, tune.rate, tune.schedule) == (1, 0.5, "one-shot")
    plan, _ = settings("--recipe", "cp-als", "--ranks", "a=3")
    assert (plan.rank_rule, plan.methods, plan.ranks) == ("budget", (), {"a": 3})


@pytest.mark.parametrize(
    ("before", "now", "epochs", "total", "distill"),
    [
        ({"total_epochs": 3.0}, {"epochs": 10}, 10, None, None),
        ({"epochs": 7, "distill": False}, {"total_epochs": 2.0}, 2, 2.0, False),
        ({"epochs": 7, "distill": False}, {"unlabelled": "photos"}, 7, None, True),
        ({"epochs": 7, "distill": False}, {"rate": 0.1}, 7, None, False),
    ],
)
def test_a_new_setting_puts_what_it_replaces_aside(before, now, epochs, total, distill):
    stored = RunSettings(tune=replace(TuneSettings(), **before))
    found = tune_again_of(Given({f"fine_tune.{name}": value for name, value in now.items()}), stored)
    assert (found.epochs, found.total_epochs, found.distill) == (epochs, total, distill)


@pytest.mark.parametrize(("scale", "epochs", "step"), [("0.2", 3, 1.0), ("0.1", 2, 10 / 15), ("0.01", 1, 1 / 3)])
def test_the_scale_shortens_epochs_and_falls_of_the_rate_alike(scale, epochs, step):
    _, tune = settings("--recipe", "cp-tpm-2017", "--set", f"fine_tune.epochs_scale={scale}")
    assert (tune.epochs, tune.rate_step) == (epochs, pytest.approx(step))


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--recipe", "cp-tmp-2017"], "there is no recipe 'cp-tmp-2017': did you mean cp-tpm-2017"),
        (
            ["--set", "fine_tune.epochs_scale=0.5", "--epochs", "3"],
            "fine_tune.epochs_scale scales the recipe's epochs, and --epochs sets them",
        ),
        (
            ["--epochs", "3", "--set", "fine_tune.total_epochs=3"],
            "--epochs is for each step and fine_tune.total_epochs for all together",
        ),
        (
            ["--set", "fine_tune.distill=false", "--set", "fine_tune.unlabelled=x"],
            "images without labels teach nothing without the original network's logits",
        ),
        (["--set", "fine_tune.schedule=iterativ"], "there is no schedule 'iterativ': did you mean iterative"),
    ],
)
def test_what_contradicts_itself_is_refused(words, text):
    with pytest.raises(InputError, match=text):
        settings(*words)


def test_mixed_precision_needs_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    with pytest.raises(
        InputError,
        match=r"fine_tune.mixed_precision trains in half precision on a CUDA GPU, and this machine has",
    ):
        initialize(mixed_precision=True)


def test_images_without_labels_must_be_there(tmp_path):
    from compress_export.data.images import View

    view = View((3, 8, 8), (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(InputError, match="there is no such folder"):
        unlabelled_images(tmp_path / "none", view)
    with pytest.raises(InputError, match="holds no images"):
        unlabelled_images(tmp_path, view)
    from PIL import Image

    (tmp_path / "deep").mkdir()
    Image.new("RGB", (9, 9)).save(tmp_path / "deep" / "a.PNG")
    image, label = unlabelled_images(tmp_path, view)[0]
    assert (image.shape, label) == ((3, 8, 8), -1)


def test_a_recipe_on_a_network_without_its_layers(tmp_path, call):
    (tmp_path / "flat.py").write_text(
        "from torch import nn\ndef build():\n    return nn.Sequential(nn.Flatten(), nn.Linear(48, 9))\n"
    )
    words = ("plan", "flat.py:build", "--input", "3x4x4", "--weights", "none", "--recipe", "tucker-vbmf-2015")
    status, _, err = call(tmp_path, *words)
    assert status == 1
    assert "the recipe tucker-vbmf-2015 needs a convolution with a window larger than 1x1" in err


@pytest.mark.slow
@pytest.mark.parametrize("recipe", [name for name, each in RECIPES.items() if each.rank_rule != "none"])
def test_every_recipe_plans_cuts_and_tunes(tmp_path, net_file, digits_weights, recipe):
    words = ["--data", "digits", "--weights", str(digits_weights), "--input", "3x16x16", "--set", "plan.costs=counted"]
    limit = {"default": "--max-macs", "tucker-vbmf-2015": "--max-macs"}.get(recipe, "--max-params")
    options = given(*words, "--recipe", recipe, limit, "0.6x", "--set", "fine_tune.epochs_scale=0.1")
    plan, tune = plan_of(options), tune_of(options)
    request = RunRequest(source_of(f"{net_file}:build", options), plan, tune)
    run = compressed_run(tmp_path / "run", request).run
    made = Plan.read(run / "plan.json")
    assert made.factored
    if RECIPES[recipe].rank_rule != "budget":
        assert {row.method for row in made.factored} <= {"cp", "cp-als", "tucker", "svd"}
        assert {row.method for row in made.factored if row.method != "svd"} <= {
            {"tucker-vbmf-2015": "tucker", "cp-als": "cp-als"}.get(recipe, "cp")
        }
    cuts = [row["layers"] for row in run.read_lines("tuning.jsonl") if row["epoch"] == 0]
    names = [row.name for row in made.factored]
    assert cuts == ([", ".join(names)] if tune.schedule in ("auto", "one-shot") else names)
    top1 = {name: row["top1"] for name, row in run.read_json("accuracy.json").items()}
    assert top1["original"] > 85
    assert top1["compressed"] > max(top1["untuned"] - 3, 40)
