"""README.md and docs/: every command is one that the command line takes, and is run; every table is measured."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from compress_export.cli.main import cli, main

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- not run: [^\n]+ -->\n)?```(\w+)\n(.*?)```", re.DOTALL)


def blocks(language, all_of_them=False):
    """(page, text) of every block in that language that is to be run."""
    for page in PAGES:
        for skipped, found, text in BLOCK.findall(page.read_text(encoding="utf-8")):
            if found == language and (all_of_them or not skipped):
                yield page.name, text


def commands(all_of_them=False):
    """(page, command) of the blocks that are to be run, or of all blocks and of the running text."""
    inline = [
        (page.name, words)
        for page in PAGES
        for words in re.findall(r"`(compress-export [^`]*)`", page.read_text(encoding="utf-8"))
        if all_of_them and not re.search(r"\b[A-Z]{3,}\b", words)
    ]
    lines = [(page, line) for page, text in blocks("sh", all_of_them) for line in text.splitlines()]
    return [row for row in [*lines, *inline] if row[1].startswith("compress-export ")]


@pytest.mark.parametrize(("page", "line"), commands(all_of_them=True))
def test_every_command_is_one_that_the_command_line_takes(page, line):
    assert page
    words = shlex.split(line)[1:]
    with click.Context(cli, info_name="compress-export") as context:
        cli.parse_args(context, list(words))
        name, command, rest = cli.resolve_command(context, [*context._protected_args, *context.args])
        assert name
        if "--help" not in rest:
            command.make_context(name, rest, parent=context)


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = {line for _, text in blocks("sh") for line in text.splitlines() if line.startswith("make ")}
    assert targets == {"make demo", "make test"}
    assert all(f"\n{target.removeprefix('make ')}:" in makefile for target in targets)


def test_ci_runs_the_readmes_test_command():
    assert (ROOT / ".ci" / "run").read_text().strip().endswith("make test")


def test_the_tables_are_those_of_the_results():
    sys.path.insert(0, str(ROOT / "results"))
    from tables import PAGES as pages
    from tables import filled

    for page in pages:
        assert filled(page) == (ROOT / page).read_text(encoding="utf-8")


def test_every_row_of_the_results_has_its_command():
    text = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    without = set()
    for name, table in re.findall(r"<!-- table: (\w+) -->\n(.*?)\n<!-- end -->", text, re.DOTALL):
        head, _, *rows = table.splitlines()
        if head.endswith("| command |"):
            assert all(re.search(r"\| `(compress-export|python) [^`|]+` \|$", row) for row in rows)
        else:
            without.add(name)
    assert without == {"tpm"}  # one command makes all its rows: it stands above


def test_every_link_leads_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_every_option_is_documented_in_help():
    for command in cli.commands.values():
        assert command.help
        for option in command.params:
            if isinstance(option, click.Option):
                assert option.help, f"{command.name} {option.name}"


@pytest.fixture(scope="module")
def folder(demo, tmp_path_factory):
    """A copy of the demo for the commands to change; the weights, which no command changes in place, are linked."""

    def take(source, target):
        return (os.link if Path(source).suffix == ".safetensors" else shutil.copy2)(source, target)

    copy = tmp_path_factory.mktemp("documents") / "demo"
    shutil.copytree(demo, copy, copy_function=take)
    return copy


@pytest.mark.slow
@pytest.mark.parametrize(("page", "line"), commands())
def test_every_command_runs(page, line, folder, monkeypatch, capsys):
    assert page
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", shlex.split(line))
    try:
        main()
        status = 0
    except SystemExit as stop:
        status = stop.code
    assert not status, capsys.readouterr().err


PRINTED = {"steps.md": "parity passed", "sharing.md": "parity passed", "export.md": "same class: True"}
"""The output of each page's block of Python when all is well."""


@pytest.mark.slow
@pytest.mark.parametrize(("page", "text"), list(blocks("python")))
def test_every_python_block_runs(page, text, folder):
    """In a process of its own, as a user's script: there no toolkit is imported yet, and a warning is none of ours."""
    done = subprocess.run([sys.executable, "-c", text], cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert PRINTED[page] in done.stdout
