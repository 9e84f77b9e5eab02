"""The child process of processes.export_all: one format, every network, one after the other.

`python -m exporters.worker JOB.json` reads a Job and writes one JSON object a line on its standard output. It sees
captured programs and arrays only, never a user's code.
"""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

from exporters.artifact import ExportError, move

Say = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Job:
    """What one child does: each network in `programs` (.pt2) to `directory`/{network}.{suffix}, by way of `scratch`.

    `images` is an .npy of float32 (N, C, H, W); `reference` an .npy of logits (N, classes) for each network.
    """

    format: str
    directory: str
    scratch: str
    programs: dict[str, str]
    images: str
    reference: dict[str, str]

    def write(self, path: Path) -> None:
        path.write_text(json.dumps(asdict(self)), encoding="utf-8")

    @staticmethod
    def read(path: Path) -> Job:
        return Job(**json.loads(path.read_text(encoding="utf-8")))


def work(job: Job, say: Say) -> None:
    """Exports every network of the job; tells each stage, and each artifact as a row relative to the directory."""
    import numpy as np

    from exporters.capture import load
    from exporters.export import export_program
    from exporters.formats import find_format

    directory = Path(job.directory)
    images = np.load(job.images)
    for network, program in job.programs.items():
        name = f"{network}.{find_format(job.format).suffix}"
        # Written and checked in the parent's scratch folder, which it removes whatever becomes of this process.
        artifact = export_program(
            load(Path(program)),
            job.format,
            Path(job.scratch) / name,
            network=network,
            images=images,
            reference=np.load(job.reference[network]),
            progress=partial(_tell, say, network),
        )
        move(artifact.path, directory / name)
        artifact = replace(artifact, path=directory / name)
        say({"network": network, "stage": "done", "artifact": artifact.to_row(directory)})


def _tell(say: Say, network: str, stage: str) -> None:
    # "done" is said with the artifact, once the file is in place
    if stage != "done":
        say({"network": network, "stage": stage})


def main(arguments: list[str]) -> int:
    # The parent decides what Ctrl-C ends, and cleans up after it. If it is killed, this process must not live on and
    # put files into a folder that a later run is working in.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    Thread(target=_end_with_parent, daemon=True).start()
    # Toolkits print to standard output, some from C++; the lines that the parent reads go through a copy of it.
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as channel:
        os.dup2(2, 1)

        def say(message: dict[str, Any]) -> None:
            channel.write(json.dumps(message) + "\n")
            channel.flush()

        try:
            work(Job.read(Path(arguments[0])), say)
        except ExportError as error:
            say({"error": str(error)})
            return 1
        except Exception as error:  # a bug of ours or a toolkit's: the parent shows one sentence, the log all of it
            traceback.print_exc()
            say({"error": _sentence(error)})
            return 1
    return 0


def _end_with_parent() -> None:
    os.read(0, 1)  # returns when the parent's end of the pipe closes
    os._exit(1)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS):
        return f"{error.strerror}: {error.filename or 'the file'} cannot be written; free some room, then go on"
    frame = traceback.extract_tb(error.__traceback__)[-1]
    text = str(error).strip().splitlines() or ["no message"]
    return (
        f"{type(error).__name__}: {text[0][:300]} (at {Path(frame.filename).name}:{frame.lineno}); report this as a bug"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
