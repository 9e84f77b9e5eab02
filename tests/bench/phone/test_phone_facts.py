import shutil
from dataclasses import replace

import pytest
from virtual_phone.answers import Identity, battery, script, thermal
from virtual_phone.fixtures import Plug
from virtual_phone.phone import VirtualPhone

from bench.measurement import BenchError, Device
from bench.phone.adb import Phone
from bench.phone.facts import Cluster, Facts, Warmth, group, pick_cores, read_facts, read_warmth

FACTS = Facts("A1", "Nobody Virtual 8", "VP8450", "14", 34, ("arm64-v8a",), 8, (), 1, 4096, "6.1")
EIGHT = replace(FACTS, clusters=group(dict(enumerate(Identity().clusters))))


def test_facts_are_read_from_the_phone(plug: Plug) -> None:
    phone = plug(Identity(page_bytes=16384))
    facts = read_facts(Phone(phone.address))
    assert (facts.model, facts.soc, facts.android, facts.sdk) == ("Nobody Virtual 8", "VP8450", "14", 34)
    assert facts.clusters == (
        Cluster("little", 1800.0, (0, 1, 2, 3)),
        Cluster("middle", 2400.0, (4, 5, 6)),
        Cluster("big", 3000.0, (7,)),
    )
    assert facts.device == Device(
        kind="phone",
        name="Nobody Virtual 8",
        cpu="VP8450, 4x1800 MHz + 3x2400 MHz + 1x3000 MHz",
        cores=8,
        os=f"Android 14 (SDK 34), Linux {facts.kernel}",
        memory_kb=7812345,
        serial=phone.address,
        page_bytes=16384,
    )


def test_what_the_phone_does_not_tell_is_unknown(phone: VirtualPhone) -> None:
    for folder in (phone.root / "sys", phone.root / "proc"):
        shutil.rmtree(folder)
    script(phone.root, "getconf PAGE_SIZE")
    facts = read_facts(Phone(phone.address))
    assert (facts.clusters, facts.cores, facts.memory_kb, facts.page_bytes) == ((), 1, None, None)
    assert facts.device.cpu == "VP8450"
    assert pick_cores(facts, None, 1) is None


def test_a_32_bit_phone_is_refused(plug: Plug) -> None:
    phone = plug(Identity(abis="armeabi-v7a,armeabi"))
    text = (
        rf"^phone {phone.address} \(Nobody Virtual 8\) runs armeabi-v7a, armeabi programs only; the runner is a 64-bit "
        "one and needs arm64-v8a; take another phone, or pass --device host$"
    )
    with pytest.raises(BenchError, match=text):
        read_facts(Phone(phone.address))


def test_an_old_android_is_refused(plug: Plug) -> None:
    phone = plug(Identity(android="6.0", sdk=23), modern=False)
    with pytest.raises(
        BenchError, match=r"runs Android 6\.0 \(SDK 23\); its adb needs SDK 24 \(Android 7\) or later; "
    ):
        read_facts(Phone(phone.address))


def test_warmth_is_read_from_the_phone(phone: VirtualPhone) -> None:
    script(phone.root, "dumpsys battery", battery(33.4, level=71))
    script(phone.root, "dumpsys thermalservice", thermal(2))
    assert read_warmth(Phone(phone.address)) == Warmth(2, 33.4, 71)
    script(phone.root, "dumpsys battery")
    script(phone.root, "dumpsys thermalservice")
    assert read_warmth(Phone(phone.address)) == Warmth(None, None, None)


@pytest.mark.parametrize(
    ("clocks", "names"),
    [((2000,) * 4, ["big"]), ((1, 1, 2), ["little", "big"]), ((1, 2, 3, 4), ["little", "middle", "middle", "big"])],
)
def test_clusters_are_named_by_their_clocks(clocks: tuple[int, ...], names: list[str]) -> None:
    assert [cluster.name for cluster in group(dict(enumerate(clocks)))] == names


@pytest.mark.parametrize(
    ("wanted", "threads", "cores"),
    [
        (None, 1, (7,)),
        (None, 2, (4, 5, 6, 7)),
        (None, 8, tuple(range(8))),
        ("big", 1, (7,)),
        ("middle", 3, (4, 5, 6)),
        ("little", 1, (0, 1, 2, 3)),
        ("c0", 2, (6, 7)),
        ("0x11", 1, (0, 4)),
    ],
)
def test_cores_are_picked_by_name_or_mask(wanted: str | None, threads: int, cores: tuple[int, ...]) -> None:
    assert pick_cores(EIGHT, wanted, threads) == cores


@pytest.mark.parametrize(
    ("wanted", "threads", "text"),
    [
        ("big", 2, "2 threads, but --cores big is 1 on phone A1 (7); lower --threads, or name more cores by a mask"),
        ("huge", 1, "--cores takes big, middle, little or a hexadecimal mask of cores 0 to 7 of phone A1, not 'huge'"),
        ("100", 1, "of cores 0 to 7 of phone A1, not '100'"),
        ("0", 1, "of cores 0 to 7 of phone A1, not '0'"),
        ("-1", 1, "of cores 0 to 7 of phone A1, not '-1'"),
        (None, 9, "one core for each thread: phone A1 has 8 cores; lower --threads"),
    ],
)
def test_impossible_cores_are_refused(wanted: str | None, threads: int, text: str) -> None:
    with pytest.raises(BenchError) as error:
        pick_cores(EIGHT, wanted, threads)
    assert text in str(error.value)


def test_a_cluster_that_is_not_there_is_refused() -> None:
    two = replace(FACTS, clusters=group({0: 1, 1: 2}))
    with pytest.raises(
        BenchError, match=r"^phone A1 has no middle cores \(little: 0; big: 1\); pass another name or a "
    ):
        pick_cores(two, "middle", 1)
    with pytest.raises(BenchError, match=r"^phone A1 has no big cores \(it does not tell its clusters\); pass another"):
        pick_cores(FACTS, "big", 1)
