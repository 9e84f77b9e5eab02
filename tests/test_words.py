"""One word for one thing, and the field's word where it has one: the retired words do not come back."""

import ast
import re
from pathlib import Path

import click
import pytest

from compress_export.cli.main import cli

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("compressor", "exporters", "bench", "compress_export")
SOURCES = sorted(path for folder in (*PACKAGES, "tests", "results") for path in (ROOT / folder).rglob("*.py"))
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").glob("*.md"),
        *ROOT.glob("compress_export/**/*.html"),
    ]
)

# Wherever they stand: code, comments, messages and pages. Each with what is said instead.
ANYWHERE = {
    r"crews?|crew\w*error": "process group",
    r"muster\w*|dismiss\w*": "initialize, shut down",
    r"work-?bench(es)?": "RunContext",
    r"wishes": "RunRequest",
    r"rungs?": "probe points",
    r"ladders?": "candidate ranks",
    r"haste": "required speed-up",
    r"hushed|loudness": "output options",
    r"answers? like": "matches the PyTorch model",
    r"answers? of (a|the|its) (network|model|module)s?|(network|model|module)('s|s')? answers?": "outputs, logits",
    r"(error|errors) of the spread|of the spread": "relative to the standard deviation of the logits",
}

# As names in code; as English words they may stand.
AS_NAMES = {
    r"evidence|trial": "PlanningProblem",
}

# As names in the packages; a test may put each thing in its place.
IN_PACKAGES = {
    r"settled": "verified",
    r"spoken|voices?": "output options",
    r"doubt|correction": "a name that says of what",
}


def names_of(tree):
    """Every name that a module gives or uses, with its line."""
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name) | ast.keyword(arg=str(name)):
                yield name, node.lineno
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield name, node.lineno


def retired(text, words):
    for pattern, instead in words.items():
        for found in re.finditer(rf"\b({pattern})\b", text, re.IGNORECASE):
            yield f"{found[0]!r} (say {instead})", text.count("\n", 0, found.start()) + 1


def shown(path):
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [path for path in SOURCES if path != Path(__file__)] + PAGES, ids=shown)
def test_retired_words_stay_away(path):
    text = path.read_text(encoding="utf-8")
    # A name in a text is looked at word by word, as if it were written with spaces.
    found = [f"{line}: {word}" for word, line in retired(text.replace("_", " "), ANYWHERE)]
    if path.suffix == ".py":
        words = AS_NAMES | (IN_PACKAGES if path.relative_to(ROOT).parts[0] in PACKAGES else {})
        for name, line in names_of(ast.parse(text)):
            found += [f"{line}: {word}" for word, _ in retired(name.lstrip("_"), words)]
    assert found == []


def commands(command, words=()):
    yield " ".join(words), command
    if isinstance(command, click.Group):
        for name, inner in command.commands.items():
            yield from commands(inner, (*words, name))


@pytest.mark.parametrize(("words", "command"), list(commands(cli)))
def test_retired_words_stay_out_of_help(words, command):
    text = " ".join(command.get_help(click.Context(command, info_name=words)).split())
    assert [word for word, _ in retired(text, ANYWHERE)] == []


@pytest.mark.parametrize("path", SOURCES, ids=shown)
def test_a_docstring_begins_with_the_thing(path):
    """Its first word is a verb or a noun of the field, never a question."""
    documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    tree = ast.parse(path.read_text(encoding="utf-8"))
    first = [(ast.get_docstring(node) or "").split("\n")[0] for node in ast.walk(tree) if isinstance(node, documented)]
    assert [line for line in first if re.match(r"(What|How|Whether|Which|Why|Where|Who|Whose|When)\b", line)] == []
