"""The real adb client against the virtual phone: what the other tests stand on."""

import os
import shutil
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtual_phone import kit
from virtual_phone.answers import Identity, battery, script
from virtual_phone.messages import CNXN, HEADER, Message, checksum
from virtual_phone.phone import VirtualPhone

TMP = "/data/local/tmp"


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[VirtualPhone]:
    with VirtualPhone(tmp_path / "phone", kit.find("qemu-aarch64")) as phone:
        assert kit.adb("connect", phone.address) == f"connected to {phone.address}"
        yield phone
        kit.disconnect(phone.address)


def client(phone: VirtualPhone, *words: str) -> subprocess.CompletedProcess[str]:
    words = ("adb", "-s", phone.address, *words)
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False)


def test_a_frame_carries_the_sum_of_its_bytes() -> None:
    frame = Message(CNXN, 1, 2, b"\xff\x01").encode()
    assert HEADER.unpack(frame[:24]) == (0x4E584E43, 1, 2, 2, 0x100, 0x4E584E43 ^ 0xFFFFFFFF)
    assert checksum(b"") == 0


def test_the_client_lists_it(phone: VirtualPhone) -> None:
    assert f"{phone.address}        device product:virtual model:Virtual_8" in kit.adb("devices", "-l")
    assert client(phone, "features").stdout.split()[:2] == ["shell_v2", "cmd"]


def test_the_shell_tells_streams_and_status_apart(phone: VirtualPhone) -> None:
    done = client(phone, "shell", "echo 'a  b'; echo wrong >&2; exit 7")
    assert (done.stdout, done.stderr, done.returncode) == ("a  b\n", "wrong\n", 7)


def test_input_reaches_the_shell(phone: VirtualPhone) -> None:
    words = ["adb", "-s", phone.address, "shell", "tr a-z A-Z"]
    assert subprocess.run(words, input="abc", capture_output=True, text=True, timeout=30, check=True).stdout == "ABC"


@pytest.mark.parametrize("size", [0, 1, 70_000, 3_000_000])
def test_a_file_comes_back_as_it_went(phone: VirtualPhone, tmp_path: Path, size: int) -> None:
    there = tmp_path / "there"
    there.write_bytes(os.urandom(size))
    there.chmod(0o755)
    assert client(phone, "push", str(there), f"{TMP}/a/b c").returncode == 0
    landed = phone.root / "data/local/tmp/a/b c"
    assert landed.read_bytes() == there.read_bytes()
    assert landed.stat().st_mode & 0o777 == 0o755
    assert client(phone, "pull", f"{TMP}/a/b c", str(tmp_path / "back")).returncode == 0
    assert (tmp_path / "back").read_bytes() == there.read_bytes()


def test_a_folder_is_listed_and_pulled(phone: VirtualPhone, tmp_path: Path) -> None:
    folder = phone.root / "data/local/tmp/folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "deep" / "file").write_text("x")
    assert client(phone, "pull", f"{TMP}/folder", str(tmp_path / "copy")).returncode == 0
    assert (tmp_path / "copy" / "deep" / "file").read_text() == "x"
    assert " 00000001 " in client(phone, "ls", f"{TMP}/folder/deep").stdout


def test_what_is_not_there_is_said(phone: VirtualPhone, tmp_path: Path) -> None:
    done = client(phone, "pull", f"{TMP}/nothing", str(tmp_path / "x"))
    assert done.returncode == 1
    assert "No such file or directory" in done.stdout + done.stderr


def test_a_pushed_arm_program_runs(phone: VirtualPhone, tmp_path: Path) -> None:
    source = tmp_path / "a.c"
    source.write_text('#include <stdio.h>\nint main(int c, char **v) { return printf("%s|%d\\n", v[1], c) - 6; }\n')
    program = tmp_path / "a"
    subprocess.run([kit.find("aarch64-linux-gnu-gcc"), "-static", str(source), "-o", str(program)], check=True)
    assert client(phone, "push", str(program), f"{TMP}/a").returncode == 0
    done = client(phone, "shell", f"cd {TMP} && exec ./a 'x y'")
    assert (done.stdout, done.returncode) == ("x y|2\n", 0)


def test_answers_come_in_turn(phone: VirtualPhone) -> None:
    script(phone.root, "dumpsys battery", battery(40.0), battery(31.0))
    said = [client(phone, "shell", "dumpsys battery | grep temperature").stdout.split()[1] for _ in range(3)]
    assert said == ["400", "310", "310"]
    assert client(phone, "shell", "dumpsys window").returncode == 1


def test_it_knows_no_paths_but_its_own(phone: VirtualPhone) -> None:
    for command in ("ls /etc", "cat /data/local/tmp/../../etc/passwd", "cat '/etc/passwd'"):
        assert client(phone, "shell", command).stderr == f"this phone has no such path: {command}\n"
    done = client(phone, "pull", f"{TMP}/../../../../etc/hostname", "/dev/null")
    assert done.returncode == 1


def test_an_old_phone_needs_checksums_and_tells_no_status(tmp_path: Path) -> None:
    with VirtualPhone(tmp_path / "old", kit.find("qemu-aarch64"), modern=False) as phone:
        kit.adb("connect", phone.address)
        done = client(phone, "shell", "echo legacy; exit 4")
        assert (done.stdout, done.returncode) == ("legacy\n", 0)
        big = tmp_path / "big"
        big.write_bytes(struct.pack("<200000I", *range(200_000)))
        assert client(phone, "push", str(big), f"{TMP}/big").returncode == 0
        assert (phone.root / "data/local/tmp/big").read_bytes() == big.read_bytes()
        kit.disconnect(phone.address)


def test_two_phones_are_two(phone: VirtualPhone, tmp_path: Path) -> None:
    with VirtualPhone(tmp_path / "other", kit.find("qemu-aarch64"), Identity(model="Other"), asks=True) as other:
        kit.adb("connect", other.address)
        assert "Virtual 8" in client(phone, "shell", "getprop").stdout
        assert "Other" in client(other, "shell", "getprop").stdout
        assert other.commands == ["getprop"]
        kit.disconnect(other.address)


def test_without_permission_it_says_nothing_more(tmp_path: Path) -> None:
    with VirtualPhone(tmp_path / "shy", kit.find("qemu-aarch64")) as phone:
        phone.faults.unauthorized = True
        assert kit.adb("connect", phone.address) == f"failed to authenticate to {phone.address}"
        assert f"{phone.address}        unauthorized" in kit.adb("devices", "-l")
        kit.disconnect(phone.address)


def test_a_missing_program_is_named_with_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "which", lambda _: None)
    text = r"^these tests need qemu-aarch64, and there is none: apt-get install qemu-user \(make test does\)$"
    with pytest.raises(RuntimeError, match=text):
        kit.find("qemu-aarch64")


def test_an_adb_that_never_lets_go_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    stubborn = tmp_path / "adb"
    stubborn.write_text("#!/bin/sh\nprintf '127.0.0.1:4000\\tdevice'\n")
    stubborn.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    monkeypatch.setattr(kit, "NOTICED_SECONDS", 0.1)
    kit.disconnect("127.0.0.1:400")
    text = r"^adb calls 127\.0\.0\.1:4000 'device' after 0\.1 s, and it should be offline or gone$"
    with pytest.raises(TimeoutError, match=text):
        kit.await_state("127.0.0.1:4000", "offline", "")
