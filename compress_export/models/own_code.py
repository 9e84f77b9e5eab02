"""Networks of a user's own code: "net.py:build", "pkg.models.net:build" -> the module that a function of it returns.

The code finds what it imports as a script started by python would: beside its file, and in the working folder. A file
of a package, whose folder has an __init__.py, is imported as a part of it, so that relative imports work.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

from torch import nn

from compress_export.errors import InputError, nearest

OUR_PACKAGES = ("compress_export", "compressor", "exporters", "bench")
"""Packages of this tool, whose names a user's own files may have too."""

OUR_HOME = Path(__file__).resolve().parents[2]


def build_own(name: str) -> nn.Module:
    """The module that a function returns, FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION. This runs the user's code, and
    says so. InputError with the code's own words if it fails, and if it returns something else."""
    network = _run(name, lambda build: build())
    if not isinstance(network, nn.Module):
        raise InputError(f"{name} returned {type(network).__name__}; it must return a torch.nn.Module")
    return network


def function_of(name: str) -> Callable[..., object]:
    """The function itself, which the caller calls. InputError as from `build_own`."""
    found = _run(name, lambda function: function)
    assert callable(found)  # it was found among the functions
    return found


def _run(name: str, use: Callable[[Callable[..., object]], object]) -> object:
    """The result of `use` on a function of the user's code."""
    place, _, function = name.rpartition(":")
    path = Path(place) if place.endswith(".py") else Path(*place.split(".")).with_suffix(".py")
    package = path.with_suffix("") / "__init__.py"
    if not path.is_file() and (place.endswith(".py") or not package.is_file()):
        raise InputError(f"{name}: there is no file {path}")
    home, module = Path.cwd(), place
    if place.endswith(".py"):
        home, module = path.resolve().parent, path.stem
        while (home / "__init__.py").is_file():
            home, module = home.parent, f"{home.name}.{module}"
    print(f"running {function}() of {place}: code of yours, not checked", file=sys.stderr)
    try:
        with _on_path(home, Path.cwd()):
            alone = path.is_file() and module == path.stem
            code = _script(path, module) if alone else importlib.import_module(module)
            build = getattr(code, function, None)
            if build is None:
                known = [each for each, value in vars(code).items() if callable(value) and not each.startswith("_")]
                raise InputError(f"{place} has no function {function}: {nearest(function, known)}")
            return use(build)
    except InputError:
        raise
    except (Exception, SystemExit) as error:  # the user's code may raise anything; its last line tells where
        frames = [frame for frame in traceback.extract_tb(error.__traceback__) if not frame.filename.startswith("<")]
        cure = ""
        if "relative import" in str(error):
            cure = f"; name it as a module of its package: {path.resolve().parent.name}.{path.stem}:{function}"
        raise InputError(
            f"{name} raised {type(error).__name__}: {error} ({frames[-1].filename}:{frames[-1].lineno}){cure}"
        ) from error


def _script(path: Path, name: str) -> ModuleType:
    """The file as a module of its own name, or of another one where a module that is loaded has that name."""
    name = f"users_{name}" if name in sys.modules or name in OUR_PACKAGES else name
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None  # a file named .py always has a loader
    assert spec.loader is not None
    code = importlib.util.module_from_spec(spec)
    sys.modules[name] = code  # dataclasses and pickles of the file look themselves up
    spec.loader.exec_module(code)
    return code


_imported: list[str] = []
"""Modules that the last user's code was made of: another folder's are imported anew, whatever their names."""

_searched: list[str] = []
"""The folders that the last user's code is searched in."""


@contextmanager
def _on_path(*folders: Path) -> Iterator[None]:
    """The user's folders first on the path, and their modules before ours of the same names. Afterwards the folders
    stay at its end, for what a forward pass imports, and our names are ours again."""
    for name in _imported:
        sys.modules.pop(name, None)
    for folder in _searched:
        if folder in sys.path:
            sys.path.remove(folder)
    before = set(sys.modules)
    shadowed = {name for name in OUR_PACKAGES if any(_shadowed(name, folder) for folder in folders)}
    hidden = {name: sys.modules.pop(name) for name in [*sys.modules] if name.partition(".")[0] in shadowed}
    _searched[:] = [text for text in dict.fromkeys(map(str, folders)) if text not in sys.path]
    sys.path[:0] = _searched
    try:
        yield
    finally:
        sys.path[:] = [folder for folder in sys.path if folder not in _searched] + _searched
        for name in [each for each in sys.modules if each.partition(".")[0] in shadowed]:
            del sys.modules[name]
        sys.modules.update(hidden)
        importlib.invalidate_caches()
        found = {name: Path(getattr(sys.modules[name], "__file__", None) or "") for name in {*sys.modules} - before}
        _imported[:] = [
            name
            for name, file in found.items()
            if name.partition(".")[0] not in OUR_PACKAGES
            and not file.is_relative_to(sys.prefix)
            and any(file.is_relative_to(folder) for folder in folders)
        ]


def _shadowed(package: str, folder: Path) -> bool:
    """True if a package of ours has the name of something else in the folder."""
    own = package in OUR_PACKAGES and folder != OUR_HOME
    return own and ((folder / f"{package}.py").is_file() or (folder / package).is_dir())
