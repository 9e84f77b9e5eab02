"""Layers side by side: in_threads() works on as many items at once as torch has threads, each on one of them.

Two layers at once keep two cores busy where one layer cannot: its eigendecompositions and small steps run on one core
whatever they are given. And what is found does not depend on the number of threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import TypeVar

import torch

Item = TypeVar("Item")
Value = TypeVar("Value")


def in_threads(work: Callable[[Item], Value], items: Sequence[Item]) -> Iterator[tuple[Item, Value]]:
    """Each item with its result, in the order in which they are done; the first error ends it."""
    threads = torch.get_num_threads()
    # Threads that start later take over the number, and get it back only here: it is the whole process's.
    torch.set_num_threads(1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            jobs = {pool.submit(work, item): item for item in items}
            try:
                for job in as_completed(jobs):
                    yield jobs[job], job.result()
            finally:
                for job in jobs:
                    job.cancel()
    finally:
        torch.set_num_threads(threads)
