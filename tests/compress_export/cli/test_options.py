import sys

import click
import pytest
from click.testing import CliRunner

from compress_export.cli.options import listed, parse_image, parse_latency_format, parse_names, parse_ranks
from compress_export.errors import InputError


def test_layers_are_timed_in_the_first_exported_format_that_runs_here():
    assert parse_latency_format(None, ("onnx", "pte")) == "onnx"
    assert parse_latency_format(None, ("mlpackage", "pte")) == ("mlpackage" if sys.platform == "darwin" else "pte")
    assert parse_latency_format("ptl", ("onnx",)) == "ptl"


@pytest.mark.skipif(sys.platform == "darwin", reason="Core ML runs there")
def test_a_runtime_that_does_not_run_here_times_nothing():
    with pytest.raises(InputError, match="mlpackage: Core ML does not run here; pass pte, onnx or ptl"):
        parse_latency_format("mlpackage", ("pte",))


def test_an_image_is_channels_height_width():
    assert parse_image("3x224x160") == (3, 224, 160)


@pytest.mark.parametrize("text", ["224", "3x224", "3x0x4", "axbxc", "3x224x224x1", "-3x4x4"])
def test_other_images_are_refused(text):
    with pytest.raises(InputError, match="channels x height x width"):
        parse_image(text)


def test_ranks_by_layer_or_by_recipe():
    assert parse_ranks("features.3=20,classifier.1=30") == {"features.3": 20, "classifier.1": 30}
    assert parse_ranks("astrid-lee-2017") == "astrid-lee-2017"


@pytest.mark.parametrize("text", ["a=", "a=0", "a=1.5", "=3", "a=1,b"])
def test_other_ranks_are_refused(text):
    with pytest.raises(InputError, match="layer=rank"):
        parse_ranks(text)


def test_names_between_commas():
    assert parse_names("a, b,,c") == ("a", "b", "c")
    assert parse_names(None) == ()


@pytest.mark.parametrize(
    ("words", "names"),
    [
        ([], ()),
        (["--keep-layers", "a,b"], ("a", "b")),
        (["--keep-layers", "a", "--keep-layers", "b, c"], ("a", "b", "c")),
    ],
)
def test_a_list_given_in_several_options_is_one_list(words, names):
    @click.command
    @listed("--keep-layers", metavar="LAYER,...", help="Layers to leave alone.")
    def command(keep_layers):
        click.echo(parse_names(keep_layers))

    assert CliRunner().invoke(command, words).output.strip() == str(names)
