"""FORMATS: the suffix and the runtime of each format, and the functions that write and run its files.

Imports no toolkit and no torch: the front door lists FORMATS to print its help.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from exporters.artifact import LIMITS, ExportError, Runner, Written
from exporters.writers import to_coreml, to_executorch, to_litert, to_onnx, to_torchscript

if TYPE_CHECKING:
    from torch.export import ExportedProgram

    from exporters.lookup import Lookup


class Writer(Protocol):
    """A module of exporters/writers.

    `export(program, path, lookups)` writes the file and checks what can be checked without running it; where the format
    has look-up tables, the weights named in `lookups` are stored as such. `load(path, threads)` gives a function from
    one float32 image (1, C, H, W) to logits (1, classes). REQUIRES are the pip packages that both need; RUNTIME_MODULES
    those that `load` imports, RUNTIME_PACKAGE the one whose version is the runtime's.
    """

    @property
    def REQUIRES(self) -> tuple[str, ...]: ...

    @property
    def RUNTIME_MODULES(self) -> tuple[str, ...]: ...

    @property
    def RUNTIME_PACKAGE(self) -> str: ...

    def export(self, program: ExportedProgram, path: Path, lookups: Mapping[str, Lookup] | None = None) -> Written: ...

    def load(self, path: Path, threads: int) -> Runner: ...


@dataclass(frozen=True)
class Format:
    """One kind of file, written and run by `writer`.

    `system` is the only `sys.platform` that has the runtime, None where every one does: on others the file is
    interpreted, which gives its logits, and no times. `effort` is the CPU time
    of an AlexNet in s: the formats that take longest are started first. `dtypes` are the number types whose programs it
    takes, keys of `artifact.LIMITS`; `refused` says of each other one why not. `computes` is the type in which its
    files of float32 programs compute.
    """

    suffix: str
    title: str
    runtime: str
    writer: Writer
    effort: float
    system: str | None = None
    dtypes: tuple[str, ...] = tuple(LIMITS)
    refused: Mapping[str, str] = field(default_factory=dict)
    computes: str = "float32"

    @property
    def runs_here(self) -> bool:
        """True where this system has the runtime, so that times are the file's own."""
        return self.system in (None, sys.platform)

    @property
    def interpreted(self) -> str:
        """The mark of figures that an interpreter gave, "" where the runtime does."""
        return "" if self.runs_here else f"interpreted, not {self.runtime}"


FORMATS: dict[str, Format] = {
    "pte": Format(
        suffix="pte",
        title="ExecuTorch",
        runtime="ExecuTorch, XNNPACK delegate",
        writer=to_executorch,
        effort=19,
    ),
    "onnx": Format(
        suffix="onnx",
        title="ONNX",
        runtime="ONNX Runtime",
        writer=to_onnx,
        effort=14,
    ),
    "tflite": Format(
        suffix="tflite",
        title="LiteRT",
        runtime="LiteRT, XNNPACK delegate",
        writer=to_litert,
        effort=22,
    ),
    "ptl": Format(
        suffix="ptl",
        title="TorchScript Lite",
        runtime="PyTorch lite interpreter",
        writer=to_torchscript,
        effort=9,
        dtypes=("float32",),
        refused={
            "float16": "its last phone runtimes (PyTorch 1.13 and 2.1) have no float16 convolution on a CPU",
            "int8": "its phone runtimes end at PyTorch 2.1, before the operators of a quantized program",
        },
    ),
    "mlpackage": Format(
        suffix="mlpackage",
        title="CoreML",
        runtime="Core ML",
        writer=to_coreml,
        effort=24,
        system="darwin",
        computes=to_coreml.DTYPE,
    ),
}

TARGETS: dict[str, tuple[str, ...]] = {
    "android": ("pte", "onnx", "tflite", "ptl"),
    "ios": ("mlpackage",),
    "all": ("pte", "onnx", "tflite", "ptl", "mlpackage"),
}


def find_format(name: str) -> Format:
    """The format of that name; ExportError gives the nearest real names."""
    if name not in FORMATS:
        raise ExportError(_unknown("format", name, FORMATS))
    return FORMATS[name]


def check_dtype(format: str, dtype: str) -> None:
    """ExportError when no file of that format is written from a program of that number type, or there is no such type.

    The text gives the reason and the formats that take it.
    """
    if dtype not in LIMITS:
        raise ExportError(_unknown("number type", dtype, LIMITS))
    kind = find_format(format)
    if dtype not in kind.dtypes:
        takes = ", ".join(name for name, other in FORMATS.items() if dtype in other.dtypes)
        raise ExportError(f"{kind.title} files are not written in {dtype}: {kind.refused[dtype]}; pass one of {takes}")


def find_target(name: str) -> tuple[str, ...]:
    """The formats of that target; ExportError gives the nearest real names."""
    if name not in TARGETS:
        raise ExportError(_unknown("target", name, TARGETS))
    return TARGETS[name]


def _unknown(kind: str, name: str, known: Iterable[str]) -> str:
    names = tuple(known)
    near = get_close_matches(name, names, n=2, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else "choose one of these"
    return f"there is no {kind} {name!r}; {hint} ({kind}s: {', '.join(names)})"
