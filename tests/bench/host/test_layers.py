"""Small files timed side by side in a real process."""

from pathlib import Path

import pytest
from bench_files import SIZE, onnx_file, runs

from bench.host.layer_latency import LAYER_DEVICES, Effort, TimedFile, host_stopwatch
from bench.measurement import BenchError
from exporters.formats import FORMATS

SHAPE = (1, 3, SIZE, SIZE)


def test_every_file_gets_its_samples_and_a_time(tmp_path: Path) -> None:
    files = [onnx_file(tmp_path / f"{width}.onnx", width).path for width in (4, 64)]
    with host_stopwatch("onnx", 1) as watch:
        few = watch.time([TimedFile(file, SHAPE) for file in files], Effort(fewest=6, most=6, seconds=0))
        many = watch.time([TimedFile(files[0], SHAPE, sweep=1 << 20)], Effort(fewest=1, most=20, seconds=60))
        turns = watch.time([TimedFile(file, SHAPE) for file in files], Effort(1, 1, 0, in_a_row=5))
    assert [timing.samples for timing in (*few, *many, *turns)] == [6, 6, 20, 10, 10]
    assert all(timing.ms > 0 for timing in (*few, *many, *turns))
    assert not runs(watch.worker.process.pid)


def test_a_file_that_is_none_is_named_by_its_error_and_the_device_by_its_death(tmp_path: Path) -> None:
    (tmp_path / "broken.onnx").write_bytes(b"no model")
    with host_stopwatch("onnx", 1) as watch:
        with pytest.raises(BenchError, match=r"^a layer's file was not measured: step 'time' failed: .*broken\.onnx"):
            watch.time([TimedFile(tmp_path / "broken.onnx", SHAPE)], Effort())
        with pytest.raises(BenchError, match=r"ended with exit status 1 during step 'time'"):
            watch.time([], Effort())


@pytest.mark.skipif(FORMATS["mlpackage"].runs_here, reason="here CoreML can be timed")
def test_a_format_that_does_not_run_here_is_refused() -> None:
    with (
        pytest.raises(
            BenchError, match=r"CoreML runs on darwin only, .* plan for another format: pte, onnx, tflite, p"
        ),
        host_stopwatch("mlpackage", 1),
    ):
        pass


@pytest.mark.parametrize("name", LAYER_DEVICES)
def test_every_device_knows_its_runtimes(name: str) -> None:
    assert all(LAYER_DEVICES[name].runtime_version(format)[0].isdigit() for format in FORMATS)
