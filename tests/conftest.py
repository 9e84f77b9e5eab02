"""Fixtures of several folders: one run of the demo, the runner, and an adb server of their own.

Two processes of pytest-xdist share the tests, file by file; what is made once for all lies beside their temporary
folders, and a lock lets one of them make it.
"""

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from filelock import FileLock
from virtual_phone.kit import adb_environment

# What is connected to this machine, or installed on it, must not decide where tests measure.
os.environ["COMPRESS_EXPORT_DEVICE"] = "host"

# Before any test imports torch: threads that spin while they wait starve the processes that tests start.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# A shell starts what runs in its background with Ctrl-C ignored, and every process that a test starts and interrupts
# would inherit that.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


ROOT = Path(__file__).resolve().parents[1]


LONGEST = (
    "compress_export/models/test_torchvision_networks.py",
    "compress_export/pipeline/test_pipeline.py",
    "compress_export/pipeline/test_distributed.py",
    "test_wheel.py",
    "exporters/test_export_all.py",
    "exporters/test_export.py",
    "compress_export/latency/test_layer_times.py",
    "compress_export/cli/test_study.py",
    "compress_export/cli/test_bad_input.py",
    "bench/simulator/test_arm.py",
    "bench/phone/test_phone.py",
)
"""Files that take most time, longest first, so that two processes which share the files end together. The phone's last:
it judges times, and at first the demo trains beside the tests."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """The longest files come first. Those whose tests read the demo come last, those that read it most first: it runs
    beside all the others, and the first that reads it waits for it."""
    readers = Counter(item.path for item in items if "demo" in item.fixturenames)
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: (item.path in readers, -readers[item.path], places.get(item.path, len(places))))


@pytest.fixture(scope="session")
def common(tmp_path_factory, worker_id):
    """The folder that the processes of this run share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base if worker_id == "master" else base.parent) / "common"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def cache(common):
    """A folder of the tests' own for what plans measure: never the user's."""
    folder = common / "cache"
    folder.mkdir(exist_ok=True)
    os.environ["COMPRESS_EXPORT_CACHE"] = str(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def demo_begun(request, cache, common):
    """The demo's command, begun with the tests and run beside them: it takes a third of their time. None if unused.

    A shell starts it and ends, for tests that count or kill the processes of this one must not meet it.
    """
    assert cache
    if not any("demo" in item.fixturenames for item in request.session.items):
        return None
    folder, status = common / "demo", common / "demo-status"
    words = [sys.executable, "-m", "compress_export", "alexnet", "--data", "digits", "--target", "android"]
    script = f'( {shlex.join(words)} > "$0".log 2>&1; echo $? > "$0".new; mv "$0".new "$0" ) &'
    with FileLock(common / "demo.lock"):
        if not folder.exists():
            folder.mkdir()
            shell = subprocess.Popen(["sh", "-c", script, status], cwd=folder, start_new_session=True)
            shell.wait()
            (common / "demo-group").write_text(str(shell.pid))
    return folder, status


def pytest_sessionfinish(session):
    """Ends the demo, where all tests that would read it have been given up."""
    if hasattr(session.config, "workerinput"):
        return
    for group in session.config._tmp_path_factory.getbasetemp().glob("common/demo-group"):
        if not group.with_name("demo-status").exists():
            with contextlib.suppress(ProcessLookupError):
                os.killpg(int(group.read_text()), signal.SIGTERM)


@pytest.fixture(scope="session")
def demo(demo_begun):
    """A folder in which the demo's command has been run, as runs/alexnet-android."""
    folder, status = demo_begun
    while not status.exists():
        time.sleep(0.2)
    assert status.read_text() == "0\n", status.with_name("demo-status.log").read_text()
    return folder


def made(target):
    """`make TARGET` builds what is missing, and does nothing the second time."""
    (ROOT / "build").mkdir(exist_ok=True)
    with FileLock(ROOT / "build" / f"{target}.lock"):
        done = subprocess.run(["make", target], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]


@pytest.fixture(scope="session")
def runner():
    """The folder of the runner's bundles."""
    made("runner")
    return ROOT / "build" / "runner"


@pytest.fixture(scope="session")
def app():
    """The folder of the app's bundle."""
    made("app")
    return ROOT / "build" / "app" / "bundle"


@pytest.fixture(scope="session")
def checks(app):
    """The folder of what android_app/checks/pom.xml names, fetched once: `jars`, and Android's own in `frameworks`."""
    order, folder = ROOT / "android_app" / "checks" / "pom.xml", app.parent / "checks"
    stamp = folder / ".fetched"
    with FileLock(ROOT / "build" / "checks.lock"):
        if stamp.exists() and stamp.read_text() == order.read_text():
            return folder
        words = ["mvn", "-B", "-q", "-f", str(order), "process-resources"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        for aar in (folder / "jars").glob("*.aar"):
            with zipfile.ZipFile(aar) as archive:
                aar.with_suffix(".jar").write_bytes(archive.read("classes.jar"))
        stamp.write_text(order.read_text())
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_adb(tmp_path_factory):
    """An adb server for these tests alone: never the user's, and no phone of the user's is seen or touched."""
    if shutil.which("adb") is None:
        yield
        return
    own = adb_environment(tmp_path_factory.mktemp("adb"))
    subprocess.run(["adb", "start-server"], env={**os.environ, **own}, capture_output=True, check=True, timeout=60)
    # Keys lie in HOME, which only the server needs.
    os.environ.update({name: value for name, value in own.items() if name != "HOME"})
    os.environ.pop("ANDROID_SERIAL", None)
    yield
    subprocess.run(["adb", "kill-server"], capture_output=True, check=False, timeout=60)
