"""nn.Module -> TorchScript Lite .ptl, the legacy lane: its phone runtimes end at PyTorch 2.1."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from exporters.artifact import ExportError, Runner, Written
from exporters.toolkits import quiet, reason, versions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn
    from torch.export import ExportedProgram

    from exporters.lookup import Lookup

REQUIRES = ("torch",)
RUNTIME_MODULES, RUNTIME_PACKAGE = ("torch.jit.mobile",), "torch"

NEWEST_BYTECODE = 8
"""The bytecode version that the last phone runtimes (1.13 and 2.1) still load."""


def export(
    program: ExportedProgram,
    path: Path,
    lookups: Mapping[str, Lookup] | None = None,  # noqa: ARG001  # it has no look-up tables
) -> Written:
    """Writes `program` to `path` as float32 .ptl: traced, frozen, saved for the lite interpreter.

    Raises ExportError when tracing fails, or when this torch writes a bytecode newer than the phone runtimes read.
    """
    versions(REQUIRES)
    import torch
    from torch.jit.mobile import _get_model_bytecode_version

    from exporters.capture import input_shape

    with torch.no_grad(), quiet():
        try:
            module, image = program.module(check_guards=False), torch.zeros(input_shape(program))
            one = isinstance(module(image), torch.Tensor)
            traced = torch.jit.trace(module if one else _in_turn(module), image, check_trace=False)  # type: ignore[no-untyped-call]  # torch.jit is not annotated
            # The captured program is in eval mode by construction; freezing asks to hear it.
            torch.jit.freeze(traced.eval())._save_for_lite_interpreter(str(path))
        except RuntimeError as error:
            raise ExportError(
                f"TorchScript cannot trace the network: {reason(error)}; leave the ptl format out"
            ) from error
        bytecode = _get_model_bytecode_version(str(path))
    if not 0 < bytecode <= NEWEST_BYTECODE:
        raise ExportError(
            f"phone runtimes of TorchScript Lite read bytecode up to {NEWEST_BYTECODE}, torch {torch.__version__} "
            f"wrote {bytecode}; leave the ptl format out or install an older torch"
        )
    return Written()


def load(path: Path, threads: int) -> Runner:
    """A function that runs the .ptl in this process by the lite interpreter.

    `threads` is torch's own setting for the whole process.
    """
    versions(REQUIRES)
    import numpy as np
    import torch
    from torch.jit.mobile import _load_for_lite_interpreter

    from exporters.outputs import row_of

    torch.set_num_threads(threads)
    with quiet():
        module = _load_for_lite_interpreter(str(path))  # type: ignore[no-untyped-call]  # torch.jit is not annotated

    def run(image: NDArray[np.float32]) -> NDArray[np.float32]:
        with torch.no_grad():
            return row_of(module(torch.from_numpy(np.ascontiguousarray(image))))

    return run


def _in_turn(module: Callable[[Tensor], dict[str, Tensor]]) -> nn.Module:
    """The module with its outputs as a tuple, in their order: TorchScript's phone runtimes have no names for them."""
    from torch import nn

    class InTurn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = module

        def forward(self, image: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.network(image).values())

    return InTurn()
