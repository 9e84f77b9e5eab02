"""The virtual phone for these tests, and the app's core on a JVM."""

import subprocess
from pathlib import Path

import pytest
from app_plans import Core
from virtual_phone.fixtures import bundle as bundle
from virtual_phone.fixtures import phone as phone
from virtual_phone.fixtures import plug as plug


@pytest.fixture(scope="session")
def core(app: Path, tmp_path_factory: pytest.TempPathFactory) -> Core:
    """The core that `make app` compiled, and what the tests ask of it."""
    desk, checks = app / "desk", tmp_path_factory.mktemp("checks")
    source = Path(__file__).parent / "app" / "Check.java"
    words = ["javac", "-Xlint:all", "-Werror", "-cp", f"{desk}/*", "-d", str(checks), str(source)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return Core(desk, checks)
