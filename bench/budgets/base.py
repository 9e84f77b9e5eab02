"""What a pull request is compared with: a folder, or a commit of the repository that the budgets lie in."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from bench.budgets.limits import BudgetError, Budgets


@contextmanager
def base_folder(text: str | None, budgets: Budgets) -> Iterator[Path | None]:
    """The folder that stands for the budgets' own in the base: `text` itself if it is one, else the files of the git
    commit `text` in a folder that is removed afterwards. None without a base. BudgetError if it is neither."""
    if text is None or Path(text).is_dir():
        yield None if text is None else Path(text)
        return
    commit = _git(budgets.root, text, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{text}^{{commit}}")
    with tempfile.TemporaryDirectory(prefix="compress-export-base-") as folder:
        _check_out(budgets, text, commit.decode().strip(), Path(folder))
        yield Path(folder)


def _check_out(budgets: Budgets, text: str, commit: str, folder: Path) -> None:
    """Writes what the commit holds of the top folders that the patterns name."""
    tops = sorted({PurePosixPath(budget.pattern).parts[0] for budget in budgets.budgets})
    wild = any(character in top for top in tops for character in "*?[")
    listed = _git(budgets.root, text, "ls-tree", "-z", "--name-only", commit, *([] if wild else tops))
    names = [name for name in listed.decode().split("\0") if name]
    if not names:
        return  # a base without these files: every file is new, and each verdict says so
    archive = _git(budgets.root, text, "archive", "--format=tar", commit, "--", *names)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        tar.extractall(folder, filter="data")


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
