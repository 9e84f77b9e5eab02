"""Numerical parity of a file with the PyTorch module: compare() is numbers only, check() runs the file."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporters.artifact import LIMITS, ExportError, NotInterpretedError, Parity
from exporters.formats import find_format
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
    """The module's own logits (N, classes) in eval mode, one image at a time as the phone asks for them.

    `images` is float32 (N, C, H, W). The module's mode is left as it was.
    """
    import torch

    from exporters.capture import eval_mode

    with eval_mode(module), torch.no_grad():
        return np.concatenate([module(torch.from_numpy(image[None])).numpy() for image in images])


def logits_of_program(program: ExportedProgram, images: Array) -> Array:
    """The logits (N, classes) of a captured program, one image (N, C, H, W) at a time."""
    import torch

    graph = program.module(check_guards=False)
    with torch.no_grad():
        return np.concatenate([graph(torch.from_numpy(image[None])).numpy() for image in images])


def compare(given: Array, reference: Array, dtype: str = "float32") -> Parity:
    """The Parity of the logits `given` (N, classes) of a file that computes in `dtype` with the module's, `reference`.

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
    ours, theirs = given.astype(np.float64), reference.astype(np.float64)
    error, deviation = float(np.abs(ours - theirs).max()), float(theirs.std())
    # Of each image's logits, their mean removed: softmax does not see the mean.
    centred = [logits - logits.mean(axis=1, keepdims=True) for logits in (ours, theirs)]
    lengths = [np.linalg.norm(logits, axis=1) for logits in centred]
    product = lengths[0] * lengths[1]
    cosines = (centred[0] * centred[1]).sum(axis=1) / np.where(product == 0, 1.0, product)
    cosines = np.where((lengths[0] == 0) & (lengths[1] == 0), 1.0, cosines)
    chosen = np.take_along_axis(theirs, ours.argmax(axis=1)[:, None], axis=1)[:, 0]
    return Parity(
        executed=True,
        images=len(reference),
        max_error=error,
        # where all logits are equal every error counts as a great one
        relative_error=error / max(deviation, 1e-30),
        cosine=float(cosines.min()),
        top1_agreement=float((theirs.max(axis=1) - chosen <= TIES[dtype] * deviation).mean()),
        note="" if deviation > 0 else "the module gives the same logit everywhere, which proves nothing",
        rms_error=float(np.sqrt(np.square(ours - theirs).mean())) / max(deviation, 1e-30),
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
) -> Parity:
    """Parity of the file's logits for `images` (N, C, H, W), each given alone, with the module's, `reference`;
    the file computes in `dtype`.

    Where this system has an interpreter in place of the format's runtime, `Parity.interpreter` names it, and the note
    ends with `inspected`: what the writer compared in the stored file. A file that it cannot interpret gives
    Parity(executed=False). Raises ExportError as `logits_of_file` and `compare` do.
    """
    kind = find_format(format)
    try:
        found = compare(logits_of_file(path, format, images, threads), reference, dtype)
    except NotInterpretedError as error:
        note = f"not executed on this system: {error}; {inspected or 'nothing was compared'}"
        return Parity(False, 0, None, None, None, None, note)
    if kind.runs_here:
        return found
    note = "; ".join(filter(None, (kind.interpreted, inspected, found.note)))
    return replace(found, note=note, interpreter=kind.interpreted)


def logits_of_file(path: Path, format: str, images: Array, threads: int = 1) -> Array:
    """The logits (N, classes) of an exported file in its own runtime, or in what stands in for it on this system, one
    image (N, C, H, W) at a time.

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
