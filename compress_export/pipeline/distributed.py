"""Many processes, one run: torchrun starts them, the first leads, and the others do with it what it sends them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from compress_export.console import quietly
from compress_export.errors import InputError
from compress_export.pipeline.load import RunContext, load
from compress_export.progress import Reporter
from compress_export.run_directory import RunDirectory
from compressor.distributed import SINGLE_PROCESS, AccelerateGroup, ProcessGroup

JOIN, LEAVE = "join", "leave"
FILES = ("network.json", "original.safetensors")


def initialize(mixed_precision: bool = False) -> ProcessGroup:
    """Those who train together: the processes that torchrun started, one with a GPU, or one on the CPU.

    InputError for mixed precision without a CUDA GPU.
    """
    gpu = torch.cuda.is_available()
    if mixed_precision and not gpu:
        raise InputError(
            "fine_tune.mixed_precision trains in half precision on a CUDA GPU, and this machine has none; leave it out"
        )
    if not gpu and int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return SINGLE_PROCESS
    half = "bf16" if gpu and torch.cuda.is_bf16_supported() else "fp16"
    return AccelerateGroup(half if mixed_precision else "no")


def send(context: RunContext, job: str, *what: Any) -> None:
    """Tells the other processes to do a job; the caller then does it too."""
    context.group.broadcast((job, context.run.settings(), what))


def join(context: RunContext) -> None:
    """Gives the other processes, where there are any, the network that the run works on."""
    if context.group is SINGLE_PROCESS:
        return
    context.group.broadcast((JOIN, context.run.settings(), tuple((context.run / name).read_bytes() for name in FILES)))


def shut_down(group: ProcessGroup) -> None:
    """Ends the other processes, when all is done."""
    group.broadcast((LEAVE, {}, ()))


def serve(group: ProcessGroup, jobs: Mapping[str, Callable[..., object]]) -> None:
    """Does every job that the main process sends, in a run directory of its own, silently, until it is shut down."""
    context: RunContext | None = None
    with TemporaryDirectory() as folder, quietly(), redirect_stderr(StringIO()):
        run = RunDirectory(Path(folder))
        while True:
            job, settings, what = group.broadcast(("", dict[str, Any](), ()))
            if job == LEAVE:
                return
            run.write_json("settings.json", settings)
            if job == JOIN:
                contents: tuple[bytes, ...] = what
                for name, content in zip(FILES, contents, strict=True):
                    (run / name).write_bytes(content)
                source = run.stored().source
                assert source is not None  # the main process has loaded it
                context = load(run, source, Reporter(), group=group)
            else:
                jobs[job](context, *what)
