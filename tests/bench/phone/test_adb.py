import time
from pathlib import Path

import pytest
from virtual_phone.fixtures import TWO_CORES, Plug, replug, unplug
from virtual_phone.kit import adb as client
from virtual_phone.phone import VirtualPhone

from bench.measurement import BenchError
from bench.phone import adb
from bench.phone.adb import Listed, Phone, PhoneLost, listed, pick, quote, single

TMP = "/data/local/tmp"
READY = Listed("A1", "device", "Pixel 8")
OTHER = Listed("B2", "device", "Galaxy")


def test_without_adb_the_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert not adb.installed()
    with pytest.raises(BenchError, match=r"there is no such program: `apt-get install adb` \(Debian\), `brew install"):
        listed()


def test_without_a_phone_it_is_said_how_to_connect_one() -> None:
    assert listed() == ()
    with pytest.raises(
        BenchError, match=r"^no phone is connected: plug one in and allow USB debugging .*--device host$"
    ):
        pick()


def test_the_only_phone_is_picked(phone: VirtualPhone) -> None:
    assert pick() == Listed(phone.address, "device", "Virtual 8")


def test_two_phones_are_listed_and_one_is_to_be_named(plug: Plug, monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = sorted((plug().address, plug().address))
    text = rf"^2 phones are connected: {one} \(Virtual 8\), {other} \(Virtual 8\); pass --serial with one of these$"
    with pytest.raises(BenchError, match=text):
        pick()
    assert pick(other).serial == other
    monkeypatch.setenv("ANDROID_SERIAL", one)
    assert pick().serial == one
    with pytest.raises(BenchError, match=rf"^there is no phone C3; there are: {one} \(Virtual 8\), {other} "):
        pick("C3")


def test_a_phone_that_cannot_be_used_does_not_hide_the_one_that_can() -> None:
    assert single([Listed("A0", "offline", ""), READY]) == READY
    with pytest.raises(BenchError, match=r"^2 phones are connected: A0 \(offline\), A1 \(Pixel 8\), B2 \(Galaxy\); "):
        single([Listed("A0", "offline", ""), READY, OTHER])


def test_a_phone_without_permission_says_what_to_press(phone: VirtualPhone) -> None:
    phone.faults.unauthorized = True
    replug(phone)
    text = rf"^phone {phone.address} is not ready \(unauthorized\): it has not allowed this computer: unlock"
    with pytest.raises(BenchError, match=text):
        pick()


def test_a_phone_that_is_offline_says_so(phone: VirtualPhone) -> None:
    phone.faults.offline = True
    unplug(phone)
    text = (
        rf"^phone {phone.address} is not ready \(offline\): adb has lost it: connect it again \(`adb disconnect "
        rf"{phone.address}`, then `adb connect {phone.address}`\)$"
    )
    with pytest.raises(BenchError, match=text):
        pick()
    assert Listed("A1", "offline", "").trouble.startswith("adb has lost it: plug its cable in again, or run `adb rec")


def test_an_unknown_state_is_repeated() -> None:
    assert Listed("A", "sideload", "").trouble == "its state is 'sideload': wait for it to start, or plug it in again"


def test_words_reach_the_phone_as_they_are(phone: VirtualPhone) -> None:
    words = ("a  b", "$HOME", "it's", '"', "*", "x;y")
    answer = Phone(phone.address).shell(quote("printf", "%s|", *words))
    assert (answer.status, answer.out) == (0, "a  b|$HOME|it's|\"|*|x;y|")


def test_a_failing_command_is_named_with_its_words(phone: VirtualPhone) -> None:
    assert Phone(phone.address).shell("(exit 3)").status == 3
    text = rf"^`ls /data/nothing` failed on phone {phone.address} with status \d: ls: cannot access .*No such file"
    with pytest.raises(BenchError, match=text):
        Phone(phone.address).read("ls /data/nothing")


def test_files_go_and_come(phone: VirtualPhone, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1234")
    Phone(phone.address).push(tmp_path / "a", f"{TMP}/x y/a")
    Phone(phone.address).pull(f"{TMP}/x y/a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"1234"
    with pytest.raises(
        BenchError, match=rf"^phone {phone.address} would not pull {TMP}/c: .*No such file or directory$"
    ):
        Phone(phone.address).pull(f"{TMP}/c", tmp_path / "c")


def test_a_full_phone_says_so(phone: VirtualPhone, tmp_path: Path) -> None:
    phone.faults.space_bytes = 100_000
    (tmp_path / "a").write_bytes(bytes(300_000))
    text = r"would not push a \(0\.3 MB\): write failed: No space left on device; free some space on it$"
    with pytest.raises(BenchError, match=text):
        Phone(phone.address).push(tmp_path / "a", f"{TMP}/a")
    assert phone.files == []


def test_the_cable_is_pulled_during_a_push(phone: VirtualPhone, tmp_path: Path) -> None:
    phone.faults.unplug_after_bytes = 200_000
    (tmp_path / "a").write_bytes(bytes(900_000))
    text = (
        rf"^phone {phone.address} went away during push a \(0\.9 MB\) \(device offline\); connect it again "
        rf"\(`adb disconnect {phone.address}`, then `adb connect {phone.address}`\) and run the same command: what it "
        "holds already is not pushed again$"
    )
    with pytest.raises(PhoneLost, match=text):
        Phone(phone.address).push(tmp_path / "a", f"{TMP}/a")
    replug(phone)
    Phone(phone.address).push(tmp_path / "a", f"{TMP}/a")
    assert (phone.root / "data/local/tmp/a").stat().st_size == 900_000


def test_the_cable_is_pulled_during_a_command(phone: VirtualPhone) -> None:
    phone.faults.answer_seconds = 0.5
    client("disconnect", phone.address)
    with pytest.raises(PhoneLost, match=r"went away during `getprop` \(device '.*' not found\); connect it again"):
        Phone(phone.address).read("getprop")
    with pytest.raises(
        PhoneLost, match=r"^phone A1 went away during `true` \(device 'A1' not found\); plug it in again"
    ):
        Phone("A1").read("true")


def test_a_phone_that_breaks_off_is_not_believed(phone: VirtualPhone) -> None:
    # The shell ends before it could say how: its output must not count as whole.
    with pytest.raises(
        BenchError, match=rf"^phone {phone.address} did not end `echo a; kill -9 \$\$`: no reason given$"
    ):
        Phone(phone.address).read("echo a; kill -9 $$")


def test_a_slow_phone_is_given_up(phone: VirtualPhone, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    begun = time.monotonic()
    with pytest.raises(
        BenchError, match=r"^adb had 1 s to run `sleep 60; echo never` and did not; look at the phone's"
    ):
        Phone(phone.address).read("sleep 60; echo never", seconds=1)
    monkeypatch.setattr(adb, "PUSH_SECONDS", 0.2)
    phone.faults.bytes_per_second = 50_000
    (tmp_path / "a").write_bytes(bytes(300_000))
    with pytest.raises(BenchError, match=r"^adb had 0 s to push a \(0\.3 MB\) and did not"):
        Phone(phone.address).push(tmp_path / "a", f"{TMP}/a")
    assert time.monotonic() - begun < 10


def test_an_adb_that_fails_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    broken = tmp_path / "adb"
    broken.write_text("#!/bin/sh\necho 'error: cannot connect to daemon' >&2; exit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    with pytest.raises(BenchError, match=r"^`adb devices` failed: cannot connect to daemon; try `adb kill-server`$"):
        listed()


def test_what_adb_says_of_its_server_is_no_phone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    other = tmp_path / "adb"
    lines = [
        "* daemon not running; starting now at tcp:5037",
        "* daemon started successfully",
        "List of devices attached",
    ]
    lines += ["0123 no permissions (user in plugdev group); see [http://x] usb:1-1", "4567\tdevice model:A_b", ""]
    other.write_text("#!/bin/sh\ncat <<'END'\n" + "\n".join(lines) + "\nEND\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert listed() == (Listed("0123", "no permissions", ""), Listed("4567", "device", "A b"))
    with pytest.raises(
        BenchError, match=r"^phone 0123 is not ready \(no permissions\): this user may not open its USB device: "
    ):
        pick("0123")


def test_another_phone_is_never_touched(plug: Plug) -> None:
    one, other = plug(), plug(TWO_CORES)
    Phone(one.address).read("getprop")
    assert len(one.commands) == 1
    assert other.commands == []
