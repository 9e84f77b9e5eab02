import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
from bench_files import IMAGES, onnx_file

from bench.host.worker import _block


def test_what_a_library_prints_stays_out_of_the_answers() -> None:
    code = (
        "import os; from bench.host.worker import _take_stdout; answers = _take_stdout(); "
        "os.system('echo from C'); print('from Python', flush=True); print('{}', file=answers, flush=True)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "{}\n"
    assert result.stderr == "from C\nfrom Python\n"


def test_nothing_heavy_is_imported_before_the_process_is_pinned() -> None:
    code = (
        "import sys, bench.host.worker; print({'numpy', 'torch', 'onnxruntime', 'exporters.formats'} & {*sys.modules})"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def test_loading_imports_no_more_of_the_runtime(tmp_path: Path) -> None:
    """Else the runtime's own memory and import time would count as the model's."""
    np.save(tmp_path / "images.npy", IMAGES)
    onnx_file(tmp_path / "a.onnx", 16)
    code = f"""
import sys
from bench.host.worker import serve
order = {{"path": {str(tmp_path / "a.onnx")!r}, "format": "onnx", "threads": 1, "cores": None}}
answers = serve(iter([order | {{"images": {str(tmp_path / "images.npy")!r}}}, {{}}, {{}}]))
next(answers)
before = set(sys.modules)
next(answers)
print({{name.partition(".")[0] for name in set(sys.modules) - before}} & {{"onnxruntime", "torch", "numpy", "onnx"}})
"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


def seen(**order: Any) -> tuple[list[int], list[float]]:
    """The images that a block's runs saw, and the block's samples."""
    images: list[int] = []

    def run(image: np.ndarray) -> np.ndarray:
        images.append(int(image[0]))
        return image

    pictures = (np.array([number], np.float32) for number in range(10**9))
    samples = _block(run, pictures, {"runs": 1, "seconds": 0, "cap": 10, "settle_runs": 0} | order)
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
    assert len(seen(runs=10**9, cap=0.0)[1]) == 1


def test_a_warm_up_of_nothing_runs_nothing() -> None:
    assert seen(runs=0) == ([], [])
