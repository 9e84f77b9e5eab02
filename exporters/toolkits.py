"""Versions of installed toolkits, or the command that installs them; the one line of their errors that counts."""

from __future__ import annotations

import logging
import os
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version

from exporters.artifact import ExportError


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Version by package. ExportError names what is missing, with the command that installs it."""
    found: dict[str, str] = {}
    missing: list[str] = []
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            missing.append(package)
    if missing:
        names = " ".join(missing)
        raise ExportError(f"{' and '.join(missing)} is not installed; install it: python -m pip install {names}")
    return found


def reason(error: BaseException) -> str:
    """The first line of what a toolkit raised, without its colours: their messages run over pages.

    Some say only "failed to convert" and leave the operator to the exception that caused theirs: the cause counts.
    """
    while error.__cause__ is not None:
        error = error.__cause__
    lines = [line.strip() for line in re.sub(r"\x1b\[[0-9;]*m", "", str(error)).splitlines() if line.strip()]
    return (lines[0] if lines else type(error).__name__).rstrip(".;:")[:300]


@contextmanager
def quiet() -> Iterator[None]:
    """Silences warnings, logged ones too, while a toolkit works.

    They tell of what only its authors can change: deprecated calls among toolkits, versions not tested together, all of
    TorchScript. Whether the file is right is what parity and the stored weights say.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextmanager
def quiet_stderr() -> Iterator[None]:
    """Silences what a toolkit's C++ writes to this process's standard error, which no setting of theirs does."""
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
