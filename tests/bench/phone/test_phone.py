"""Whole measurements on the virtual phone, and everything that can go wrong with one."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from phone_files import PHOTOS, QUICK, SHAPE, matmul
from runner_line import LINE
from virtual_phone.answers import battery, script, set_clocks, thermal
from virtual_phone.fixtures import Plug, replug, unplug
from virtual_phone.phone import VirtualPhone

from bench.measurement import BenchError, Measurement, NotMeasured, Row, Schedule, from_line, to_line
from bench.phone import adb
from bench.phone import measure as phone_measure
from bench.phone.adb import Phone, PhoneLost
from bench.phone.measure import measure, measure_in
from bench.phone.places import OUTPUTS, PhoneFile, Session
from bench.phone.storage import HOME, Parcel
from bench.runner.bundle import Bundle
from bench.runner.protocol import RunnerAnswer, parse
from bench.statistics import time_ratio
from exporters.artifact import Artifact

LEFT = ["manifest", "runner/lib/ld-linux-aarch64.so.1", "runner/lib/libc.so.6", "runner/run_onnx"]
HERE = Path(__file__).parents[1]
FIVE = phone_measure.PROCESSES


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """Two .onnx files, the first with 20 times the work of the second."""
    folder = tmp_path_factory.mktemp("pair")
    return matmul(folder / "wide.onnx", 800), matmul(folder / "narrow.onnx", 40)


@pytest.fixture(autouse=True)
def _brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting, and two processes for each file: each takes a dozen programs of the phone's."""
    monkeypatch.setattr(phone_measure, "POLL_SECONDS", 0.05)
    monkeypatch.setattr(phone_measure, "PROCESSES", 2)


@pytest.fixture
def five(_brief: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many processes for each file as outside of tests."""
    monkeypatch.setattr(phone_measure, "PROCESSES", FIVE)


def measured(rows: tuple[Row, ...]) -> tuple[Measurement, ...]:
    assert all(isinstance(row, Measurement) for row in rows)
    return rows  # type: ignore[return-value]  # the line above


def left(phone: VirtualPhone) -> list[str]:
    return [path.removeprefix("compress-export/") for path in phone.files]


def ends_there(phone: VirtualPhone, seconds: float = 30) -> bool:
    """True if the runner of this phone ends soon: adbd tells it to, some time after the client is gone."""
    deadline = time.monotonic() + seconds
    while runs_there(phone) and time.monotonic() < deadline:
        time.sleep(0.05)
    return not runs_there(phone)


def runs_there(phone: VirtualPhone) -> bool:
    """True if a runner of this phone is still a process of this machine."""
    words = Path(f"/proc/{(phone.root / 'running').read_text().strip()}/cmdline")
    return words.exists() and str(phone.root).encode() in words.read_bytes()


@pytest.mark.usefixtures("five")
def test_a_pair_is_measured_in_turns(phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]) -> None:
    said: list[tuple[int, int, str]] = []
    rows = measure(pair, PHOTOS, QUICK, lambda *step: said.append(step), phone.address, bundle.path.parent)
    wide, narrow = measured(rows)
    assert [block.turn for block in wide.blocks] == [0, 3, 4, 7, 8]
    assert [block.turn for block in narrow.blocks] == [1, 2, 5, 6, 9]
    for row, file in zip((wide, narrow), pair, strict=True):
        assert (row.network, row.sha256, row.format) == (file.network, file.sha256, "onnx")
        assert (row.device.kind, row.device.serial) == ("phone", phone.address)
        assert (row.runtime_version, row.pinned_cores, row.images, row.input_shape) == ("0.1", (1,), 3, (1, *SHAPE))
        assert all(len(block.samples_ms) >= 4 for block in row.blocks)
        assert [process.turn for process in row.processes] == [block.turn for block in row.blocks]
        assert {process.thermal_status for process in row.processes} == {0}
        assert {process.battery_celsius for process in row.processes} == {29.0}
        assert (row.mhz_before, row.mhz_after) == (1800.0, 1800.0)
        assert row.parity is not None
        assert row.parity.cosine == pytest.approx(1)
        assert row.note == "run by the adb shell, not inside an app"
        assert from_line(to_line(row)) == row
    assert time_ratio(wide, narrow).value > 3
    assert said[0] == (0, 14, "runner: push 1.9 MB")
    assert said[-1] == (13, 14, "narrow.onnx: process 5 of 5")
    assert left(phone) == LEFT


def test_a_second_measurement_pushes_the_files_only(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]
) -> None:
    said: list[str] = []
    for _ in range(2):
        measure(pair[1:], PHOTOS, QUICK, lambda _d, _t, now: said.append(now), phone.address, bundle.path.parent)
    assert said[0].startswith("runner: push")
    assert "runner: there already" in said


def test_other_formats_keep_their_place(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    (tmp_path / "net.mlpackage").mkdir()
    coreml = replace(pair[1], path=tmp_path / "net.mlpackage", format="mlpackage")
    lite = replace(pair[1], format="ptl")
    rows = measure([coreml, pair[1], lite], PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent)
    assert isinstance(rows[0], NotMeasured)
    assert rows[0].reason == "CoreML files run on Apple's systems only, and this is an Android phone"
    assert rows[0].device.kind == "phone"
    assert isinstance(rows[1], Measurement)
    assert isinstance(rows[2], NotMeasured)
    assert rows[2].reason == "the runner has no engine for TorchScript Lite; build it anew with `make runner`"
    before = len(phone.commands)
    assert measure([coreml], PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent) == rows[:1]
    assert len(phone.commands) == before + 1


class Echo:
    """A place without a runner: each process gives this machine's answers back, and tells the next of these counts."""

    process, note, wants_reference, formats = "echo", "", True, frozenset({"onnx", "pte"})

    def __init__(self, preemptions: Sequence[int | None]) -> None:
        self._preemptions = itertools.cycle(preemptions)

    def foreign(self, form: str) -> str:
        raise NotImplementedError(form)

    def parcels(self, _formats: AbstractSet[str]) -> list[Parcel]:
        return []

    def prepare(self, phone: Phone, formats: AbstractSet[str]) -> None: ...

    def run(self, session: Session, file: PhoneFile, _turn: int, _schedule: Schedule) -> RunnerAnswer:
        session.phone.read(f"cd {HOME} && mkdir -p answers && cp {file.place}.reference {OUTPUTS}")
        told = parse(json.dumps(LINE | {"outputs": None}), file.name)
        return replace(told, samples_ms=(1.0,) * 10, preemptions=next(self._preemptions))

    def clear(self, phone: Phone) -> None: ...


@pytest.fixture
def answers_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine's answers without a runtime."""
    answers = np.random.default_rng(2).random((len(PHOTOS), 5), dtype=np.float32)
    monkeypatch.setattr(phone_measure, "reference_outputs", lambda artifacts, *_: [answers] * len(artifacts))


@pytest.mark.usefixtures("answers_here")
def test_files_of_two_formats_did_not_take_turns(phone: VirtualPhone, pair: tuple[Artifact, Artifact]) -> None:
    files = [replace(file, format=form) for form in ("pte", "onnx") for file in pair]
    wide, narrow, *others = measured(measure_in(lambda: Echo([0]), files, PHOTOS, QUICK, serial=phone.address))
    assert time_ratio(narrow, wide).value == time_ratio(*others).value == 1
    assert [row.invalid for row in (wide, narrow, *others)] == [""] * 4
    for other in others:
        with pytest.raises(BenchError, match=r"two files that took turns in one session; .* did not; measure them in"):
            time_ratio(other, wide)


@pytest.mark.usefixtures("answers_here", "five")
@pytest.mark.parametrize(("told", "sum_of_five"), [([3, 1], 11), ([0], 0), ([4, None], None), ([None], None)])
def test_preemptions_are_known_where_every_process_told_them(
    phone: VirtualPhone, pair: tuple[Artifact, Artifact], told: list[int | None], sum_of_five: int | None
) -> None:
    (row,) = measured(measure_in(lambda: Echo(told), pair[1:], PHOTOS, QUICK, serial=phone.address))
    assert row.preemptions == sum_of_five


def test_images_of_another_size_are_refused(bundle: Bundle, pair: tuple[Artifact, Artifact]) -> None:
    text = r"^wide\.onnx takes images of 3x16x16, and these are 3x20x20; pass images of its own size, or export it"
    with pytest.raises(BenchError, match=text):
        measure(pair, np.zeros((1, 3, 20, 20), np.float32), QUICK, root=bundle.path.parent)


def test_a_missing_or_changed_runner_is_refused(
    pair: tuple[Artifact, Artifact], bundle: Bundle, tmp_path: Path
) -> None:
    with pytest.raises(BenchError, match=r"^there is no runner for aarch64 in .*; build it with `make runner`$"):
        measure(pair, PHOTOS, QUICK, root=tmp_path)
    (tmp_path / "aarch64").symlink_to(tmp_path / "copy")
    subprocess.run(["cp", "-r", str(bundle.path), str(tmp_path / "copy")], check=True)
    (tmp_path / "copy" / "run_onnx").write_bytes(b"changed")
    with pytest.raises(BenchError, match=r"the sha256 of .*run_onnx is not .*; build it with `make runner`$"):
        measure(pair, PHOTOS, QUICK, root=tmp_path)


@pytest.mark.usefixtures("five")
def test_a_cap_is_recorded(phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]) -> None:
    capped = replace(QUICK, runs=100_000, cap_seconds=0.12)
    (row,) = measured(measure(pair[:1], PHOTOS, capped, serial=phone.address, root=bundle.path.parent))
    runs = len(row.samples_ms)
    assert runs < 100_000
    assert row.schedule.cap_seconds == 0.12
    assert row.note.endswith(f"; {runs} of 500000 runs in 5 processes: 0.12 s were up")


@pytest.mark.usefixtures("five")
def test_a_warm_phone_is_left_to_cool(phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]) -> None:
    cool = battery(29.0)
    script(phone.root, "dumpsys battery", cool, cool, battery(33.0), battery(30.5))
    script(phone.root, "dumpsys thermalservice", *[thermal(0)] * 4, thermal(1), thermal(0))
    said: list[str] = []
    (row,) = measured(
        measure(pair[1:], PHOTOS, QUICK, lambda _d, _t, now: said.append(now), phone.address, bundle.path.parent)
    )
    assert [line for line in said if "cool" in line] == [
        "waiting for the phone to cool: its battery has 33.0 C, 29.0 C at the start",
        "waiting for the phone to cool: its thermal status is 1, and has to be 0",
    ]
    assert {process.thermal_status for process in row.processes} == {0}
    assert max(process.battery_celsius or 0 for process in row.processes) == 30.5


@pytest.mark.usefixtures("five")
def test_a_phone_that_stays_hot_ends_the_turns(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]
) -> None:
    script(phone.root, "dumpsys thermalservice", *[thermal(0)] * 4, thermal(3))
    with pytest.raises(BenchError) as error:
        measure(pair[1:], PHOTOS, replace(QUICK, cool_seconds=0.2), serial=phone.address, root=bundle.path.parent)
    assert str(error.value) == (
        f"phone {phone.address} did not cool down in 0.2 s: its thermal status is 3, and has to be 0; let it lie in "
        "the shade, take it out of its case, and measure again"
    )
    (row,) = measured(error.value.rows)
    assert len(row.blocks) == 3
    assert row.invalid == f"ended early: {error.value}"
    assert left(phone) == LEFT


@pytest.mark.usefixtures("five")
def test_a_clock_that_falls_half_way_makes_the_times_invalid(
    phone: VirtualPhone, bundle: Bundle, tmp_path: Path
) -> None:
    # A run has to be longer than the 10 ms in which the phone is stopped and let go, and there are runs enough for a
    # tenth of them to have a median that one disturbance does not move.
    files = [matmul(tmp_path / "long.onnx", 4000)]

    def hot(_done: int, _total: int, now: str) -> None:
        if "process 4" in now:
            phone.faults.throttle_after_seconds = 0.0
            set_clocks(phone.root, (600000, 800000))

    (row,) = measured(measure(files, PHOTOS, replace(QUICK, runs=20), hot, phone.address, bundle.path.parent))
    assert row.invalid.startswith("the last tenth of its runs was ")
    assert row.invalid.endswith(" % slower than the first, its clock went from 1800 to 600 MHz; let the phone cool")
    assert [process.mhz_after for process in row.processes] == [1800.0] * 3 + [600.0] * 2
    assert left(phone) == LEFT
    phone.faults.throttle_after_seconds = None
    (again,) = measured(measure(files, PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent))
    assert len(again.blocks) == 5


def test_a_phone_that_tells_no_clusters_is_not_pinned(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]
) -> None:
    for clock in phone.root.glob("sys/devices/system/cpu/*/cpufreq/cpuinfo_max_freq"):
        clock.unlink()
    script(phone.root, "dumpsys thermalservice")
    (row,) = measured(measure(pair[1:], PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent))
    assert row.pinned_cores is None
    assert row.note.endswith("; not pinned: this phone does not tell its clusters; this phone tells no thermal status")


def test_answers_that_differ_make_the_times_invalid(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]
) -> None:
    def spoil(_done: int, _total: int, now: str) -> None:
        if "process 1" in now:
            (image, *_) = sorted((phone.root / "data/local/tmp/compress-export/images").iterdir())
            image.write_bytes(np.ones(SHAPE, "<f4").tobytes())

    (row,) = measured(measure(pair[1:], PHOTOS, QUICK, spoil, phone.address, bundle.path.parent))
    assert row.parity is not None
    assert row.parity.cosine is not None
    assert row.parity.cosine < 0.99
    assert row.invalid.startswith("its outputs differ from those on this machine: cosine ")


@pytest.mark.parametrize(
    ("spoiled", "text"),
    [
        ("images/*", r"^narrow\.onnx on phone .* was not measured: images/\w+\.raw holds 5 bytes, not 3072$"),
        ("runner/run_onnx", r"its process ended with status \d+ and no answer; its last line was '.*run_onnx.*'$"),
    ],
)
def test_a_runner_that_fails_is_quoted(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact], spoiled: str, text: str
) -> None:
    def spoil(_done: int, _total: int, now: str) -> None:
        for path in (phone.root / "data/local/tmp/compress-export").glob(spoiled):
            if "process 1" in now:
                path.write_bytes(b"spoil")

    with pytest.raises(BenchError, match=text):
        measure(pair[1:], PHOTOS, QUICK, spoil, phone.address, bundle.path.parent)
    assert left(phone) == LEFT


def test_answers_of_another_size_are_named(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]
) -> None:
    def spoil(_done: int, _total: int, now: str) -> None:
        if "process 1" in now:
            (path,) = (phone.root / "data/local/tmp/compress-export/files").iterdir()
            path.write_bytes(pair[0].path.read_bytes())

    text = (
        rf"^narrow\.onnx gave 2400 numbers on phone {phone.address}, and 120 on this machine; build the runner anew "
        "with `make runner`$"
    )
    with pytest.raises(BenchError, match=text):
        measure(pair[1:], PHOTOS, QUICK, spoil, phone.address, bundle.path.parent)


def test_a_process_killed_by_a_signal_is_named(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]
) -> None:
    phone.faults.kill_after_seconds = 0.3
    text = (
        rf"^wide\.onnx on phone {phone.address} was not measured: its process was killed by SIGKILL; Android does that "
        r"when memory runs out: close apps, or measure a smaller file; it said nothing$"
    )
    with pytest.raises(BenchError, match=text):
        measure(pair, PHOTOS, replace(QUICK, seconds=9, cap_seconds=60), serial=phone.address, root=bundle.path.parent)
    assert left(phone) == LEFT
    phone.faults.kill_after_seconds = None
    measured(measure(pair, PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent))


def test_a_full_phone_is_named(phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]) -> None:
    phone.faults.space_bytes = 2_000_000
    text = rf"^phone {phone.address} would not push wide\.onnx \(2\.5 MB\): write failed: No space left on device; free"
    with pytest.raises(BenchError, match=text):
        measure(pair, PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent)
    assert left(phone) == LEFT
    phone.faults.space_bytes = None
    measured(measure(pair, PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent))


def test_a_phone_unplugged_during_a_push_goes_on_later(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]
) -> None:
    phone.faults.unplug_after_bytes = 2_000_000
    with pytest.raises(PhoneLost, match=r"went away during push wide\.onnx \(2\.5 MB\) \(device offline\); connect"):
        measure(pair, PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent)
    replug(phone)
    said: list[str] = []
    measure(pair, PHOTOS, QUICK, lambda _d, _t, now: said.append(now), phone.address, bundle.path.parent)
    assert said[0] == "runner: there already"
    assert left(phone) == LEFT


def test_a_phone_unplugged_during_a_run_goes_on_later(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]
) -> None:
    phone.faults.unplug_after_seconds = 0.3
    long = replace(QUICK, seconds=90, cap_seconds=600)
    begun = time.monotonic()
    with pytest.raises(PhoneLost, match=r"went away during the run of wide\.onnx \(device offline\); connect it again"):
        measure(pair, PHOTOS, long, serial=phone.address, root=bundle.path.parent)
    assert time.monotonic() - begun < 60
    assert ends_there(phone)
    replug(phone)
    measured(measure(pair, PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent))
    assert left(phone) == LEFT


def test_a_runner_that_hangs_is_given_up_and_ended(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    phone.faults.throttle_after_seconds, phone.faults.throttle_share = 0.0, 0.0
    text = rf"^adb had 3 s to run narrow\.onnx on phone {phone.address} and did not; look at the phone's screen and"
    # The schedule's timeout holds for this machine's own answers as well, which take longer where it is busy.
    with monkeypatch.context() as hasty:
        hasty.setattr(Schedule, "process_seconds", 3.0)
        with pytest.raises(BenchError, match=text):
            measure(pair[1:], PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent)
    assert ends_there(phone)
    assert left(phone) == LEFT
    phone.faults.throttle_after_seconds = None
    measured(measure(pair[1:], PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent))


@pytest.mark.parametrize("fault", ["offline", "unauthorized"])
def test_a_phone_that_is_ready_again_is_measured(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact], fault: str
) -> None:
    setattr(phone.faults, fault, True)
    unplug(phone)
    if fault == "unauthorized":
        replug(phone)
    with pytest.raises(BenchError, match=rf"^phone {phone.address} is not ready \({fault}\): "):
        measure(pair[1:], PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent)
    assert phone.files == []
    setattr(phone.faults, fault, False)
    replug(phone)
    measured(measure(pair[1:], PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent))
    assert left(phone) == LEFT


def test_a_slow_phone_is_given_up_and_measured_later(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact], monkeypatch: pytest.MonkeyPatch
) -> None:
    measure(pair[1:], PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent)
    phone.faults.bytes_per_second = 100_000
    with monkeypatch.context() as hasty:
        hasty.setattr(adb, "PUSH_SECONDS", 0.5)
        with pytest.raises(BenchError, match=r"^adb had \d s to push wide\.onnx \(2\.5 MB\) and did not"):
            measure(pair[:1], PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent)
    phone.faults.bytes_per_second = None
    measured(measure(pair[:1], PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent))
    assert left(phone) == LEFT


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_leaves_the_phone_clean(
    phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact], number: int
) -> None:
    code = (
        "import sys; from pathlib import Path; from dataclasses import replace; import signal\n"
        "from bench.phone.measure import measure; from bench_files import artifact\n"
        "from phone_files import PHOTOS, QUICK\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "try: measure([artifact(Path(sys.argv[1]))], PHOTOS, replace(QUICK, seconds=30, cap_seconds=200),\n"
        "             lambda d, t, now: print(now, flush=True), sys.argv[2], Path(sys.argv[3]))\n"
        "except KeyboardInterrupt: sys.exit(130)\n"
    )
    words = [sys.executable, "-c", code, str(pair[0].path), phone.address, str(bundle.path.parent)]
    path = os.pathsep.join((str(HERE), str(HERE.parent)))
    parent = subprocess.Popen(words, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": path})
    assert parent.stdout is not None
    while "process 1" not in parent.stdout.readline():
        assert parent.poll() is None
    deadline = time.monotonic() + 60
    while not (phone.root / "running").exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    parent.send_signal(number)
    assert parent.wait(timeout=60) == 130
    parent.stdout.close()
    assert ends_there(phone)
    assert left(phone) == LEFT


def test_two_phones_do_not_disturb_each_other(plug: Plug, bundle: Bundle, pair: tuple[Artifact, Artifact]) -> None:
    one, other = plug(), plug()
    with pytest.raises(BenchError, match=r"^2 phones are connected: "):
        measure(pair[1:], PHOTOS, QUICK, root=bundle.path.parent)
    measure(pair[1:], PHOTOS, QUICK, serial=one.address, root=bundle.path.parent)
    assert left(one) == LEFT
    assert other.commands == []


def test_no_setting_is_changed(phone: VirtualPhone, bundle: Bundle, pair: tuple[Artifact, Artifact]) -> None:
    measure(pair[1:], PHOTOS, QUICK, serial=phone.address, root=bundle.path.parent)
    spoken = " ".join(phone.commands)
    # The program `stop`, not `am force-stop`.
    assert not re.findall(r"(?<![\w-])(?:setprop|settings|cmd power|svc|stop) ", spoken)
