import os
from pathlib import Path

import pytest

from bench.host import facts as host_facts
from bench.measurement import BenchError


def test_this_machine_describes_itself() -> None:
    device = host_facts.describe()
    assert device.kind == "host"
    assert device.name == os.uname().nodename
    assert device.cores == os.cpu_count()
    assert device.os.startswith(f"{os.uname().sysname} {os.uname().release}")
    assert device.cpu
    assert device.memory_kb == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 1024


@pytest.fixture
def four_cores(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Cores 0 and 1 of 4.2 GHz, 2 and 3 of 3 GHz, as the kernel writes it."""
    for core, khz in enumerate((4_200_000, 4_200_000, 3_000_000, 3_000_000)):
        folder = tmp_path / f"cpu{core}" / "cpufreq"
        folder.mkdir(parents=True)
        (folder / "cpuinfo_max_freq").write_text(f"{khz}\n")
        (folder / "scaling_cur_freq").write_text(f"{khz - 1_500}\n")
    monkeypatch.setattr(host_facts, "CPUFREQ", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})


@pytest.mark.usefixtures("four_cores")
def test_the_fastest_cores_are_picked_and_among_these_the_last() -> None:
    assert host_facts.pick_cores(1) == (1,)
    assert host_facts.pick_cores(2) == (0, 1)
    assert host_facts.pick_cores(3) == (0, 1, 3)
    assert host_facts.pick_cores(1, (2,)) == (2,)


@pytest.mark.usefixtures("four_cores")
def test_a_core_out_of_reach_is_named() -> None:
    with pytest.raises(BenchError, match=r"^this process may run on cores 0, 1, 2, 3, not on 7; choose among"):
        host_facts.pick_cores(2, (1, 7))


@pytest.mark.usefixtures("four_cores")
def test_more_threads_than_cores_are_refused() -> None:
    with pytest.raises(BenchError, match=r"5 threads need 5 cores, and this process may run on 4; lower the threads"):
        host_facts.pick_cores(5)


@pytest.mark.usefixtures("four_cores")
def test_the_clock_is_in_mhz_and_none_where_untold() -> None:
    assert host_facts.frequency_mhz((2, 3)) == 2998.5
    assert host_facts.frequency_mhz((9,)) is None
    assert host_facts.frequency_mhz(None) is None


def test_the_last_cache_is_the_largest_that_a_core_reaches(tmp_path, monkeypatch):
    monkeypatch.setattr(host_facts, "CPUFREQ", tmp_path)
    assert host_facts.last_cache() is None
    for place, size in enumerate(("64K", "1024K", "32768K", "many")):
        (tmp_path / f"cpu0/cache/index{place}").mkdir(parents=True)
        (tmp_path / f"cpu0/cache/index{place}/size").write_text(f"{size}\n")
    assert host_facts.last_cache() == 32 << 20
