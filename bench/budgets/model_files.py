"""Model files and runs under a budget, and the base that they are compared with."""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import tempfile
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from bench.budgets.limits import Budget, BudgetError, Budgets
from bench.file_contents.contents import ContentError, Contents
from bench.run_files import (
    COMPRESSED,
    GONE,
    ORIGINAL,
    RecordedAccuracy,
    RunError,
    RunFile,
    RunFiles,
    altered,
    network_of,
)
from exporters.artifact import Artifact, size_and_sha256, write_whole

BLOCK = 1 << 20


@dataclass(frozen=True)
class ModelFile:
    """A file under a budget, or a run as a whole (`path` is then its directory). `name` is the path from the root,
    `run` the one that recorded the file: None also for a file in a run's folder that it did not record."""

    name: str
    path: Path
    run: RunFiles | None

    @property
    def is_run(self) -> bool:
        return self.run is not None and self.run.path == self.path

    @property
    def network(self) -> str:
        """The network of a run's file; of the run as a whole the compressed one."""
        if self.is_run:
            return COMPRESSED
        assert self.artifact is not None, "a file has a run only where the run recorded it"
        return self.artifact.network

    @cached_property
    def artifact(self) -> Artifact | None:
        """The run's record of the file; None for a run as a whole, and for a file outside every run."""
        return None if self.run is None or self.is_run else self.run.artifact(self.path)

    @cached_property
    def original(self) -> ModelFile | None:
        """The original's file of the same format in the same run: of an int8 file too the one in float32, which it
        replaces."""
        if self.run is None or self.artifact is None:
            return None
        wanted = ORIGINAL, self.artifact.format
        found = next((row for row in self.run.artifacts if (row.network, row.format) == wanted), None)
        return (
            None if found is None else ModelFile(f"{Path(self.name).with_name(found.path.name)}", found.path, self.run)
        )

    @cached_property
    def measured(self) -> tuple[int, str]:
        """Bytes and sha256 of the file as it lies there now."""
        return size_and_sha256(self.path)

    @property
    def sha256(self) -> str:
        """As the run recorded it, which `problem` compares with the file; of a file outside every run, its own."""
        return self.measured[1] if self.artifact is None else self.artifact.sha256

    @cached_property
    def contents(self) -> Contents | None:
        """The file's weights and operators; None for a run and for a kind of file that no reader knows. ContentError
        if it is broken."""
        from bench.file_contents.readers import read  # a run opens no file

        return None if self.is_run else read(self.path)

    @cached_property
    def dtype(self) -> str:
        """The file's number type: as its run recorded it, else as its contents tell; "" where neither does."""
        if self.artifact is not None:
            return self.artifact.dtype
        return "" if self.problem is not None or self.contents is None else self.contents.number_type

    @cached_property
    def accuracy(self) -> RecordedAccuracy | None:
        """The file's own accuracy, in its runtime; of a run as a whole that of its compressed network in PyTorch. None
        where nobody measured it."""
        if self.run is None:
            return None
        return self.run.accuracy(self.network) if self.artifact is None else self.run.accuracy_of(self.artifact)

    @cached_property
    def problem(self) -> str | None:
        """Reason not to trust any figure of this file; None if it is whole and the one that its run recorded."""
        if self.is_run:
            return None
        if not self.path.exists():
            return GONE
        changed = "" if self.artifact is None else altered(self.path, self.artifact, self.measured[1])
        if changed:
            return changed
        try:
            _ = self.contents
        except ContentError as error:
            return str(error)
        return None

    @cached_property
    def shipped(self) -> int:
        """Bytes of the file as an app store ships it, deflated at level 9; of a folder, file by file."""
        if self.run is None:
            return _deflated(self.path)
        # The run remembers them by sha256: zlib's level 9 takes a second for 30 MB.
        known = self.run.read_json(RunFile.SHIPPED_BYTES, dict[str, int]) or {}
        if self.measured[1] not in known:
            known[self.measured[1]] = _deflated(self.path)
            # A run that may only be read is deflated anew each time, which costs seconds and changes no figure.
            with suppress(OSError):
                write_whole(self.run.path / RunFile.SHIPPED_BYTES, json.dumps(known, indent=2) + "\n")
        return known[self.measured[1]]


def find(budget: Budget, budgets: Budgets) -> list[ModelFile]:
    """The files and runs under the budget, in the order of names: for a run the run itself and its compressed files. Of
    a budget with a number type the files of that type, and those whose type cannot be told because they are broken.
    Empty if its pattern matches nothing. BudgetError, RunError if what it matches is no run, or of a newer version."""
    pattern, root = budget.pattern, budgets.root
    if Path(pattern).is_absolute():
        raise BudgetError(
            f"{budgets.path}, line {budget.line}: {pattern} begins at the root of the file system; patterns begin at "
            f"the folder of {budgets.path.name}"
        )
    try:
        paths = sorted(root.glob(pattern))
    except ValueError as error:
        raise BudgetError(f"{budgets.path}, line {budget.line}: {pattern!r} is no pattern: {error}") from error
    if budget.is_run:
        found = [subject for path in paths if path.is_dir() for subject in of_run(path, root)]
    else:
        # Files, and packages as one; nothing that lies inside a package.
        outside = [path for path in paths if not any(parent.suffix == ".mlpackage" for parent in path.parents)]
        files = [path for path in outside if path.is_file() or path.suffix == ".mlpackage"]
        found = [of_file(path, path.relative_to(root).as_posix()) for path in files]
    if budget.dtype is None:
        return found
    return [
        each
        for each in found
        if each.is_run or each.dtype == budget.dtype or (each.artifact is None and each.problem is not None)
    ]


def of_file(path: Path, name: str) -> ModelFile:
    """The file, with its run where one recorded it. RunError if the run cannot be read, or is of a newer version."""
    run = RunFiles.of(path)
    if run is not None:
        run.check()
    return ModelFile(name, path, run if run is not None and run.artifact(path) is not None else None)


def of_run(path: Path, root: Path) -> Iterator[ModelFile]:
    """The run at `path` as a whole, then its compressed files."""
    run = RunFiles(path)
    if not (path / RunFile.SETTINGS).is_file() and not (path / RunFile.ARTIFACTS).is_file():
        raise RunError(
            f"{path} is no run directory: it has no {RunFile.SETTINGS}; make one with `compress-export NETWORK`"
        )
    run.check()
    yield ModelFile(path.relative_to(root).as_posix(), path, run)
    for row in exported(run):
        place = run.place(row)
        yield ModelFile(Path(os.path.relpath(place, root)).as_posix(), place, run)


def exported(run: RunFiles) -> list[Artifact]:
    """The run's compressed files of every number type, as it recorded them."""
    return [row for row in run.artifacts if network_of(row.network) == COMPRESSED]


def beside(subject: ModelFile, base: Path) -> ModelFile | None:
    """The same file or run below `base` instead of the budgets' folder; None if it is not there."""
    path = base / subject.name
    if not path.exists():
        return None
    if not subject.is_run:
        return of_file(path, subject.name)
    run = RunFiles(path)
    run.check()
    return ModelFile(subject.name, path, run)


def _deflated(path: Path) -> int:
    def one(path: Path) -> int:
        packer, total = zlib.compressobj(9), 0
        with path.open("rb") as file:
            while block := file.read(BLOCK):
                total += len(packer.compress(block))
        return total + len(packer.flush())

    with ThreadPoolExecutor() as pool:
        return sum(pool.map(one, [path] if path.is_file() else (file for file in path.rglob("*") if file.is_file())))


@contextmanager
def base_folder(text: str | None, budgets: Budgets) -> Iterator[Path | None]:
    """The folder that stands for the budgets' own in the base: `text` itself if it is one, else the files of the git
    commit `text` in a folder that is removed afterwards. None without a base. BudgetError if it is neither."""
    if text is None or Path(text).is_dir():
        yield None if text is None else Path(text)
        return
    found = _git(budgets.root, text, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    commit = found.decode().strip()
    # Only the top folders that the patterns name are checked out.
    tops = sorted({PurePosixPath(budget.pattern).parts[0] for budget in budgets.budgets})
    wild = any(character in top for top in tops for character in "*?[")
    listed = _git(budgets.root, text, "ls-tree", "-z", "--name-only", commit, *([] if wild else tops))
    names = [name for name in listed.decode().split("\0") if name]
    with tempfile.TemporaryDirectory(prefix="compress-export-base-") as folder:
        if names:  # in a base without these files every file is new, and each verdict says so
            archive = _git(budgets.root, text, "archive", "--format=tar", commit, "--", *names)
            with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
                tar.extractall(folder, filter="data")
        yield Path(folder)


def _git(root: Path, text: str, *words: str) -> bytes:
    law = f"--base {text}: a base is a folder, or a commit of the git repository around {root.resolve()}"
    try:
        done = subprocess.run(["git", "-C", root, *words], capture_output=True, check=False)
    except FileNotFoundError:
        raise BudgetError(f"{law}; there is no such folder, and git is not installed: apt-get install git") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise BudgetError(f"{law}; it is neither{f' ({said[-1]})' if said else ''}. In CI, fetch the base first")
    return done.stdout
