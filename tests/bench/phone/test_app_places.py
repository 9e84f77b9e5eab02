"""Whole measurements inside the app, through the real adb client, on the virtual phone."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from phone_files import PHOTOS, QUICK, matmul
from virtual_phone.apps import RUN_AS, install_programs
from virtual_phone.fixtures import replug
from virtual_phone.phone import VirtualPhone

from bench.measurement import BenchError, Device, Measurement, NotMeasured, Schedule
from bench.phone import measure as phone_measure
from bench.phone.adb import Phone, PhoneLost
from bench.phone.app import AppProcess, InApp
from bench.phone.measure import PLACES, describe_in, measure, measure_in
from bench.phone.storage import HOME, open_store, remove
from bench.runner.bundle import Bundle, open_app_bundle, write_app_bundle
from exporters.artifact import Artifact

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    folder = tmp_path_factory.mktemp("pair")
    return matmul(folder / "wide.onnx", 800), matmul(folder / "narrow.onnx", 40)


@pytest.fixture
def ready(phone: VirtualPhone, app: Path, monkeypatch: pytest.MonkeyPatch) -> VirtualPhone:
    """A phone that knows apps; turns are two instead of six, because a JVM starts in a second."""
    monkeypatch.setattr(phone_measure, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(phone_measure, "PROCESSES", 2)
    install_programs(phone.root, app / "desk")
    return phone


def inside(phone: VirtualPhone, app: Path, artifacts: tuple[Artifact, ...]) -> tuple[object, ...]:
    return measure_in(partial(InApp.open, app), artifacts, PHOTOS, QUICK, serial=phone.address)


@contextmanager
def unplugged(phone: VirtualPhone, seen: Callable[[], bool]) -> Iterator[None]:
    """Pulls the phone's cable once that is seen; the block ends in PhoneLost."""

    def pull() -> None:
        while not seen():
            time.sleep(0.05)
        phone.unplug()

    pulling = threading.Thread(target=pull)
    pulling.start()
    with pytest.raises(PhoneLost, match="went away during"):
        yield
    pulling.join()


def test_files_are_measured_inside_the_app(ready: VirtualPhone, app: Path, pair: tuple[Artifact, Artifact]) -> None:
    wide, narrow = inside(ready, app, pair)
    assert isinstance(wide, Measurement)
    assert isinstance(narrow, Measurement)
    assert wide.device.process == narrow.device.process == "app"
    assert wide.device == describe_in(partial(InApp.open, app), ready.address)
    assert (wide.runtime, wide.runtime_version, wide.pinned_cores) == ("ONNX Runtime", "1.29.0", (1,))
    assert [block.turn for block in wide.blocks] == [0, 3]
    assert [block.turn for block in narrow.blocks] == [1, 2]
    assert wide.session == narrow.session
    assert wide.invalid == narrow.invalid == "" or "slower than the first" in wide.invalid + narrow.invalid
    assert wide.parity is not None
    assert wide.parity.cosine == pytest.approx(1, abs=1e-6)
    assert wide.note.startswith("run inside an app")
    assert wide.memory.end.peak > wide.memory.start.resident > 10_000
    # The app's own storage is empty again, the app stays.
    assert not (ready.root / "data/data/compressexport.bench/files/bench").exists()
    assert [name for name in ready.files if "runner/" not in name] == ["compress-export/manifest"]
    kept = "compress-export/runner/bench.apk"
    assert [name for name in ready.files if "runner/" in name] == [kept, f"{kept}.installed"]
    history = len(ready.commands)
    inside(ready, app, pair[:1])
    assert not [line for line in ready.commands[history:] if "pm install" in line]
    remove(Phone(ready.address))
    assert not (ready.root / "data/data/compressexport.bench").exists()
    # An app that was removed by hand leaves its mark.
    mark = ready.root / HOME[1:] / "runner/bench.apk.installed"
    mark.parent.mkdir(parents=True)
    mark.touch()
    remove(Phone(ready.address))
    assert ready.files == []


def test_the_apps_code_runs_without_an_app(ready: VirtualPhone, app: Path, pair: tuple[Artifact, Artifact]) -> None:
    opened = partial(AppProcess.open, app)
    (row,) = measure_in(opened, pair[1:], PHOTOS, QUICK, serial=ready.address)
    assert isinstance(row, Measurement)
    assert row.device.process == "app_process"
    assert row.note.startswith("run by the adb shell with the app's code and runtimes (app_process)")
    assert row.parity is not None
    assert row.parity.top1_agreement == 1.0
    (ready.root / "system/bin/app_process").write_text("#!/bin/sh\necho Aborted >&2\nexit 134\n")
    words = r"narrow.onnx on phone .* was not measured: its process was killed by SIGABRT; its last line was 'Aborted'$"
    with pytest.raises(BenchError, match=words):
        measure_in(opened, pair[1:], PHOTOS, QUICK, serial=ready.address)


def test_the_shell_stands_beside_it(
    ready: VirtualPhone, app: Path, bundle: Bundle, pair: tuple[Artifact, Artifact]
) -> None:
    (shell,) = measure(pair[1:], PHOTOS, QUICK, serial=ready.address, root=bundle.path.parent)
    assert shell.device == replace(describe_in(partial(InApp.open, app), ready.address), process="shell")


def test_a_format_without_an_engine_is_said(
    ready: VirtualPhone, app: Path, pair: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    whole, app = open_app_bundle(app), shutil.copytree(app, tmp_path / "app", copy_function=os.symlink)
    (app / "manifest.json").unlink()
    fewer = [replace(each, engines={"onnx": each.engines["onnx"]}) for each in (whole.apks["bench"], whole.lane)]
    write_app_bundle(app, {"bench": fewer[0]}, fewer[1])
    (row,) = inside(ready, app, (replace(pair[0], format="pte"),))
    assert isinstance(row, NotMeasured)
    words = "this build of the app has no engine for ExecuTorch files; docs/android.md says which builds have which"
    assert row.reason == words
    with pytest.raises(BenchError, match=r"^this build of the app has no engine for ExecuTorch files"):
        InApp.open(app).parcels({"pte"})
    assert AppProcess.open(app).foreign("ptl").startswith("this build of the app has no engine for TorchScript Lite")


# Copies an image's first kilobyte only, and then waits for what happens.
CUT_SHORT = RUN_AS.replace(
    'exec "$@"', 'case "$*" in "sh -c cat >"*.raw) head -c 1000 >"${3#cat >}"; sleep 60 ;; esac\nexec "$@"'
)


def test_a_phone_unplugged_while_files_are_copied_goes_on_later(
    ready: VirtualPhone, app: Path, pair: tuple[Artifact, Artifact]
) -> None:
    copies = ready.root / "data/data/compressexport.bench/files/bench"
    (ready.root / "system/bin/run-as").write_text(CUT_SHORT)
    with unplugged(ready, lambda: bool(list(copies.glob("images/*.raw")))):
        inside(ready, app, pair[1:])
    # What is left: half an image, and the answers to three images.
    assert [path.stat().st_size for path in copies.glob("images/*")] == [1000]
    assert [path.stat().st_size for path in copies.glob("files/*.reference")] == [3 * 40 * 4]
    (ready.root / "system/bin/run-as").write_text(RUN_AS)
    replug(ready)
    (row,) = measure_in(partial(InApp.open, app), pair[1:], PHOTOS[:2], QUICK, serial=ready.address)
    assert isinstance(row, Measurement)
    assert row.images == 2


def test_an_app_left_at_work_is_ended_before_anything_is_measured(
    ready: VirtualPhone, app: Path, pair: tuple[Artifact, Artifact]
) -> None:
    program = ready.root / "system/bin/am"
    program.write_text(program.read_text().replace("sleep 0.2", "sleep 60"))
    (ready.root / "answers/app-dies").touch()
    pid = ready.root / "data/app/compressexport.bench/pid"
    with unplugged(ready, lambda: pid.exists() and bool(pid.read_text())):
        inside(ready, app, pair[1:])
    process = Path("/proc", pid.read_text().strip())
    assert process.exists()
    replug(ready)
    open_store(Phone(ready.address))
    assert not pid.exists()
    deadline = time.monotonic() + 10
    while process.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not process.exists()


def test_an_app_that_is_killed_is_said(ready: VirtualPhone, app: Path, pair: tuple[Artifact, Artifact]) -> None:
    (ready.root / "answers/app-dies").touch()
    words = r"wide.onnx on phone .* was not measured: the app ended without a row \(the log's last word is .lowmemoryk"
    with pytest.raises(BenchError, match=words):
        inside(ready, app, pair)


def test_an_app_that_takes_too_long_is_said(
    ready: VirtualPhone, app: Path, pair: tuple[Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    program = ready.root / "system/bin/am"
    program.write_text(program.read_text().replace("sleep 0.2", "sleep 60"))
    (ready.root / "answers/app-dies").touch()
    monkeypatch.setattr(Schedule, "process_seconds", 2.0)
    with pytest.raises(BenchError, match="the app is still at work; raise the limit with --cap, or measure a smaller"):
        inside(ready, app, pair[:1])


def test_the_apps_own_words_reach_the_user(ready: VirtualPhone, app: Path, tmp_path: Path) -> None:
    artifact = matmul(tmp_path / "net.onnx", 8)
    program = ready.root / "system/bin/am"
    spoiled = program.read_text().replace(
        'setsid "$@"', 'echo spoiled >files/bench/$(cd files/bench && ls files/*.onnx)\nsetsid "$@"'
    )
    program.write_text(spoiled)
    with pytest.raises(BenchError, match=r"was not measured: net.onnx is not the file that the plan means: its sha256"):
        inside(ready, app, (artifact,))


def test_android_that_refuses_is_quoted(ready: VirtualPhone, app: Path, pair: tuple[Artifact, Artifact]) -> None:
    refusal = ready.root / "answers/install-refusal"
    refusal.write_text("Failure [INSTALL_FAILED_UPDATE_INCOMPATIBLE]\n")
    words = (
        r"would not install bench.apk: Failure \[INSTALL_FAILED_UPDATE_INCOMPATIBLE\]; `adb -s .* uninstall compress"
    )
    with pytest.raises(BenchError, match=words):
        inside(ready, app, pair)
    refusal.unlink()
    program = ready.root / "system/bin/am"
    program.write_text(program.read_text().replace("compressexport.core.Main", "").replace("grep -q", "grep -qx"))
    with pytest.raises(
        BenchError, match=r"would not start the app: Error type 3 Error: Activity class \{compressexport"
    ):
        inside(ready, app, pair)


def test_the_places_are_these() -> None:
    assert list(PLACES) == ["shell", "app", "app_process"]
    assert Device("phone", "a", "b", 1, "c").process == "shell", "rows of versions that knew no app"
    assert Device("host", "a", "b", 1, "c").process == ""
