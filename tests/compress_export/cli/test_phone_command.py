"""The command line with a phone: which device is taken, what is said, and what the reports tell."""

import json
import platform
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from virtual_phone.answers import Identity
from virtual_phone.apps import install_programs
from virtual_phone.fixtures import replug
from virtual_phone.kit import matmul_file

from bench.devices import DEVICES
from bench.measurement import BenchError
from bench.phone import adb
from bench.phone import measure as phone_measure
from bench.runner import bundle as bundles
from exporters.artifact import Artifact, size_and_sha256, write_artifacts


@pytest.fixture
def free(monkeypatch, bundle):
    """No device is wished for, no simulator is installed, and the runner is the test's own."""
    monkeypatch.delenv("COMPRESS_EXPORT_DEVICE")
    monkeypatch.setattr(bundles, "ROOT", bundle.path.parent)

    def describe():
        raise BenchError("no emulator")

    arm = replace(DEVICES["arm"].load(), describe=describe)
    monkeypatch.setitem(DEVICES, "arm", replace(DEVICES["arm"], load=lambda: arm))


@pytest.fixture(scope="module")
def exported(tmp_path_factory, net_file):
    """A run whose files are MatMul files, for which the virtual phone has a runner: 3x16x16 images."""
    from compress_export.pipeline.run import compress_only, plan_only
    from compress_export.settings import PlanSettings, SourceSettings

    run = tmp_path_factory.mktemp("exported") / "net"
    source = SourceSettings(f"{net_file}:build", weights="none", input=(3, 16, 16))
    plan_only(run, source, PlanSettings(max_params="0.5x", costs="counted"))
    compress_only(run)
    files = []
    (run / "artifacts").mkdir()
    for name, classes in (("original", 400), ("compressed", 40)):
        path = matmul_file(run / "artifacts" / f"{name}.onnx", (3, 16, 16), classes)
        files.append(Artifact(path, name, "onnx", *size_and_sha256(path), "float32", (1, 3, 16, 16), {}))
    write_artifacts(run / "artifacts.json", files)
    return run


@pytest.fixture
def run(exported, tmp_path):
    return shutil.copytree(exported, tmp_path / "net")


def rows(run: Path):
    return [json.loads(line) for line in (run / "measurements.jsonl").read_text().splitlines()]


@pytest.mark.usefixtures("free")
def test_the_connected_phone_is_taken_and_named(call, run, phone):
    status, out, err = call(run.parent, "bench", run, "--set", "bench.cap=0.2")
    assert status == 0, err
    assert "files will be measured on Nobody Virtual 8 (phone): it is connected" in err
    (original, compressed) = rows(run)
    assert original["device"]["kind"] == compressed["device"]["kind"] == "phone"
    assert original["device"]["serial"] == phone.address
    assert original["parity"]["cosine"] > 0.99999
    said = " ".join(out.split())
    assert f"latency and memory on Nobody Virtual 8 (phone, VP8450, 1x1800 MHz + 1x2400 MHz, {phone.address})" in said
    assert call(run.parent, "report", run)[0] == 0
    page = (run / "report.md").read_text()
    assert f"On Nobody Virtual 8 (phone, VP8450, 1x1800 MHz + 1x2400 MHz, {phone.address}), cores 1, 1 thread" in page
    assert "Measured for at most 0.2 s a file (bench.cap). Note: run by the adb shell, not inside an app; " in page

    # A phone and the host never stand in one table.
    status, out, _ = call(run.parent, "bench", run, "--set", "bench.cap=0.1", "--device", "host")
    assert status == 0
    assert [row["device"]["kind"] for row in rows(run)] == ["phone", "phone", "host", "host"]
    said = " ".join(out.split())
    assert "(host, " in said
    assert "measurements.jsonl also has rows of Nobody Virtual 8 (phone), which are not compared with these." in said


@pytest.mark.usefixtures("free", "phone")
def test_times_that_are_invalid_are_not_shown(call, run):
    words = ("bench", run, "--set", "bench.cap=0.2", "--device", "phone", "--cores", "little")
    assert call(run.parent, *words)[0] == 0
    lines = rows(run)
    assert lines[0]["pinned_cores"] == [0]
    lines[1]["invalid"] = "the last tenth of its runs was 60 % slower than the first; let the phone cool"
    (run / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    _, out, _ = call(run.parent, "report", run)
    said = " ".join(out.split())
    assert "│ invalid │ not measured │" in said
    assert "compressed.onnx: its times are invalid: the last tenth of its runs was 60 % slower than the first" in said
    assert "| compressed.onnx (invalid) |" in (run / "report.md").read_text()


@pytest.mark.slow
@pytest.mark.usefixtures("free")
def test_the_app_stands_beside_the_shell(call, run, phone, app, monkeypatch):
    monkeypatch.setattr(phone_measure, "PROCESSES", 2)
    install_programs(phone.root, app / "desk")
    for place in ("shell", "app"):
        status, out, err = call(run.parent, "bench", run, "--set", "bench.cap=0.4", "--in", place)
        assert status == 0, err
    assert [row["device"]["process"] for row in rows(run)] == ["shell", "shell", "app", "app"]
    said = " ".join(out.split())
    assert f"1x2400 MHz, {phone.address}, app)" in said
    assert "are not compared with these" not in said
    lines = [{**row, "invalid": ""} for row in rows(run)]
    (run / "measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert call(run.parent, "report", run)[0] == 0
    page = (run / "report.md").read_text()
    listed = page.partition("## The same phone, inside an app and outside")[2].partition("## ")[0]
    assert [tuple(line.split(" | ")[:2]) for line in listed.splitlines() if ".onnx" in line] == [
        ("| original.onnx", "shell"),
        ("| original.onnx", "app"),
        ("| compressed.onnx", "shell"),
        ("| compressed.onnx", "app"),
    ]
    status, _, err = call(run.parent, "bench", run, "--set", "bench.cap=1", "--device", "host", "--in", "app")
    assert (status, err) == (
        1,
        "compress-export: --in app is a place on a phone, and --device host is none; leave one of the two out\n",
    )
    status, _, err = call(run.parent, "bench", run, "--set", "bench.cap=1", "--in", "browser")
    words = "a phone runs files in shell, app, app_process, not in 'browser'; choose one of these"
    assert (status, err) == (1, f"compress-export: {words}\n")
    assert call(run.parent, "devices", "--clean")[0] == 0
    assert not (phone.root / "data/app/compressexport.bench").exists()


def test_a_profile_inside_an_app_is_refused_before_a_phone_is_looked_for(call, tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"never opened")
    words = ("bench", "net.onnx", "--profile", "--device", "phone", "--in", "app")
    text = "a phone's profiles are taken in its shell, not in app; leave --in app out"
    assert call(tmp_path, *words) == (1, "", f"compress-export: {text}\n")


@pytest.mark.usefixtures("free")
def test_several_phones_stop_it_with_their_serials(call, run, plug):
    one, other = sorted((plug().address, plug().address))
    status, _, err = call(run.parent, "bench", run, "--set", "bench.cap=1")
    assert status == 1
    text = f"2 phones are connected: {one} (Virtual 8), {other} (Virtual 8); pass --serial with one of these"
    assert err == f"compress-export: {text}\n"
    status, _, err = call(run.parent, "bench", run, "--set", "bench.cap=1", "--serial", "A1")
    assert err == f"compress-export: there is no phone A1; there are: {one} (Virtual 8), {other} (Virtual 8)\n"


@pytest.mark.usefixtures("free")
def test_without_a_phone_it_says_where_it_measures_instead(call, run):
    status, _, err = call(run.parent, "bench", run, "--set", "bench.cap=0.1")
    assert status == 0
    assert f"files will be measured on {platform.node()} (host): no phone is connected" in err


@pytest.mark.usefixtures("free")
def test_what_cannot_be_used_is_said_before_anything_is_done(call, tmp_path, plug, monkeypatch):
    for words, text in (
        (("--device", "phone"), "no phone is connected: plug one in and allow USB debugging"),
        (("--device", "cloud"), "there is no device 'cloud'; choose among host, "),
        (
            ("--set", "bench.cores=big", "--device", "host"),
            "--cores big names cores of a phone; pass --device phone as well",
        ),
        (("--serial", "A1", "--device", "host"), "--serial names a phone, and --device host is none"),
    ):
        status, _, err = call(tmp_path, "run", "alexnet", *words)
        assert (status, err.startswith(f"compress-export: {text}")) == (1, True), err
    plug(Identity(abis="armeabi-v7a"))
    status, _, err = call(tmp_path, "run", "alexnet", "--device", "phone")
    assert status == 1
    assert "runs armeabi-v7a programs only" in err
    with monkeypatch.context() as elsewhere:
        elsewhere.setenv("PATH", "/nowhere")
        status, _, err = call(tmp_path, "run", "alexnet", "--device", "phone")
    assert "there is no such program: `apt-get install adb` (Debian)" in err
    assert list(tmp_path.glob("runs")) == []


@pytest.mark.usefixtures("free")
def test_a_phone_without_a_runner_names_make_runner(call, tmp_path, phone, monkeypatch):
    monkeypatch.setattr(bundles, "ROOT", tmp_path)
    status, _, err = call(tmp_path, "bench", tmp_path, "--serial", phone.address)
    assert status == 1
    assert err.endswith("; build it with `make runner`\n")


@pytest.mark.usefixtures("free")
def test_an_unplugged_phone_keeps_what_was_measured(call, run, phone):
    def pull_the_cable():
        while sum("--model" in command for command in phone.commands) < 5:
            time.sleep(0.01)
        phone.unplug()

    puller = threading.Thread(target=pull_the_cable)
    puller.start()
    status, _, err = call(run.parent, "bench", run, "--set", "bench.cap=0.6")
    puller.join()
    assert status == 1
    assert f"compress-export: phone {phone.address} went away during " in err
    assert [len(row["blocks"]) for row in rows(run)] == [2, 2]
    assert all(row["invalid"].startswith("ended early: phone ") for row in rows(run))
    replug(phone)
    status, out, _ = call(run.parent, "bench", run, "--set", "bench.cap=0.2")
    assert status == 0
    assert [len(row["blocks"]) for row in rows(run)] == [2, 2, 5, 5]
    assert not [row["invalid"] for row in rows(run)[2:] if row["invalid"].startswith("ended early")]
    assert "latency and memory on Nobody Virtual 8 (phone" in " ".join(out.split())


@pytest.mark.usefixtures("free")
def test_devices_lists_phones_and_this_machine(call, tmp_path, plug):
    one, other = plug(), plug()
    other.faults.offline = True
    other.unplug()
    status, out, _ = call(tmp_path, "devices")
    said = " ".join(out.replace("│", " ").split())
    assert status == 0
    assert one.address in said
    assert "Nobody Virtual 8" in said
    assert "big: 1 at 2400" in said
    assert "thermal status 0" in said
    assert "offline: adb has" in said
    assert "host" in said


@pytest.mark.usefixtures("free")
def test_devices_can_clean_the_phones(call, run, plug):
    phone, other = plug(), plug()
    left = phone.root / "data/local/tmp/compress-export/runner/run_onnx"
    left.parent.mkdir(parents=True)
    left.write_text("left there")
    other.faults.offline = True
    other.unplug()
    while any(each.ready for each in adb.listed() if each.serial == other.address):
        time.sleep(0.05)
    status, out, _ = call(run.parent, "devices", "--clean")
    assert status == 0
    assert f"{phone.address}: /data/local/tmp/compress-export is removed" in out
    assert f"{other.address}: not cleaned, it is offline" in out
    assert phone.files == []


@pytest.mark.usefixtures("free")
def test_devices_without_adb_names_the_package(call, tmp_path, monkeypatch):
    _, out, _ = call(tmp_path, "devices")
    assert "none is connected" in " ".join(out.replace("│", " ").split())
    monkeypatch.setenv("PATH", "/nowhere")
    _, out, _ = call(tmp_path, "devices")
    assert "apt-get install adb" in " ".join(out.replace("│", " ").split())


@pytest.mark.slow
def test_the_main_command_measures_on_the_phone(runner, call, tmp_path, net_file, phone, monkeypatch):
    assert (runner / "aarch64").is_dir()
    monkeypatch.delenv("COMPRESS_EXPORT_DEVICE")
    words = (
        f"{net_file}:build",
        "--input",
        "3x16x16",
        "--weights",
        "none",
        "--max-params",
        "0.5x",
        "--set",
        "bench.cap=2",
    )
    words += ("--set", "plan.costs=counted")
    # Not .ptl: its libraries take 8 s to load under QEMU, and 12 processes load them.
    status, out, err = call(tmp_path, *words, "--name", "net", "--format", "onnx,pte")
    assert status == 0, err
    assert "files will be measured on Nobody Virtual 8 (phone): it is connected" in err
    measured = rows(tmp_path / "runs" / "net")
    assert [row["format"] for row in measured] == ["onnx", "onnx", "pte", "pte"]
    assert {row["device"]["serial"] for row in measured} == {phone.address}
    assert all(row["parity"]["cosine"] > 0.99999 for row in measured)
    assert "latency and memory on Nobody Virtual 8 (phone" in " ".join(out.split())

    # Each engine's profiler on the phone: by layer, and nothing of it is left there.
    status, out, err = call(tmp_path, "bench", tmp_path / "runs" / "net", "--profile", "--device", "phone")
    assert status == 0, err
    profiles = [json.loads(line) for line in (tmp_path / "runs" / "net" / "profiles.jsonl").read_text().splitlines()]
    assert [(each["format"], each["unit"], each["joined"]) for each in profiles[::2]] == [
        ("onnx", "ms", True),
        ("pte", "ms", True),
    ]
    assert {each["device"]["serial"] for each in profiles} == {phone.address}
    assert not [file for file in phone.files if "/runner/" not in str(file) and "manifest" not in str(file)]
