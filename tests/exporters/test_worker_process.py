"""Both ends of a worker, in real processes."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import pytest

from exporters.artifact import ExportError
from exporters.worker_process import Requests, Worker, WorkerError, WorkerKilledError, WorkerTimeoutError, start

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Sum:
    numbers: tuple[int, ...]


@dataclass(frozen=True)
class Total:
    total: int
    cores: tuple[int, ...]


def serve(requests, answer):
    """Adds numbers; what it prints is no answer. A single number makes it do what is asked of no worker."""
    print("hello", flush=True)
    os.system("echo from a shell")
    imported = {"numpy", "torch"} & set(sys.modules)
    for request in requests.until_none(Sum):
        if request.numbers == (1,):
            raise ExportError("no sum has one number;\nadd another")
        if request.numbers == (2,):
            os.kill(os.getpid(), signal.SIGKILL)
        answer(Total(sum(request.numbers), tuple(os.sched_getaffinity(0))))
    answer(sorted(imported))


@pytest.fixture
def worker(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(HERE))
    core = max(os.sched_getaffinity(0))
    with start(serve, lambda error: error, cores=[core], timeout_seconds=30) as running:
        yield running


def test_requests_are_answered_whatever_else_is_printed(worker):
    core = max(os.sched_getaffinity(0))
    assert worker.ask("add", Sum((3, 4)), Total) == Total(7, (core,))
    worker.send("add", Sum((3, 5)))
    worker.send("add", Sum((3, 6)))
    assert [worker.receive("add", Total).total for _ in range(2)] == [8, 9]


def test_an_error_is_one_line_and_the_next_request_meets_the_death(worker):
    with pytest.raises(WorkerError, match=r"^step 'add' failed: no sum has one number; add another$"):
        worker.ask("add", Sum((1,)), Total)
    with pytest.raises(WorkerError, match=r"^its process ended with exit status 1 during step 'more'; its last "):
        worker.ask("more", Sum((3,)), Total)


def test_a_killed_worker_is_told_from_a_failed_one(worker):
    text = r"^its process was killed by SIGKILL during step 'add'; the kernel does that when memory runs out: see dmesg"
    with pytest.raises(WorkerKilledError, match=text):
        worker.ask("add", Sum((2,)), Total)


def test_nothing_of_a_worker_is_imported_before_it_is_pinned():
    code = "import sys, exporters.worker_process; print({'numpy', 'torch', 'exporters.formats'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_worker_ends_with_its_parent(number):
    code = f"""
import sys, time
sys.path.insert(0, {str(HERE)!r})
from test_worker_process import sleep, start
with start(sleep, lambda error: error) as worker:
    worker.send("sleep", None)
    worker.receive("sleep", type(None))
    print(worker.process.pid, flush=True)
    time.sleep(60)
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])}
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    )
    with parent, parent.stdout:
        child = int(parent.stdout.readline())
        parent.send_signal(number)
        parent.wait(timeout=10)
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}/stat").exists() and time.monotonic() < deadline:
        if Path(f"/proc/{child}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
            break
        time.sleep(0.05)
    else:
        assert not Path(f"/proc/{child}").exists()


def sleep(requests, answer):
    """A worker in the middle of its work."""
    from exporters.worker_process import end_with_parent

    requests.next(type(None))
    end_with_parent()
    answer(None)
    time.sleep(60)


def scripted(script: str, log: Path, timeout_seconds: float = 10) -> Worker:
    """A Worker whose process is a shell script."""
    with log.open("wb") as errors:
        process = subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    assert process.stdout is not None
    return Worker(process, process.stdout.fileno(), log, lambda error: error, timeout_seconds)


@pytest.mark.parametrize(
    ("script", "text"),
    [
        (
            "read request; echo out of luck >&2; echo >&2; exit 3",
            "its process ended with exit status 3 during step 'load'; its last line was 'out of luck'",
        ),
        ("read request; kill -ABRT $$", "its process was killed by SIGABRT during step 'load'; it said nothing"),
        ('read request; echo \'{"error": "OSError: no such file"}\'', "step 'load' failed: OSError: no such file"),
    ],
)
def test_a_death_is_one_sentence(script, text, tmp_path):
    worker = scripted(script, tmp_path / "log")
    with pytest.raises(WorkerError) as error:
        worker.ask("load", None, dict)
    assert str(error.value) == text
    worker.process.communicate()


def test_a_worker_that_died_between_two_requests_is_named(tmp_path):
    worker = scripted("exit 0", tmp_path / "log")
    worker.process.wait()
    with pytest.raises(
        WorkerError, match=r"its process ended with exit status 0 during step 'block'; it said nothing$"
    ):
        worker.ask("block", None, dict)
    worker.process.communicate()


def test_an_answer_may_come_in_pieces_and_two_at_once(tmp_path):
    worker = scripted(
        """read a; printf '{"value"'; sleep 0.2; printf ': 1}\\n{"value": 2}\\n'; read b; cat >/dev/null""",
        tmp_path / "log",
    )
    assert worker.ask("load", None, int) == 1
    assert worker.ask("first", None, int) == 2
    worker.process.communicate()


def test_silence_ends_with_the_timeout(tmp_path):
    worker = scripted("cat >/dev/null", tmp_path / "log", timeout_seconds=0.2)
    with pytest.raises(WorkerTimeoutError, match=r"^a step may take 0\.2 s, and 'first' took longer$"):
        worker.ask("first", None, dict)
    worker.process.communicate()


def test_requests_that_end_early_end_the_worker():
    requests = Requests([b'{"numbers": [1, 2]}', b"null"])
    assert list(requests.until_none(Sum)) == [Sum((1, 2))]
    with pytest.raises(Exception, match=r"^$"):
        requests.next(Sum)
