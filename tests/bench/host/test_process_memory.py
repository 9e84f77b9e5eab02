import mmap
from pathlib import Path

import pytest

from bench.host import facts as process_memory
from bench.host.facts import memory, reset_peak
from bench.measurement import Memory


def test_the_peak_remembers_what_was_given_back_until_it_is_reset() -> None:
    reset_peak()
    before = memory()
    # Not a bytearray: the allocator may serve that from memory which the process holds already.
    with mmap.mmap(-1, 50_000_000, flags=mmap.MAP_PRIVATE) as block:
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        held = memory()
    after = memory()
    assert before.peak is not None
    assert held.anonymous is not None
    assert before.anonymous is not None
    assert after.peak is not None
    assert after.resident is not None
    assert held.anonymous - before.anonymous == pytest.approx(48_828, rel=0.05)
    assert after.peak >= before.peak + 46_000
    assert after.resident < after.peak - 40_000
    reset_peak()
    reset = memory()
    assert reset.peak is not None
    assert reset.peak < after.peak - 40_000


def test_without_proc_nothing_is_claimed(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("STATUS", "ROLLUP", "CLEAR_REFS"):
        monkeypatch.setattr(process_memory, name, Path("/nowhere/file"))
    reset_peak()
    assert memory() == Memory(None, None, None, None, None)
