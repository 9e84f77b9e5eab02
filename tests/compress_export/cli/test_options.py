"""Options made of settings: how values are written, --set, --recipe FILE.toml, groups of --help, options that moved."""

import sys

import click
import pytest
from click.testing import CliRunner

from compress_export.cli.main import cli, run
from compress_export.cli.options import Given, GroupedOption, given_in, listed
from compress_export.cli.to_settings import bench_of, latency_format, plan_of, share_of, source_of, tune_of
from compress_export.errors import InputError
from compress_export.settings import SETTINGS, BenchSettings, PlanSettings, ShareSettings, SourceSettings, TuneSettings

WHOLE = ("run", "plan", "tune", "share", "bench", "study")


def given(*words):
    return given_in(run.make_context("run", ["alexnet", *words]))


def test_layers_are_timed_in_the_first_exported_format_that_runs_here():
    assert latency_format(None, ("onnx", "pte")) == "onnx"
    assert latency_format(None, ("mlpackage", "pte")) == ("mlpackage" if sys.platform == "darwin" else "pte")
    assert latency_format("ptl", ("onnx",)) == "ptl"


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs there")
def test_a_runtime_that_does_not_run_here_times_nothing():
    with pytest.raises(InputError, match="mlpackage: Core ML does not run here; pass one of pte, onnx, tflite, ptl"):
        latency_format("mlpackage", ("pte",))


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("source.input", "3x224x160", (3, 224, 160)),
        ("source.mean", "0.5,1", (0.5, 1.0)),
        ("source.data", "none", None),
        ("source.weights", "none", "none"),
        ("plan.ranks", "features.3=20, classifier.1=30", {"features.3": 20, "classifier.1": 30}),
        ("plan.ranks", "astrid-lee-2017", "astrid-lee-2017"),
        ("plan.methods", "a, b,,c", ("a", "b", "c")),
        ("plan.methods", "none", ()),
        ("fine_tune.distill", "false", False),
        ("fine_tune.optimizer", "sgd", "sgd"),
        ("fine_tune.rate", "1e-3", 0.001),
    ],
)
def test_a_text_becomes_a_value_of_its_type(name, text, value):
    assert SETTINGS[name].parse(text) == value


@pytest.mark.parametrize(
    ("name", "texts", "message"),
    [
        (
            "source.input",
            ["224", "3x224", "3x0x4", "axbxc", "3x224x224x1", "-3x4x4"],
            "--input takes channels x height",
        ),
        ("plan.ranks", ["a=", "a=0", "a=1.5", "=3", "a=1,b"], "--ranks takes layer=rank,layer=rank with whole numbers"),
        ("fine_tune.epochs", ["-1", "1.5", "x", ""], "--epochs takes a whole number from 0, not"),
        ("fine_tune.rate", ["0", "-1", "nan", "inf", "x"], "fine_tune.rate takes a number above 0, not"),
        ("fine_tune.distill", ["yes"], "fine_tune.distill takes true or false, not 'yes'"),
        ("fine_tune.optimizer", ["sgdd"], "fine_tune.optimizer takes adamw or sgd, not 'sgdd'"),
        ("plan.rate", ["none"], "plan.rate takes a number above 0, not 'none'"),
    ],
)
def test_a_text_of_another_type_is_refused(name, texts, message):
    for text in texts:
        with pytest.raises(InputError, match=message):
            SETTINGS[name].parse(text)


@pytest.mark.parametrize("name", SETTINGS)
def test_every_default_survives_its_text(name):
    setting = SETTINGS[name]
    words = setting.words(setting.default)
    if setting.default != {}:
        assert setting.parse(words[1] if setting.option else words[1].partition("=")[2]) == setting.default
    assert words[0] == (setting.option or "--set")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--set", "fine_tune.optimzer=sgd"], r"has all\): did you mean fine_tune.optimizer"),
        (["--set", "fine_tune.optimizer"], "--set takes SECTION.FIELD=VALUE, such as fine_tune.optimizer=sgd, not"),
        (["--set", "fine_tune.epochs=1", "--epochs", "2"], "fine_tune.epochs is given twice; pass it once"),
        (["--optimizer", "sgd"], "--optimizer is no option but a setting: pass --set fine_tune.optimizer=sgd or"),
        (["--rate-shape=step"], "--rate-shape is no option but a setting: pass --set fine_tune.rate_schedule=step or"),
        (["--cut-order", "sensitive"], "--cut-order is no option but a setting: pass --set fine_tune.order=sensitive"),
        (["--trained", "new"], "--trained is no option but a setting: pass --set fine_tune.trainable=new"),
        (["--set", "fine_tune.trained=new"], "fine_tune.trained has another name now: fine_tune.trainable; pass that"),
        (["--no-distill"], "pass --set fine_tune.distill=false"),
        (["--cap=3"], "pass --set bench.cap=3"),
        (["--mixed-precision"], "pass --set fine_tune.mixed_precision=true"),
    ],
)
def test_settings_that_cannot_be_made_say_what_can(words, message):
    with pytest.raises(InputError, match=message):
        given(*words)


def test_a_command_takes_the_settings_of_its_sections_alone():
    with pytest.raises(InputError, match=r"--set plan.costs: this command takes settings of fine_tune alone; leave it"):
        cli.commands["tune"].make_context("tune", ["runs/a", "--set", "plan.costs=counted"])
    with pytest.raises(click.NoSuchOption):
        cli.commands["tune"].make_context("tune", ["runs/a", "--cap", "3"])


def test_without_options_the_defaults_hold():
    nothing = Given()
    assert source_of("alexnet", nothing) == SourceSettings("alexnet")
    assert (plan_of(nothing), tune_of(nothing)) == (PlanSettings(), TuneSettings())
    assert (share_of(nothing), bench_of(nothing)) == (ShareSettings(), BenchSettings())


def test_a_recipe_file_lies_between_its_base_and_what_is_given(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        'base = "cp-als"\n[plan]\nkeep_layers = ["a", "b"]\nmax_params = "0.5x"\n'
        "[fine_tune]\nrate = 0.01\ndistill = true\nepochs = 4\n[bench]\ncap = 2\n"
    )
    found = given("--recipe", str(path), "--set", "fine_tune.rate=0.5", "--max-params", "0.3x")
    plan, tune = plan_of(found), tune_of(found)
    assert (plan.recipe, plan.methods, plan.keep_layers, plan.max_params) == (
        "cp-als", ("cp-als", "svd"), ("a", "b"), "0.3x")  # fmt: skip
    assert (tune.recipe, tune.optimizer, tune.rate, tune.distill, tune.epochs) == ("cp-als", "sgd", 0.5, True, 4)
    assert bench_of(found).cap == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[fine_tune]\nepoch = 3\n", r"mine.toml: fine_tune.epoch: there is no such setting .*did you mean"),
        ("[fine_tune]\nepochs = 1.5\n", "--epochs takes a whole number from 0, not '1.5'"),
        ("epochs = 3\n", "mine.toml: epochs stands in no section"),
        ("[fine_tune\n", "mine.toml is no TOML"),
        ('base = "cp-al"\n', "there is no recipe 'cp-al': did you mean cp-als"),
        (None, "mine.toml: there is no such file"),
    ],
)
def test_a_recipe_file_that_is_none_says_why(tmp_path, text, message):
    path = tmp_path / "mine.toml"
    if text is not None:
        path.write_text(text)
    with pytest.raises(InputError, match=message):
        tune_of(given("--recipe", str(path)))


def test_help_stands_in_groups_and_fits_a_screen():
    options = [option for option in run.params if isinstance(option, GroupedOption)]
    assert len(options) <= 32
    lines = run.get_help(click.Context(run, info_name="run", max_content_width=110, terminal_width=110)).splitlines()
    heads = [line for line in lines if line.endswith(":") and not line.startswith(" ")]
    assert heads == ["Network and data:", "What to reach, at most:", "Tuning:", "Files:", "Measuring:", "The run:"]
    assert len(lines) <= 60


@pytest.mark.parametrize("command", WHOLE)
def test_every_setting_of_a_section_can_be_set(command):
    sections = cli.commands[command].callback.sections
    own = {name for name in SETTINGS if name.partition(".")[0] in sections}
    assert own
    for name in own:
        words = ["x", "--set", f"{name}={SETTINGS[name].words(SETTINGS[name].default)[1].rpartition('=')[2]}"]
        assert given_in(cli.commands[command].make_context(command, words)).values.keys() >= {name}


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ()),
        (["--seeds", "a,b"], ("a", "b")),
        (["--seeds", "a", "--seeds", "b, c"], ("a", "b", "c")),
    ],
)
def test_a_list_given_in_several_options_is_one_list(words, names):
    @click.command
    @listed("--seeds", metavar="SEED,...", help="Seeds.")
    def command(seeds):
        click.echo(seeds)

    assert CliRunner().invoke(command, words).output.strip() == str(names)
    listing = [word.replace("--seeds", "--keep-layers") for word in words]
    assert given(*listing).values.get("plan.keep_layers", ()) == names
