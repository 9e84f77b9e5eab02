"""in_threads(): every item once, torch's threads as they were, the first error told."""

from __future__ import annotations

import threading

import pytest
import torch

from compressor.threads import in_threads


@pytest.fixture(params=[1, 3])
def threads(request: pytest.FixtureRequest):
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


def test_every_item_is_done_once_on_one_thread_of_torch(threads: int) -> None:
    found = dict(in_threads(lambda item: (item * item, torch.get_num_threads()), range(8)))
    assert found == {item: (item * item, 1) for item in range(8)}
    assert torch.get_num_threads() == threads


def test_as_many_at_once_as_torch_has_threads(threads: int) -> None:
    together = threading.Barrier(threads)
    assert len(list(in_threads(lambda _item: together.wait(timeout=60), range(threads)))) == threads


def test_an_error_ends_it_and_leaves_torch_as_it_was(threads: int) -> None:
    def work(item: int) -> int:
        if item == 2:
            raise ValueError("item 2 cannot be done")
        return item

    with pytest.raises(ValueError, match="item 2 cannot be done"):
        list(in_threads(work, range(20)))
    assert torch.get_num_threads() == threads
