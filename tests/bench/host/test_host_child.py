import os
import subprocess
from pathlib import Path

import numpy as np
import pytest
from bench_files import IMAGES, onnx_file, runs

from bench.host.worker_client import Child, start
from bench.measurement import BenchError


def test_every_thread_of_a_child_is_pinned(tmp_path: Path) -> None:
    core = min(os.sched_getaffinity(0))
    np.save(tmp_path / "images.npy", IMAGES)
    file = onnx_file(tmp_path / "a.onnx", 16)
    with start("a.onnx", threads=1, timeout_seconds=60) as child:
        order = {"path": str(file.path), "format": "onnx", "threads": 1, "images": str(tmp_path / "images.npy")}
        opened = child.ask("open", cores=[core], **order)
        child.ask("load")
        child.ask("first")
        assert opened["pinned"] == [core]
        statuses = [task.read_text() for task in Path(f"/proc/{child.process.pid}/task").glob("*/status")]
        assert statuses
        assert all(f"Cpus_allowed_list:\t{core}\n" in status for status in statuses)
        environment = Path(f"/proc/{child.process.pid}/environ").read_bytes().split(b"\0")
        assert {b"OMP_NUM_THREADS=1", b"OMP_WAIT_POLICY=passive"} <= set(environment)
    assert not runs(child.process.pid)


def scripted(script: str, log: Path, timeout_seconds: float = 10) -> Child:
    """A Child whose process is a shell script instead of the worker."""
    with log.open("wb") as errors:
        process = subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, bufsize=0
        )
    return Child("net.pte", process, log, timeout_seconds)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (
            "read order; echo out of luck >&2; echo >&2; exit 3",
            "its process ended with exit status 3 during step 'load'; its last line was 'out of luck'",
        ),
        (
            "read order; kill -ABRT $$",
            "its process was killed by SIGABRT during step 'load'; it said nothing",
        ),
        ('read order; echo \'{"error": "OSError: no such file"}\'', "step 'load' failed: OSError: no such file"),
    ],
)
def test_a_death_is_one_sentence(script: str, text: str, tmp_path: Path) -> None:
    child = scripted(script, tmp_path / "log")
    with pytest.raises(BenchError) as error:
        child.ask("load")
    assert str(error.value) == f"net.pte was not measured: {text}"
    child.process.communicate()


def test_a_child_that_died_between_two_orders_is_named(tmp_path: Path) -> None:
    child = scripted("exit 0", tmp_path / "log")
    child.process.wait()
    with pytest.raises(BenchError, match=r"its process ended with exit status 0 during step 'block'; it said nothing$"):
        child.ask("block")
    child.process.communicate()


def test_an_answer_may_come_in_pieces_and_two_at_once(tmp_path: Path) -> None:
    child = scripted(
        """read a; printf '{"ms"'; sleep 0.2; printf ': 1}\\n{"ms": 2}\\n'; read b; cat >/dev/null""", tmp_path / "log"
    )
    assert child.ask("load") == {"ms": 1}
    assert child.ask("first") == {"ms": 2}
    child.process.communicate()


def test_silence_ends_with_the_timeout(tmp_path: Path) -> None:
    child = scripted("cat >/dev/null", tmp_path / "log", timeout_seconds=0.2)
    with pytest.raises(BenchError, match=r"a step may take 0\.2 s, and 'first' took longer"):
        child.ask("first")
    child.process.communicate()
