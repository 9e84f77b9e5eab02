"""Many processes, one run: torchrun starts them, the first leads, and the others do with it what it sends them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

from compress_export.console import hushed
from compress_export.errors import InputError
from compress_export.pipeline.load import prepare
from compress_export.progress import Reporter
from compress_export.run_directory import RunDirectory
from compress_export.settings import SourceSettings
from compressor.distributed import ALONE, Accelerated, Crew

if TYPE_CHECKING:
    from compress_export.pipeline.compress import Workbench

JOIN, LEAVE = "join", "leave"
FILES = ("network.json", "original.safetensors")


def muster(mixed_precision: bool = False) -> Crew:
    """Those who train together: the processes that torchrun started, one with a GPU, or one on the CPU.

    InputError for mixed precision without a CUDA GPU.
    """
    gpu = torch.cuda.is_available()
    if mixed_precision and not gpu:
        raise InputError(
            "--mixed-precision trains in half precision on a CUDA GPU, and this machine has none; leave it out"
        )
    if not gpu and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return ALONE
    half = "bf16" if gpu and torch.cuda.is_bf16_supported() else "fp16"
    return Accelerated(half if mixed_precision else "no")


def send(bench: Workbench, job: str, *what: Any) -> None:
    """Tells the other processes to do a job; the caller then does it too."""
    bench.crew.agree((job, bench.run.settings(), what))


def join(bench: Workbench) -> None:
    """Gives the other processes, where there are any, the network that the run works on."""
    if bench.crew is ALONE:
        return
    bench.crew.agree((JOIN, bench.run.settings(), tuple((bench.run / name).read_bytes() for name in FILES)))


def dismiss(crew: Crew) -> None:
    """Ends the other processes, when all is done."""
    crew.agree((LEAVE, {}, ()))


def serve(crew: Crew, jobs: Mapping[str, Callable[..., object]]) -> None:
    """What a process that does not lead does: every job that is sent, in a run directory of its own, silently."""
    bench: Workbench | None = None
    with TemporaryDirectory() as folder, hushed(), redirect_stderr(StringIO()):
        run = RunDirectory(Path(folder))
        while True:
            job, settings, what = crew.agree(("", dict[str, Any](), ()))
            if job == LEAVE:
                return
            run.write_json("settings.json", settings)
            if job == JOIN:
                bench = _joined(run, settings["source"], what, crew)
            else:
                jobs[job](bench, *what)


def _joined(run: RunDirectory, stored: dict[str, Any], contents: tuple[bytes, ...], crew: Crew) -> Workbench:
    from compress_export.pipeline.compress import Workbench

    for name, content in zip(FILES, contents, strict=True):
        (run / name).write_bytes(content)
    fields: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in stored.items()}
    source = SourceSettings(**fields)
    reporter = Reporter()
    return Workbench(run, reporter, prepare(run, source, reporter, crew=crew), source.seed, crew=crew)
