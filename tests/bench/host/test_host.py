import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from bench_files import IMAGES, SHORT, artifact, children, onnx_file, ptl_file, runs

from bench.host import measure as host
from bench.host.measure import _affordable_rounds, measure, turns
from bench.measurement import BenchError, Measurement, NotMeasured, Row, Schedule
from bench.statistics import time_ratio
from exporters.artifact import Artifact
from exporters.formats import FORMATS

TINY = Path(__file__).parents[1] / "files" / "tiny.pte"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """Two .onnx files, the first with 16 times the work of the second."""
    folder = tmp_path_factory.mktemp("pair")
    return onnx_file(folder / "wide.onnx", 64), onnx_file(folder / "narrow.onnx", 16)


def measured(rows: tuple[Row, ...]) -> tuple[Measurement, ...]:
    assert all(isinstance(row, Measurement) for row in rows)
    return rows  # type: ignore[return-value]  # the line above


def test_files_take_turns_a_b_b_a() -> None:
    assert turns(2, 2) == (0, 1, 1, 0, 0, 1, 1, 0)
    assert turns(3, 1) == (0, 1, 2, 2, 1, 0)
    assert turns(1, 2) == (0, 0, 0, 0)


def test_a_pair_is_measured_in_turns_on_one_core(pair: tuple[Artifact, Artifact]) -> None:
    said: list[tuple[int, int, str]] = []
    wide, narrow = measured(measure(pair, IMAGES, replace(SHORT, rounds=6, runs=60), lambda *step: said.append(step)))
    assert [block.turn for block in wide.blocks] == [0, 3, 4, 7, 8, 11, 12, 15, 16, 19, 20, 23]
    assert [block.turn for block in narrow.blocks] == [1, 2, 5, 6, 9, 10, 13, 14, 17, 18, 21, 22]
    for row, file in zip((wide, narrow), pair, strict=True):
        assert (row.network, row.sha256, row.bytes) == (file.network, file.sha256, file.bytes)
        assert (row.runtime, row.input_shape, row.images, row.note) == ("ONNX Runtime", (1, 3, 16, 16), 3, "")
        assert row.pinned_cores == (max(os.sched_getaffinity(0)),)
        assert all(len(block.samples_ms) >= 5 for block in row.blocks)
        assert len(row.samples_ms) >= 60
        assert row.load_ms > 0
        assert row.first_ms > 0
    ratio = time_ratio(wide, narrow)
    assert ratio.value > 1.5
    assert ratio.differs
    assert said[:2] == [(0, 10, "wide.onnx: load"), (1, 10, f"wide.onnx: warm up, first run {wide.first_ms:.1f} ms")]
    assert said[-1] == (9, 10, "wide.onnx, narrow.onnx: round 6 of 6")


def test_memory_is_noted_in_four_phases(tmp_path: Path) -> None:
    # 2048 x 2048 floats are 16.8 MB in the file, and again in memory.
    (row,) = measured(measure([onnx_file(tmp_path / "big.onnx", 2048, window=1)], IMAGES, SHORT))
    memory = row.memory
    assert memory.model_peak is not None
    assert 16_000 < memory.model_peak < 120_000
    for phase in (memory.start, memory.loaded, memory.first, memory.end):
        assert phase.resident is not None
        assert phase.anonymous is not None
        assert phase.file is not None
        assert phase.proportional is not None
        assert phase.peak is not None
        assert phase.resident <= phase.peak
        assert phase.proportional <= phase.resident * 1.02
    # The peak was reset after the imports: nothing but this runtime's resident pages is in it.
    assert memory.start.peak == pytest.approx(memory.start.resident, rel=0.02)


@pytest.mark.parametrize("suffix", ["pte", "tflite", "ptl"])
def test_the_other_runtimes_are_measured_too(suffix: str, tmp_path: Path) -> None:
    file = artifact(TINY.with_suffix(f".{suffix}")) if suffix != "ptl" else ptl_file(tmp_path / "tiny.ptl")
    (row,) = measured(measure([file], IMAGES, SHORT))
    assert [block.turn for block in row.blocks] == [0, 1, 2, 3]
    assert len(row.samples_ms) >= 8
    assert row.runtime == FORMATS[suffix].runtime
    assert row.runtime_version[0].isdigit()
    assert row.pinned_cores == (max(os.sched_getaffinity(0)),)


@pytest.mark.skipif(sys.platform == "darwin", reason="CoreML runs there")
def test_coreml_is_not_measured_here_and_keeps_its_place(pair: tuple[Artifact, Artifact], tmp_path: Path) -> None:
    package = tmp_path / "tiny.mlpackage"
    package.mkdir()
    coreml = replace(pair[0], path=package, format="mlpackage", network="tiny")
    rows = measure([coreml, pair[1]], IMAGES, SHORT)
    assert isinstance(rows[0], NotMeasured)
    assert (rows[0].network, rows[0].format, rows[0].device.kind) == ("tiny", "mlpackage", "host")
    assert rows[0].reason == "CoreML predicts on macOS only"
    assert isinstance(rows[1], Measurement)


def test_a_slow_network_gets_fewer_runs_and_says_so(pair: tuple[Artifact, Artifact]) -> None:
    (row,) = measured(measure(pair[:1], IMAGES, replace(SHORT, runs=1_000_000, cap_seconds=0.05)))
    assert len(row.samples_ms) < 10_000
    assert row.note == f"{len(row.samples_ms)} of 1000000 runs: 0.05 s were up"


def test_a_system_that_pins_nothing_is_noted(pair: tuple[Artifact, Artifact], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "pick_cores", lambda *_: None)
    (row,) = measured(measure(pair[1:], IMAGES, SHORT))
    assert row.pinned_cores is None
    assert row.note.startswith("not pinned: ")


def test_two_threads_get_two_cores(pair: tuple[Artifact, Artifact]) -> None:
    if len(os.sched_getaffinity(0)) < 2:
        pytest.skip("a core for each of two threads")
    (row,) = measured(measure(pair[:1], IMAGES, replace(SHORT, threads=2)))
    assert row.threads == 2
    assert row.pinned_cores == tuple(sorted(os.sched_getaffinity(0))[-2:])


def test_rounds_shrink_when_one_run_is_long() -> None:
    schedule = Schedule(rounds=8, settle_runs=1, cap_seconds=30)
    assert _affordable_rounds(schedule, slow_ms=10) == 8
    # A round is two blocks of a settling run and a measured one: 8 s of a 2 s network.
    assert _affordable_rounds(schedule, slow_ms=2000) == 3
    assert _affordable_rounds(schedule, slow_ms=60_000) == 1


def test_a_process_killed_half_way_is_named(pair: tuple[Artifact, Artifact]) -> None:
    def kill_soon(_done: int, _total: int, line: str) -> None:
        if "round" in line:
            threading.Timer(0.2, lambda: os.kill(children(os.getpid())[0], signal.SIGKILL)).start()

    with pytest.raises(BenchError) as error:
        measure(pair[:1], IMAGES, replace(SHORT, seconds=20, rounds=1), kill_soon)
    assert str(error.value) == (
        "wide.onnx was not measured: its process was killed by SIGKILL during step 'block'; the kernel does that when "
        "memory runs out: see dmesg; it said nothing"
    )
    assert children(os.getpid()) == []


def test_a_corrupt_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "broken.onnx"
    path.write_bytes(b"this is no protobuf")
    with pytest.raises(BenchError, match=r"^broken\.onnx was not measured: step 'load' failed: InvalidProtobuf: .*"):
        measure([artifact(path)], IMAGES, SHORT)
    assert children(os.getpid()) == []


def test_images_of_another_size_are_refused(pair: tuple[Artifact, Artifact]) -> None:
    text = r"^wide\.onnx takes images of 3x16x16, and these are 3x20x20; pass images of its own size, or export it"
    with pytest.raises(BenchError, match=text):
        measure(pair[:1], np.zeros((1, 3, 20, 20), np.float32), SHORT)


def test_a_step_that_takes_too_long_is_ended(pair: tuple[Artifact, Artifact]) -> None:
    text = r"a step may take 0\.01 s, and 'open' took longer; raise the schedule's timeout_seconds, or look whether"
    with pytest.raises(BenchError, match=text):
        measure(pair[:1], IMAGES, replace(SHORT, timeout_seconds=0.01))
    assert children(os.getpid()) == []


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda file: replace(file, format="caffe"), "has format 'caffe'; choose among pte, onnx, tflite, ptl, mlpack"),
        (lambda file: replace(file, path=Path("/nowhere/a.onnx")), "there is no /nowhere/a.onnx; export it again"),
        (lambda file: replace(file, sha256="0" * 64), "its sha256 is not 000000000000... any more; export it again"),
    ],
)
def test_what_is_no_such_artifact_is_refused(
    pair: tuple[Artifact, Artifact], spoil: Callable[[Artifact], Artifact], text: str
) -> None:
    with pytest.raises(BenchError) as error:
        measure([spoil(pair[0])], IMAGES, SHORT)
    assert text in str(error.value)


@pytest.mark.parametrize("images", [IMAGES[0], IMAGES[:0], IMAGES.astype(np.float64)])
def test_what_are_no_images_is_refused(pair: tuple[Artifact, Artifact], images: np.ndarray) -> None:
    with pytest.raises(BenchError, match=r"^images are float32 and of shape \(N, C, H, W\), not float\d\d and \("):
        measure(pair[:1], images, SHORT)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_no_process_outlives_its_parent(number: int, status: int, tmp_path: Path) -> None:
    onnx_file(tmp_path / "a.onnx", 16)
    code = """
        import sys
        from dataclasses import replace
        from pathlib import Path
        from bench_files import IMAGES
        from bench_files import SHORT
        from bench_files import artifact
        from bench.host.measure import measure
        try:
            measure([artifact(Path(sys.argv[1]))], IMAGES, replace(SHORT, seconds=2, rounds=1), print)
        except KeyboardInterrupt:
            sys.exit(130)
    """
    parent = subprocess.Popen(
        [sys.executable, "-u", "-c", "\n".join(line[8:] for line in code.splitlines()), str(tmp_path / "a.onnx")],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])},
    )
    assert parent.stdout is not None
    while "round" not in parent.stdout.readline():
        assert parent.poll() is None
    (child,) = children(parent.pid)
    parent.send_signal(number)
    assert parent.wait(timeout=10) == status
    parent.stdout.close()
    # After SIGKILL the child finds its pipe closed once its block (1 s) is over.
    deadline = time.monotonic() + 10
    while runs(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not runs(child)
