"""What an export leaves behind: a file, what it is, and how near its answers are. Frozen values and artifacts.json."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
else:
    # numpy is not needed to list the formats.
    Runner = Callable


@dataclass(frozen=True)
class Written:
    """What a writer knows of its file beyond the bytes.

    `not_delegated` names layers and `fallbacks` operators that run outside the fast backend (see Artifact).
    `inspected` says what was compared in the stored file without running it; "" where nothing was.
    """

    dtype: str = "float32"
    not_delegated: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    inspected: str = ""


Verdict = Literal["passed", "failed", "not executed"]


LIMITS = {"float32": 1e-4, "float16": 2e-2}
"""Greatest relative error that passes, by the type the file computes in. float16 keeps 11 bits through every layer."""


class ExportError(RuntimeError):
    """A network, a format or a toolkit that does not give a file; the text names the cure."""


@dataclass(frozen=True)
class Parity:
    """How near a file's logits are to the module's, over `images` real images.

    `max_error` is the largest absolute difference of a logit; `relative_error` the same divided by the standard
    deviation of the module's logits over all images (their spread); `cosine` the least over the images, of logits
    whose mean is removed; `top1_agreement` the share of images (0 to 1) given the same class. A file that was not
    executed has None in all four, and `note` says what was compared instead.
    """

    executed: bool
    images: int
    max_error: float | None
    relative_error: float | None
    cosine: float | None
    top1_agreement: float | None
    note: str = ""

    def verdict(self, dtype: str) -> Verdict:
        """The verdict on a file that computes in `dtype`: passed within LIMITS, and with the same class every time."""
        if not self.executed or self.relative_error is None or self.top1_agreement is None:
            return "not executed"
        # A NaN compares false, hence fails.
        return "passed" if self.relative_error <= LIMITS[dtype] and self.top1_agreement == 1.0 else "failed"


@dataclass(frozen=True)
class Artifact:
    """One exported file (or .mlpackage folder).

    `bytes` and `sha256` are those of the file (`size_and_sha256`); `dtype` is what it stores and computes in; `input`
    the image's shape (1, C, H, W); `toolkits` the versions of the packages that made it. `not_delegated` names the
    convolutions and fully connected layers that the file runs outside its fast backend, `fallbacks` every operator
    there ("aten.cat (features.3)"); both are empty for formats that know no delegation.
    """

    path: Path
    network: str
    format: str
    bytes: int
    sha256: str
    dtype: str
    input: tuple[int, ...]
    toolkits: Mapping[str, str]
    not_delegated: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    parity: Parity | None = None
    notes: tuple[str, ...] = field(default=())

    @property
    def verdict(self) -> Verdict:
        return "not executed" if self.parity is None else self.parity.verdict(self.dtype)

    def to_row(self, folder: Path) -> dict[str, Any]:
        """The artifact as a JSON object, its path relative to `folder` (where artifacts.json will lie)."""
        row = asdict(self)
        return row | {
            "path": Path(os.path.relpath(self.path, folder)).as_posix(),
            "toolkits": dict(self.toolkits),
        }

    @staticmethod
    def from_row(row: Mapping[str, Any], folder: Path) -> Artifact:
        """The artifact that `to_row` wrote. KeyError, TypeError or ValueError where it is none."""
        return Artifact(
            path=folder / str(row["path"]),
            network=str(row["network"]),
            format=str(row["format"]),
            bytes=int(row["bytes"]),
            sha256=str(row["sha256"]),
            dtype=str(row["dtype"]),
            input=tuple(int(size) for size in row["input"]),
            toolkits={str(name): str(version) for name, version in row["toolkits"].items()},
            not_delegated=tuple(row["not_delegated"]),
            fallbacks=tuple(row["fallbacks"]),
            parity=None if row["parity"] is None else Parity(**row["parity"]),
            notes=tuple(row["notes"]),
        )


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Writes a file under a temporary name beside it and renames it, so that a file that exists is whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_artifacts(path: Path, artifacts: Iterable[Artifact]) -> None:
    """Writes artifacts.json: a list, one object for each file, complete or not at all."""
    rows = [artifact.to_row(path.parent) for artifact in artifacts]
    write_whole(path, json.dumps(rows, indent=2) + "\n")


def read_artifacts(path: Path) -> tuple[Artifact, ...]:
    """The artifacts that `write_artifacts` wrote, paths joined to the folder of `path`.

    Raises ExportError when the file is not such a list; that the exported files exist is not checked.
    """
    try:
        rows: Any = json.loads(path.read_text(encoding="utf-8"))
        return tuple(Artifact.from_row(row, path.parent) for row in rows)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise ExportError(
            f"{path} is not a list of artifacts: {type(error).__name__}: {error}; "
            "`compress-export NETWORK --target all` writes one"
        ) from error


def size_and_sha256(path: Path) -> tuple[int, str]:
    """Bytes and sha256 of a file; of a folder the sum over its files, and one hash over sorted names and contents."""
    if not path.is_dir():
        with path.open("rb") as file:
            return path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
    total, digest = 0, hashlib.sha256()
    for file_path in sorted(entry for entry in path.rglob("*") if entry.is_file()):
        size, content = size_and_sha256(file_path)
        # Name and content are both of known length here, so no two folders can share a stream.
        digest.update(hashlib.sha256(file_path.relative_to(path).as_posix().encode()).digest())
        digest.update(bytes.fromhex(content))
        total += size
    return total, digest.hexdigest()


def size_in_bytes(path: Path) -> int:
    """Bytes of a file or a folder, as `size_and_sha256` counts them, without reading it."""
    files = [path] if path.is_file() else [entry for entry in path.rglob("*") if entry.is_file()]
    return sum(entry.stat().st_size for entry in files)


def move(partial: Path, path: Path) -> None:
    """Puts a complete file or folder in place of whatever lay at `path`. Both must be on one file system."""
    if path.is_dir():
        shutil.rmtree(path)
    partial.replace(path)
