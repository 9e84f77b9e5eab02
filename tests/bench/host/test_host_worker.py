import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from bench_files import IMAGES, artifact, onnx_file, runs
from phone_files import PHOTOS, matmul

from bench.host.facts import pick_cores
from bench.host.worker import Open, Opened, Runs, Timed, agree, reference_outputs, serve, start_worker, time_runs
from bench.measurement import BenchError
from exporters.artifact import encode_path
from exporters.parity import compare


def test_every_thread_of_a_worker_is_pinned(tmp_path: Path) -> None:
    cores = pick_cores(1)
    if cores is None:
        pytest.skip("this system does not pin")
    np.save(tmp_path / "images.npy", IMAGES)
    file = onnx_file(tmp_path / "a.onnx", 16)
    with start_worker(serve, "a.onnx", 1, cores, timeout_seconds=60) as worker:
        opened = worker.ask("open", Open(file.path, "onnx", 1, tmp_path / "images.npy", cores), Opened)
        worker.ask("load", None, Timed)
        worker.ask("first", None, Timed)
        assert opened.pinned == cores
        statuses = [task.read_text() for task in Path(f"/proc/{worker.process.pid}/task").glob("*/status")]
        assert statuses
        assert all(f"Cpus_allowed_list:\t{cores[0]}\n" in status for status in statuses)
        environment = Path(f"/proc/{worker.process.pid}/environ").read_bytes().split(b"\0")
        assert {b"OMP_NUM_THREADS=1", b"OMP_WAIT_POLICY=passive"} <= set(environment)
    assert not runs(worker.process.pid)


def test_loading_imports_no_more_of_the_runtime(tmp_path: Path) -> None:
    """Else the runtime's own memory and import time would count as the model's."""
    np.save(tmp_path / "images.npy", IMAGES)
    onnx_file(tmp_path / "a.onnx", 16)
    file = Open(tmp_path / "a.onnx", "onnx", 1, tmp_path / "images.npy", None)
    lines = [msgspec.json.encode(request, enc_hook=encode_path) for request in (file, None, None)]
    code = f"""
import sys
from bench.host.worker import serve
from exporters.worker_process import Requests
imported = []
try:
    serve(Requests({lines!r}), lambda _: imported.append(set(sys.modules)))
except Exception as error:
    assert "Gone" in type(error).__name__, error
print({{name.partition(".")[0] for name in imported[1] - imported[0]}} & {{"onnxruntime", "torch", "numpy", "onnx"}})
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def seen(**request: Any) -> tuple[list[int], tuple[float, ...]]:
    """The images that a block's runs saw, and the block's samples."""
    images: list[int] = []

    def run(image: np.ndarray) -> np.ndarray:
        images.append(int(image[0]))
        return image

    pictures = (np.array([number], np.float32) for number in range(10**9))
    samples = time_runs(run, pictures, Runs(**{"runs": 1, "seconds": 0, "cap_seconds": 10} | request))
    return images, samples


def test_a_block_makes_its_runs_each_with_the_next_image() -> None:
    images, samples = seen(runs=5)
    assert images == [0, 1, 2, 3, 4]
    assert len(samples) == 5


def test_settling_runs_are_not_among_the_samples() -> None:
    images, samples = seen(runs=2, settle_runs=3)
    assert images == [0, 1, 2, 3, 4]
    assert len(samples) == 2


def test_a_block_goes_on_until_its_time_is_over() -> None:
    images, samples = seen(runs=1, seconds=0.02)
    assert len(samples) == len(images) > 10
    assert sum(samples) < 40


def test_a_capped_block_makes_one_run_at_least() -> None:
    assert len(seen(runs=10**9, cap_seconds=0.0)[1]) == 1


def test_a_warm_up_of_nothing_runs_nothing() -> None:
    assert seen(runs=0) == ([], ())


def test_a_file_answers_on_this_machine(tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    file = matmul(tmp_path / "a.onnx", 7)
    weights = numpy_helper.to_array(onnx.load(file.path).graph.initializer[0])
    (answers,) = reference_outputs([file], PHOTOS, 60)
    assert answers == pytest.approx(PHOTOS.reshape(3, -1) @ weights, rel=1e-4, abs=1e-4)


def test_a_file_that_does_not_run_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"this is no protobuf")
    with pytest.raises(
        BenchError, match=r"^a\.onnx does not run on this machine, so there is nothing to hold the .*again$"
    ):
        reference_outputs([artifact(tmp_path / "a.onnx")], PHOTOS, 60)


def test_a_machine_that_takes_too_long_is_given_up(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"^a\.onnx did not answer on this machine in 0\.01 s$"):
        reference_outputs([matmul(tmp_path / "a.onnx", 2)], PHOTOS, 0.01)


@pytest.mark.parametrize(
    ("dtype", "noise", "same"),
    [
        ("float32", 1e-6, True),
        ("float32", 2e-2, False),
        ("int8", 2e-2, True),  # a code next to the other machine's
        ("int8", 0.5, False),
    ],
)
def test_outputs_agree_up_to_the_rounding_of_their_type(dtype: str, noise: float, same: bool) -> None:
    reference = np.random.default_rng(0).standard_normal((4, 10)).astype(np.float32)
    assert agree(compare(reference + np.float32(noise) * reference[::-1], reference), dtype) is same
    assert not agree(compare(reference[:, ::-1], reference), dtype)
