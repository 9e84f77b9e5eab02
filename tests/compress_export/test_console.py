"""`list`, --json, --quiet, -v, and the width and colour of tables."""

import json
import os
import time

import click
import pytest
from report_runs import report_run

from bench.devices import DEVICES
from compress_export.cli.list import KINDS
from compress_export.cli.main import cli
from compress_export.cli.options import QUIET
from compress_export.console import WIDTH, OutputOptions, Reporter, console, set_output
from compressor.decompositions.methods import METHODS
from compressor.planning.recipes import PAPER_RANKS, RECIPES
from exporters.formats import FORMATS

TABLES = {"methods": METHODS, "formats": FORMATS, "devices": DEVICES, "recipes": RECIPES, "ranks": PAPER_RANKS}


@pytest.mark.parametrize("kind", KINDS)
def test_every_list_has_a_name_and_a_sentence(call, tmp_path, kind):
    status, out, _ = call(tmp_path, "list", kind, "--json")
    rows = json.loads(out)
    assert status == 0
    assert all(row["name"] and row["what"] for row in rows)
    if kind in TABLES:
        assert [row["name"] for row in rows] == list(TABLES[kind])


def test_networks_are_those_that_can_be_loaded(call, tmp_path):
    names = call(tmp_path, "list", "networks", "--quiet")[1].splitlines()
    assert {"alexnet", "resnet18", "alexnet-caffe", "timm:NAME", "FILE.py:FUNCTION"} <= set(names)


def test_another_list_is_answered_with_those_there_are(call, tmp_path):
    status, _, err = call(tmp_path, "list", "network")
    assert status == 1
    assert "there is no list of 'network': did you mean networks?" in err


def test_every_command_can_be_quiet_and_every_table_is_json_too():
    for name, command in cli.commands.items():
        options = {option for parameter in command.params for option in parameter.opts}
        assert {"--quiet", "--verbose"} <= options, name
        assert name in ("compress", "tune", "share", "export") or "--json" in options, name


def test_a_report_is_printed_as_json(call, tmp_path):
    path = report_run(tmp_path / "net")
    status, out, err = call(tmp_path, "report", "net", "--json")
    assert status == 0
    assert out == (path / "report.json").read_text()
    assert "the whole report: net/report.html" in err


def test_a_plan_is_printed_as_json(call, tmp_path, net_file):
    words = (
        "--weights",
        "none",
        "--input",
        "3x16x16",
        "--max-params",
        "0.5x",
        "--set",
        "plan.costs=counted",
        "--name",
        "n",
    )
    status, out, _ = call(tmp_path, "plan", f"{net_file}:build", *words, "--json")
    assert status == 0
    assert json.loads(out) == json.loads((tmp_path / "runs/n/plan.json").read_text())
    _, out, err = call(tmp_path, "plan", f"{net_file}:build", *words, "-q")
    assert out == ""
    # that code of the user's own runs is said in any voice
    assert err == f"running build() of {net_file}: code of yours, not checked\n"


def test_what_this_machine_can_do_is_printed_as_json(call, tmp_path):
    rows = json.loads(call(tmp_path, "doctor", "--json")[1])
    assert {"ability", "ready", "found", "cure", "needed"} == set(rows[0])


def test_quiet_prints_nothing_but_errors(call, tmp_path):
    report_run(tmp_path / "net")
    assert call(tmp_path, "report", "net", "--quiet") == (0, "", "")
    (tmp_path / "net/plan.json").write_text("{")
    status, out, err = call(tmp_path, "report", "net", "--quiet")
    assert (status, out) == (1, "")
    assert "plan.json is no JSON any more" in err


def test_one_commands_voice_is_not_the_nexts(call, tmp_path):
    report_run(tmp_path / "net")
    call(tmp_path, "report", "net", "--quiet", "--json")
    assert "net/report.html" in call(tmp_path, "report", "net")[2]


def test_verbose_shows_where_an_error_arose(call, tmp_path):
    with pytest.raises(ValueError, match="there is no list of 'x'"):
        call(tmp_path, "list", "x", "-v")
    with pytest.raises(RuntimeError, match="there is no such file"):
        call(tmp_path, "check", "-v")


@click.command()
@QUIET
def log():
    with Reporter().stage("Work") as advance:
        for moment in range(30):
            clock[0] = moment
            advance(moment, 30, "now")


clock = [0.0]


@pytest.mark.parametrize(("words", "lines"), [([], 3), (["-v"], 16), (["-q"], 0)])
def test_a_log_speaks_every_twenty_seconds_or_two(monkeypatch, capsys, words, lines):
    set_output(OutputOptions())
    clock[0] = 0
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    log.main(words, standalone_mode=False)
    assert len(capsys.readouterr().err.splitlines()) == lines
    set_output(OutputOptions())


def test_tables_are_as_wide_as_a_log_or_as_told(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    assert console().width == WIDTH
    monkeypatch.setenv("COLUMNS", "77")
    assert console().width == 77


@pytest.mark.skipif(os.name != "posix", reason="a pseudo-terminal is POSIX's")
@pytest.mark.parametrize(("extra", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_colours_and_its_own_width(tmp_path, extra, coloured):
    import pty
    import struct
    import subprocess
    import sys
    from fcntl import ioctl
    from termios import TIOCSWINSZ

    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 24, 60, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "NO_COLOR", "CI")}
    (tmp_path / "a.bin").write_bytes(b"12")
    (tmp_path / "budgets.toml").write_text('[[budget]]\nfiles = "a.bin"\nsize = "1 kB"\n')
    words = [sys.executable, "-m", "compress_export", "check"]
    subprocess.run(
        words, stdout=theirs, cwd=tmp_path, env={**environment, "TERM": "xterm-256color", **extra}, check=True
    )
    os.close(theirs)
    said = os.read(ours, 10_000).decode()
    assert ("\x1b[32mpassed" in said) == coloured
    assert max(len(line) for line in said.splitlines() if "\x1b" not in line) <= 60
