from pathlib import Path

import pytest
from virtual_phone.phone import VirtualPhone

from bench.measurement import BenchError
from bench.phone.adb import Phone
from bench.phone.storage import HOME, Parcel, open_store, remove
from exporters.artifact import size_and_sha256


def parcel(path: Path, place: str, content: bytes) -> Parcel:
    path.write_bytes(content)
    return Parcel(path, place, *size_and_sha256(path))


@pytest.fixture
def parcels(tmp_path: Path) -> list[Parcel]:
    return [parcel(tmp_path / "a", "runner/lib/a", b"1" * 300), parcel(tmp_path / "b", "files/b c.onnx", b"2" * 70_000)]


def places(phone: VirtualPhone) -> list[str]:
    return [path.removeprefix("compress-export/") for path in phone.files]


def test_only_what_changed_is_pushed(phone: VirtualPhone, parcels: list[Parcel], tmp_path: Path) -> None:
    handle = Phone(phone.address)
    assert open_store(handle).put(parcels) == 70_300
    assert open_store(handle).put(parcels) == 0
    changed = parcel(tmp_path / "b", "files/b c.onnx", b"3" * 70_000)
    assert open_store(handle).missing([parcels[0], changed]) == [changed]
    assert open_store(handle).put([parcels[0], changed]) == 70_000
    assert (phone.root / HOME[1:] / "files/b c.onnx").read_bytes() == b"3" * 70_000
    assert open_store(handle).missing([parcels[0], changed]) == []


def test_a_file_that_is_gone_or_cut_is_pushed_again(phone: VirtualPhone, parcels: list[Parcel]) -> None:
    handle = Phone(phone.address)
    open_store(handle).put(parcels)
    (phone.root / HOME[1:] / "files/b c.onnx").write_bytes(b"2")
    (phone.root / HOME[1:] / "runner/lib/a").unlink()
    assert open_store(handle).missing(parcels) == parcels


def test_the_end_leaves_the_runner_alone(phone: VirtualPhone, parcels: list[Parcel]) -> None:
    store = open_store(Phone(phone.address))
    store.put(parcels)
    store.clear()
    assert places(phone) == ["manifest", "runner/lib/a"]
    assert open_store(Phone(phone.address)).missing(parcels) == parcels[1:]
    remove(Phone(phone.address))
    assert phone.files == []


def test_a_broken_push_vouches_for_nothing(phone: VirtualPhone, parcels: list[Parcel], tmp_path: Path) -> None:
    store = open_store(Phone(phone.address))
    store.put(parcels)
    phone.faults.space_bytes = 1000
    with pytest.raises(BenchError, match="No space left on device; free some space on it"):
        store.put([parcel(tmp_path / "b", "files/b c.onnx", b"4" * 70_000)])
    assert "files" not in (phone.root / HOME[1:] / "manifest").read_text()
