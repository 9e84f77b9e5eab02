"""Values that an export leaves behind, as artifacts.json keeps them: the file, its type and its parity."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import msgspec

from exporters.outputs import Kind, Output

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch.export import ExportedProgram

    Runner = Callable[[NDArray[np.float32]], NDArray[np.float32]]
else:
    # numpy is not needed to list the formats.
    Runner = Callable


@dataclass(frozen=True)
class Written:
    """A writer's knowledge of its file beyond the bytes.

    `not_delegated` names layers and `fallbacks` operators that run outside the fast backend (see Artifact).
    `inspected` says what was compared in the stored file without running it; "" where nothing was. `notes` are what
    its reader should know of it beside that. `tables` are the weights that it stores as codebook and indices.
    """

    dtype: str = "float32"
    not_delegated: tuple[str, ...] = ()
    fallbacks: tuple[str, ...] = ()
    inspected: str = ""
    notes: tuple[str, ...] = ()
    tables: tuple[str, ...] = ()


Verdict = Literal["passed", "failed", "not executed"]


LIMITS = {"float32": (1e-4, 1.0), "float16": (2e-2, 1.0), "int8": (0.1, 0.9)}
"""Greatest relative error and least agreement of classes that pass, by the type the file computes in.

float32 files are judged by their largest error, others by the root mean square of all their errors, and an int8 file is
held against the quantized program. float16 keeps 11 bits through every layer, and in int8 a runtime may round a value
that lies between two codes to the other one: a deep network can carry that on into a large error of one image (3 % of
the deviation in a ResNet-50 in float16, as in torch itself), while another bias or scale moves all of them.
"""


FEWEST_IMAGES = 8
"""Calibration on fewer images says nothing about the range of an activation."""


class ExportError(RuntimeError):
    """A network, a format or a toolkit that does not give a file; the text names the cure."""


class NotInterpretedError(ExportError):
    """A file that another system runs, with something that this one's interpreter lacks: it is not executed here."""


EQUAL_PIXELS = {"float32": 0.9999, "float16": 0.99, "int8": 0.9}
"""Least fraction of the pixels of a class map that get the same class: the borders between classes are near ties."""


@dataclass(frozen=True)
class OutputParity:
    """Numerical parity of one output: as in `Parity`, each by the standard deviation of this output. `agreement` is the
    fraction of images given the same class, or of pixels in a class map; None for values."""

    name: str
    kind: Kind
    max_error: float
    relative_error: float
    rms_error: float
    cosine: float
    agreement: float | None = None


@dataclass(frozen=True)
class Parity:
    """Numerical parity of a file's outputs with the module's, over `images` real images.

    `max_error` is the largest absolute difference of a logit; `relative_error` the same divided by the standard
    deviation of the module's logits over all images, `rms_error` the root mean square of all differences, divided so
    too; `cosine` the least over the images, of logits whose mean is removed; `top1_agreement` the fraction of images (0
    to 1) given the same class. A file that was not executed has None in all of them, and `note` says what was compared
    instead. `interpreter` names what executed it in place of its runtime, "" where that did.

    `outputs` holds these by output, where a network gives more or other than one row of logits; the figures above are
    then the worst of them, `top1_agreement` that of rows of logits and `equal_pixels` that of class maps, None where
    the network has none.
    """

    executed: bool
    images: int
    max_error: float | None
    relative_error: float | None
    cosine: float | None
    top1_agreement: float | None
    note: str = ""
    rms_error: float | None = None
    interpreter: str = ""
    equal_pixels: float | None = None
    outputs: tuple[OutputParity, ...] = ()

    def error(self, dtype: str) -> tuple[str, float | None]:
        """The error by which a file that computes in `dtype` is judged, after its name."""
        if dtype == "float32" or self.rms_error is None:
            return "relative error", self.relative_error
        return "RMS error", self.rms_error

    def verdict(self, dtype: str) -> Verdict:
        """The verdict on a file that computes in `dtype`: within LIMITS."""
        found = self.error(dtype)[1]
        if not self.executed or found is None:
            return "not executed"
        # A NaN compares false, hence fails.
        error, agreement = LIMITS[dtype]
        same_class = self.top1_agreement is None or self.top1_agreement >= agreement
        same_pixels = self.equal_pixels is None or self.equal_pixels >= EQUAL_PIXELS[dtype]
        return "passed" if found <= error and same_class and same_pixels else "failed"


@dataclass(frozen=True)
class Artifact:
    """One exported file (or .mlpackage folder).

    `bytes` and `sha256` are those of the file (`size_and_sha256`); `dtype` is what it stores and computes in; `input`
    the image's shape (1, C, H, W); `toolkits` the versions of the packages that made it. `not_delegated` names the
    convolutions and fully connected layers that the file runs outside its fast backend, `fallbacks` every operator
    there ("aten.cat (features.3)"); both are empty for formats that know no delegation. `outputs` are what the file
    gives, by name; files of earlier versions, which have one row of logits, say nothing of it.
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
    notes: tuple[str, ...] = ()
    outputs: tuple[Output, ...] = ()

    @property
    def verdict(self) -> Verdict:
        return "not executed" if self.parity is None else self.parity.verdict(self.dtype)


@dataclass(frozen=True)
class LayerType:
    """The number type of a convolution or fully connected layer in the quantized program, and the reason.

    `signal_to_noise` is that of the layer's outputs in dB, after all that was quantized before it.
    """

    layer: str
    dtype: str
    reason: str = ""
    signal_to_noise: float | None = None


@dataclass(frozen=True)
class Quantization:
    """One network's entry in quantization.json: on how many images at most and on how many it was calibrated, and what
    these are; the signal-to-noise ratio of its logits on them in dB, against the float32 network; the number type of
    each layer; the steps that were taken; what the settings asked of it beside that, by their names."""

    calibration: int
    images: int
    source: str
    signal_to_noise: float
    layers: tuple[LayerType, ...]
    notes: tuple[str, ...] = ()
    asked: Mapping[str, float] = field(default_factory=dict)


def number_type(program: ExportedProgram) -> str:
    """The type in which a captured program computes its layers: "int8" where it quantizes activations, "float16" where
    its weights are."""
    if any("quantize_per_tensor" in str(node.target) for node in program.graph.nodes):
        return "int8"
    halves = any(str(tensor.dtype) == "torch.float16" for tensor in program.state_dict.values())
    return "float16" if halves else "float32"


def write_whole(path: Path, content: str | bytes | memoryview) -> None:
    """Writes a file under a temporary name beside it and renames it, so that a file that exists is whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        partial.write_bytes(content.encode() if isinstance(content, str) else content)
        partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_artifacts(path: Path, artifacts: Iterable[Artifact]) -> None:
    """Writes artifacts.json: a list, one object for each file, complete or not at all.

    Paths are relative to its folder, so that a run can be moved.
    """
    rows = [
        replace(artifact, path=Path(os.path.relpath(artifact.path, path.parent)), toolkits=dict(artifact.toolkits))
        for artifact in artifacts
    ]
    write_whole(path, json.dumps(msgspec.to_builtins(rows, enc_hook=encode_path), indent=2) + "\n")


def read_artifacts(path: Path) -> tuple[Artifact, ...]:
    """The artifacts that `write_artifacts` wrote, paths joined to the folder of `path`.

    Raises ExportError when the file is not such a list; that the exported files exist is not checked.
    """
    try:
        rows = msgspec.json.decode(path.read_bytes(), type=tuple[Artifact, ...], dec_hook=decode_path)
        return tuple(replace(row, path=path.parent / row.path) for row in rows)
    except (OSError, ValueError, msgspec.MsgspecError) as error:
        raise ExportError(
            f"{path} is not a list of artifacts: {type(error).__name__}: {error}; "
            "`compress-export NETWORK --target all` writes one"
        ) from error


def encode_path(value: object) -> str:
    """A path as JSON text; msgspec knows none."""
    if isinstance(value, Path):
        return value.as_posix()
    raise TypeError(f"JSON has no {type(value).__name__}")


def decode_path(kind: type, value: object) -> object:
    """The path that `encode_path` wrote."""
    if kind is Path and isinstance(value, str):
        return Path(value)
    raise ValueError(f"{value!r} is no {kind.__name__}")


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
