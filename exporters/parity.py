"""Numerical parity of a file with the PyTorch module: compare() is numbers only, check() runs the file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporters.artifact import LIMITS, ExportError, NotInterpretedError, OutputParity, Parity
from exporters.formats import find_format
from exporters.outputs import LOGITS, Output, rows_of, split
from exporters.toolkits import reason

if TYPE_CHECKING:
    from torch import nn
    from torch.export import ExportedProgram

Array = NDArray[np.float32]

TIES = {"float32": LIMITS["float32"][0], "float16": LIMITS["float16"][0], "int8": LIMITS["float32"][0]}
"""Logits of a module that differ by no more of their standard deviation are a tie, in which neither class is the wrong
one, by the type that the file computes in: the error that its logits may have. An int8 file is held against a program
that rounds as it does, and may differ in a tenth of the classes."""


def logits_of(module: nn.Module, images: Array) -> Array:
    """The module's own outputs in eval mode as rows (N, numbers), logits (N, classes) of a classifier: one image at a
    time, as the phone asks for them.

    `images` is float32 (N, C, H, W). The module's mode is left as it was.
    """
    import torch

    from exporters.capture import eval_mode

    with eval_mode(module), torch.no_grad():
        return np.concatenate([rows_of(module(torch.from_numpy(image[None]))) for image in images])


def logits_of_program(program: ExportedProgram, images: Array) -> Array:
    """The outputs of a captured program as rows (N, numbers), one image (N, C, H, W) at a time."""
    import torch

    graph = program.module(check_guards=False)
    with torch.no_grad():
        return np.concatenate([rows_of(graph(torch.from_numpy(image[None]))) for image in images])


def compare(given: Array, reference: Array, dtype: str = "float32", outputs: Sequence[Output] = ()) -> Parity:
    """The Parity of the logits `given` (N, classes) of a file that computes in `dtype` with the module's, `reference`;
    where there are `outputs`, of the rows (N, numbers) that hold them.

    Raises ExportError when the shapes differ, when there is no image, or when a logit is not finite.
    """
    if given.shape != reference.shape or given.ndim != 2 or not given.size:
        raise ExportError(
            f"logits to compare have one shape (images, classes); the file gave {given.shape}, "
            f"the module {reference.shape}"
        )
    for who, logits in (("the file", given), ("the module", reference)):
        broken = np.flatnonzero(~np.isfinite(logits).all(axis=1))
        if broken.size:
            raise ExportError(
                f"{who} gives logits that are not finite for {broken.size} of {len(logits)} images "
                f"(first: image {broken[0]}); look for weights that overflow before you export"
            )
    plain = len(outputs) == 0 or (len(outputs) == 1 and outputs[0].kind == "logits")
    if plain:
        outputs = (Output(LOGITS, given.shape[1:], "logits"),)
    ours, theirs = split(given, outputs), split(reference, outputs)
    found = [_compared(each, ours[each.name], theirs[each.name], dtype) for each in outputs]
    alike = [each.name for each in outputs if not float(theirs[each.name].std()) > 0]
    same = "the module gives the same logit everywhere" if plain else f"the module gives one number in {alike}"
    return Parity(
        executed=True,
        images=len(reference),
        max_error=max(each.max_error for each in found),
        relative_error=max(each.relative_error for each in found),
        cosine=min(each.cosine for each in found),
        top1_agreement=_least(found, "logits"),
        note=f"{same}, which proves nothing" if alike else "",
        rms_error=max(each.rms_error for each in found),
        equal_pixels=_least(found, "class map"),
        outputs=() if plain else tuple(found),
    )


def _least(found: Sequence[OutputParity], kind: str) -> float | None:
    return min((each.agreement for each in found if each.kind == kind and each.agreement is not None), default=None)


def _compared(output: Output, given: Array, reference: Array, dtype: str) -> OutputParity:
    """The parity of one output, (N, ...). Image by image: a class map in float64 for all images would not fit."""
    deviation = float(reference.std(dtype=np.float64))
    most = squares = agreeing = 0.0
    least = 1.0
    for ours, theirs in zip(given.astype(np.float32), reference, strict=True):
        one, other = ours.astype(np.float64), theirs.astype(np.float64)
        difference = np.abs(one - other)
        most, squares = max(most, float(difference.max())), squares + float(np.square(difference).sum())
        if output.kind != "values":
            chosen = np.take_along_axis(other, one.argmax(axis=0)[None], axis=0)[0]
            agreeing += float((other.max(axis=0) - chosen <= TIES[dtype] * deviation).mean())
            # the mean over the classes removed: softmax does not see it
            one, other = one - one.mean(axis=0), other - other.mean(axis=0)
        lengths = float(np.linalg.norm(one) * np.linalg.norm(other))
        equal = not np.any(one) and not np.any(other)
        least = min(least, 1.0 if equal else float((one * other).sum()) / (lengths or 1.0))
    scale = max(deviation, 1e-30)  # where all numbers are equal every error counts as a great one
    return OutputParity(
        output.name,
        output.kind,
        most,
        most / scale,
        math.sqrt(squares / reference.size) / scale,
        least,
        None if output.kind == "values" else agreeing / len(reference),
    )


def check(
    path: Path,
    format: str,
    images: Array,
    reference: Array,
    *,
    dtype: str = "float32",
    inspected: str = "",
    threads: int = 1,
    outputs: Sequence[Output] = (),
) -> Parity:
    """Parity of the file's outputs for `images` (N, C, H, W), each given alone, with the module's, `reference`;
    the file computes in `dtype`.

    Where this system has an interpreter in place of the format's runtime, `Parity.interpreter` names it, and the note
    ends with `inspected`: what the writer compared in the stored file. A file that it cannot interpret gives
    Parity(executed=False). Raises ExportError as `logits_of_file` and `compare` do.
    """
    kind = find_format(format)
    try:
        found = compare(logits_of_file(path, format, images, threads), reference, dtype, outputs)
    except NotInterpretedError as error:
        note = f"not executed on this system: {error}; {inspected or 'nothing was compared'}"
        return Parity(False, 0, None, None, None, None, note)
    if kind.runs_here:
        return found
    note = "; ".join(filter(None, (kind.interpreted, inspected, found.note)))
    return replace(found, note=note, interpreter=kind.interpreted)


def logits_of_file(path: Path, format: str, images: Array, threads: int = 1) -> Array:
    """The outputs of an exported file as rows (N, numbers), in its own runtime or in what stands in for it on this
    system, one image (N, C, H, W) at a time.

    Raises ExportError when the runtime refuses the file. Torch's thread count, which TorchScript's runtime sets, is the
    caller's again afterwards.
    """
    import torch

    kind, count = find_format(format), torch.get_num_threads()
    try:
        run = kind.writer.load(path, threads)
        return np.concatenate([run(np.ascontiguousarray(image[None])) for image in images])
    except ExportError:
        raise
    except Exception as error:  # each runtime has exceptions of its own
        raise ExportError(
            f"{kind.runtime} cannot run {path.name}: {reason(error)}; leave the {format} format out "
            "or replace the operator that it does not know"
        ) from error
    finally:
        torch.set_num_threads(count)
