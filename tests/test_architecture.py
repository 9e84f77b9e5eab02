"""The walls of the house: which package may import which, no cycles, no toolkit at start-up."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "compressor": set(),
    "exporters": set(),
    "bench": {"exporters"},
    "compress_export": {"compressor", "exporters", "bench"},
}
TOOLKITS = ("torch", "numpy", "executorch", "onnx", "onnxruntime", "coremltools", "timm", "sklearn", "rich")


def modules():
    for package in MAY_IMPORT:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, path


NAMES = {name for name, _ in modules()}


def imports_of(path, own):
    """Modules of ours that a file imports when it is itself imported, or inside functions (second value)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        node
        for block in ast.walk(tree)
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
    }
    in_functions = {
        node
        for function in ast.walk(tree)
        if isinstance(function, ast.FunctionDef)
        for node in ast.walk(function)
        if isinstance(node, ast.Import | ast.ImportFrom)
    }
    eager, lazy = set(), set()
    for node in ast.walk(tree):
        found = set()
        if isinstance(node, ast.Import):
            found = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{own} imports relatively; write the whole name"
            found = {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
        if node not in typing_only:
            (lazy if node in in_functions else eager).update(found)
    return eager & NAMES, lazy & NAMES


@pytest.mark.parametrize(("name", "path"), list(modules()), ids=[name for name, _ in modules()])
def test_import_arrows_point_one_way(name, path):
    package = name.split(".")[0]
    eager, lazy = imports_of(path, name)
    foreign = {imported.split(".")[0] for imported in eager | lazy} - {package}
    assert foreign <= MAY_IMPORT[package]


def test_no_import_cycle():
    graph = {name: imports_of(path, name)[0] - {name} for name, path in modules()}
    done, path = set(), []

    def visit(name):
        assert name not in path, f"cycle: {' -> '.join([*path, name])}"
        if name not in done:
            path.append(name)
            for imported in graph[name]:
                visit(imported)
            path.pop()
            done.add(name)

    for name in graph:
        visit(name)


@pytest.mark.parametrize(
    "module",
    ["compress_export.cli.main", "compress_export", "exporters.formats", "exporters.artifact", "bench.measurement"],
)
def test_start_up_imports_no_toolkit(module):
    code = f"import sys, {module}; print(*(name for name in {TOOLKITS!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("alexnet --format nope", "there is no format 'nope'"),
        ("alexnet --max-params 0.15", "'0.15' has no unit"),
        ("alexnet --device nope", "there is no device 'nope'"),
        ("alexnet --recipe nope", "there is no recipe 'nope'"),
        ("plan alexnet --max-drop 5", "'5' has no unit"),
        ("export runs/none --format nope", "there is no format 'nope'"),
    ],
)
def test_a_typing_error_is_told_before_a_toolkit_is_imported(words, says):
    code = "import atexit, sys; from compress_export.cli.main import main; "
    code += f"atexit.register(lambda: print(*(name for name in {TOOLKITS!r} if name in sys.modules))); main()"
    done = subprocess.run([sys.executable, "-c", code, *words.split()], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert says in done.stderr
    assert done.stdout.split() == []


def test_every_module_says_what_it_is_for():
    assert [name for name, path in modules() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_rooms_stay_small():
    long = {name: len(path.read_text().splitlines()) for name, path in modules()}
    assert {name: lines for name, lines in long.items() if lines > 500} == {}
