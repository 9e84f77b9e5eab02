"""One run in many processes: torchrun starts them, and all but the main one do the jobs that it broadcasts."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from bench.run_files import RunFile
from compress_export.console import Reporter, quietly
from compress_export.errors import InputError
from compress_export.pipeline.load import RunContext, load, stored_source
from compress_export.run_directory import RunDirectory, RunSettings
from compress_export.settings import SourceSettings
from compressor.distributed import SINGLE_PROCESS, AccelerateGroup, ProcessGroup

LOAD, LEAVE = "load", "leave"
FILES = (RunFile.NETWORK, RunFile.ORIGINAL_WEIGHTS)


def initialize(mixed_precision: bool = False) -> ProcessGroup:
    """The processes that train together: those that torchrun started, one with a GPU, or one on the CPU.

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


def send(context: RunContext, job: str, *arguments: Any) -> None:
    """Tells the other processes to do a job; the caller then does it too."""
    context.group.broadcast((job, context.run.stored(), arguments))


def load_in_all(
    run: RunDirectory, source: SourceSettings, stale: bool = False, group: ProcessGroup = SINGLE_PROCESS
) -> RunContext:
    """The context that `source` describes, in the other processes of the group as well."""
    reporter = Reporter()
    if run.has(RunFile.NETWORK) and not stale:
        reporter.say(f"going on in {run.path}: what is there already is not made again")
    context = load(run, source, reporter, stale, group)
    if group is not SINGLE_PROCESS:
        send(context, LOAD, *((run / name).read_bytes() for name in FILES))
    return context


def shut_down(group: ProcessGroup) -> None:
    """Ends the other processes, when all is done."""
    group.broadcast((LEAVE, RunSettings(), ()))


def serve(group: ProcessGroup, jobs: Mapping[str, Callable[..., object]]) -> None:
    """Does every job that the main process sends, in a run directory of its own, silently, until it is shut down."""
    context: RunContext | None = None
    with TemporaryDirectory() as folder, quietly(), redirect_stderr(StringIO()):
        run = RunDirectory(Path(folder))
        while True:
            job, settings, arguments = group.broadcast(("", RunSettings(), tuple[Any, ...]()))
            if job == LEAVE:
                return
            run.store(settings)
            if job == LOAD:
                for name, content in zip(FILES, arguments, strict=True):
                    (run / name).write_bytes(content)
                context = load(run, stored_source(run), Reporter(), group=group)
            else:
                jobs[job](context, *arguments)
