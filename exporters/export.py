"""export(): a module -> one file in this process, checked. For several files see export_all."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from exporters import parity
from exporters.artifact import Artifact, ExportError, move, number_type, size_and_sha256
from exporters.formats import check_dtype, find_format
from exporters.outputs import Output, outputs_of
from exporters.toolkits import versions

if TYPE_CHECKING:
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from exporters.lookup import Lookup

Array = NDArray[np.float32]


def export(
    module: nn.Module,
    example: Tensor,
    format: str,
    path: Path | str,
    *,
    dtype: str = "float32",
    network: str = "compressed",
    images: Array | None = None,
    reference: Array | None = None,
    calibration: Array | None = None,
) -> Artifact:
    """The Artifact of a file at `path` that computes what `module` does in eval mode.

    `example` is a float32 batch (N, C, H, W) that sets the shape; `format` a name in FORMATS. With `images`
    (N, C, H, W) the file is run on each and compared with `reference`, rows of outputs, by default the module's own;
    without them `Artifact.parity` is None. Raises ExportError; then no file is written.

    Layers compute in `dtype`, one of the format's `dtypes` ("float32" in a CoreML file is float16 too). "int8" wants
    `calibration`, real images (N, C, H, W) (see `quantization.post_training.quantize`); the file is then compared with
    the quantized program, and how near that is to the module is the caller's to measure.
    """
    from exporters.capture import capture

    check_dtype(format, dtype)
    if dtype == "int8" and calibration is None:
        raise ExportError("int8 is calibrated on real images, and there are none; pass calibration=images (N, C, H, W)")
    if dtype != "int8" and calibration is not None:
        raise ExportError(f"images to calibrate on are for int8, not for {dtype}; pass dtype='int8' or leave them out")
    program = capture(module, example)
    if calibration is not None:
        from exporters.quantization.post_training import quantize

        program = quantize(program, calibration).program
        reference = None if images is None else parity.logits_of_program(program, images)
    elif images is not None and reference is None:
        reference = parity.logits_of(module, images)
    if dtype == "float16":
        from exporters.quantization.half import halve

        program = halve(program, images)
    return export_program(program, format, Path(path), network=network, images=images, reference=reference)


def export_program(
    program: ExportedProgram,
    format: str,
    path: Path,
    *,
    network: str = "compressed",
    images: Array | None = None,
    reference: Array | None = None,
    outputs: Sequence[Output] = (),
    lookups: Mapping[str, Lookup] | None = None,
    progress: Callable[[str], None] = lambda _stage: None,
) -> Artifact:
    """As `export`, of a captured program. `outputs` say what its outputs hold, by default what `outputs_of` says.
    `progress` is called with each stage that begins: "exporting", "checking".

    `lookups` are weights that are known as indices and codebook, by name; a note says which of them the file stores so.
    """
    from exporters.capture import input_shape

    kind = find_format(format)
    if path.suffix != f".{kind.suffix}":
        raise ExportError(f"a {kind.title} file is called *.{kind.suffix}, not {path.name}; rename it")
    check_dtype(format, number_type(program))
    outputs = tuple(outputs) or outputs_of(program)
    toolkits = versions(kind.writer.REQUIRES)
    # A folder of its own beside the target: toolkits choose names by the path they are given, and a rename is atomic.
    with tempfile.TemporaryDirectory(prefix=".exporting-", dir=path.parent) as scratch:
        partial = Path(scratch) / path.name
        progress("exporting")
        written = kind.writer.export(program, partial, lookups)
        progress("checking")
        checked = None
        if images is not None and reference is not None:
            dtype = written.dtype
            checked = parity.check(
                partial, format, images, reference, dtype=dtype, inspected=written.inspected, outputs=outputs
            )
        size, digest = size_and_sha256(partial)
        move(partial, path)
    return Artifact(
        path=path,
        network=network,
        format=format,
        bytes=size,
        sha256=digest,
        dtype=written.dtype,
        input=input_shape(program),
        toolkits=toolkits,
        not_delegated=written.not_delegated,
        fallbacks=written.fallbacks,
        parity=checked,
        notes=(*written.notes, *_storage(lookups or {}, written.tables)),
        outputs=outputs,
    )


def _storage(names: Collection[str], tables: Collection[str]) -> Iterator[str]:
    """Sentences on how weights that are known as indices and codebook are stored."""
    dense = [name for name in names if name not in tables]
    if tables:
        yield f"stored as codebook and indices: {', '.join(tables)}"
    if dense:
        yield f"shared, but stored as ordinary weights: {', '.join(dense)}"
