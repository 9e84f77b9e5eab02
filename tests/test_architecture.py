"""The walls of the house: which package and which folder may import which, no cycles, no toolkit at start-up."""

import ast
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "compressor": set(),
    "exporters": set(),
    "bench": {"exporters"},
    "compress_export": {"compressor", "exporters", "bench"},
}
# The folders of a package from the lowest to the highest; its root is below them all, but for a module that is named.
ORDER = {
    "compressor": ("decompositions", "surgery.py", "weight_sharing", "planning", "training"),
    "exporters": ("quantization", "mil", "writers", "formats.py", "parity.py", "export.py", "export_all.py"),
    "bench": ("file_contents", "host", "runner", "budgets", "simulator", "phone", "profile", "devices.py"),
    "compress_export": ("models", "data", "latency", "reporting", "pipeline", "study", "cli", "__main__.py"),
}
TOOLKITS = ("torch", "numpy", "executorch", "onnx", "onnxruntime", "coremltools", "timm", "sklearn", "rich")


@dataclass(frozen=True)
class Imports:
    """Modules of ours that a file imports when it is itself imported, inside functions, and for types only."""

    at_start: set[str]
    in_functions: set[str]
    for_types: set[str]

    @property
    def all(self):
        return self.at_start | self.in_functions | self.for_types


def modules():
    for package in MAY_IMPORT:
        for path in sorted((ROOT / package).rglob("*.py")):
            name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
            yield name, path


PATHS = dict(modules())


def imports_of(name):
    tree = ast.parse(PATHS[name].read_text(encoding="utf-8"))
    for_types = nodes_below(tree, lambda node: isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test))
    in_functions = nodes_below(tree, lambda node: isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    found = Imports(set(), set(), set())
    for node in ast.walk(tree):
        names = set()
        if isinstance(node, ast.Import):
            names = {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} imports relatively; write the whole name"
            whole = {alias.name: f"{node.module}.{alias.name}" for alias in node.names}
            names = {full if full in PATHS else node.module for full in whole.values()}
        kind = found.in_functions if node in in_functions else found.at_start
        (found.for_types if node in for_types else kind).update(names & PATHS.keys() - {name})
    return found


def nodes_below(tree, wanted):
    return {below for node in ast.walk(tree) if wanted(node) for below in ast.walk(node)}


IMPORTS = {name: imports_of(name) for name in PATHS}


def folder_of(name):
    """The folder of a module in its package, or its own file where ORDER names that."""
    path = PATHS[name].relative_to(ROOT / name.split(".")[0])
    return path.as_posix() if path.as_posix() in ORDER[name.split(".")[0]] else path.parent.as_posix()


def longest_chain(package, chains):
    """The longest chain of modules of a package in which each imports the next when it is itself imported."""

    def below(name):
        if name not in chains:
            inside = (imported for imported in IMPORTS[name].at_start if imported.split(".")[0] == package)
            chains[name] = [name, *max(map(below, inside), key=len, default=[])]
        return chains[name]

    return max((below(name) for name in PATHS if name.split(".")[0] == package), key=len)


@pytest.mark.parametrize("name", PATHS)
def test_import_arrows_point_one_way(name):
    package = name.split(".")[0]
    foreign = {imported.split(".")[0] for imported in IMPORTS[name].all} - {package}
    assert foreign <= MAY_IMPORT[package]


@pytest.mark.parametrize("package", ORDER)
def test_no_folder_imports_a_higher_one(package):
    order = (".", *ORDER[package])
    inside = [name for name in PATHS if name.split(".")[0] == package]
    assert {folder_of(name) for name in inside} <= {*order}
    upward = [
        f"{name} -> {imported}"
        for name in inside
        for imported in sorted(IMPORTS[name].all & {*inside})
        if order.index(folder_of(imported)) > order.index(folder_of(name))
    ]
    assert upward == []


def test_no_import_cycle():
    """Neither at start, nor through imports inside functions or for types."""
    done, path = set(), []

    def visit(name):
        assert name not in path, f"cycle: {' -> '.join([*path, name])}"
        if name not in done:
            path.append(name)
            for imported in sorted(IMPORTS[name].all):
                visit(imported)
            path.pop()
            done.add(name)

    for name in IMPORTS:
        visit(name)


@pytest.mark.parametrize(("package", "most"), [("compress_export", 9), ("compressor", 10)])
def test_import_chains_stay_short(package, most):
    chain = longest_chain(package, {})
    assert len(chain) <= most, " -> ".join(chain)


def test_a_run_imports_few_modules_of_ours():
    """Devices and formats are imported when they are used."""
    code = "import sys, compress_export.pipeline.run; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    ours = [name for name in done.stdout.split() if name.split(".")[0] in MAY_IMPORT]
    assert len(ours) <= 120, "\n".join(sorted(ours))


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
    assert [name for name, path in PATHS.items() if not ast.get_docstring(ast.parse(path.read_text()))] == []


def test_files_stay_readable():
    lines = {name: len(path.read_text().splitlines()) for name, path in PATHS.items()}
    assert {name: count for name, count in lines.items() if count > 500} == {}


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_folders_stay_small(package):
    files = Counter(path.parent.as_posix() for path in (ROOT / package).rglob("*.py"))
    assert {folder: count for folder, count in files.items() if count > 14} == {}
