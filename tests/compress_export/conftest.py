"""A small network of the user's own, and the command line called as a shell would call it."""

import sys
from pathlib import Path

import pytest
from filelock import FileLock
from virtual_phone.fixtures import bundle as bundle
from virtual_phone.fixtures import phone as phone
from virtual_phone.fixtures import plug as plug

from compress_export.cli import main as cli

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "bench"))  # its rows and runs serve the reports' tests too

NET = '''
"""A user's own file: 30k parameters, 16x16 images, ten classes."""
from torch import nn

def build():
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(512, 48), nn.ReLU(), nn.Linear(48, 10),
    )
'''


@pytest.fixture(scope="session")
def net_file(tmp_path_factory):
    path = tmp_path_factory.mktemp("user") / "net.py"
    path.write_text(NET)
    return path


def status_of(monkeypatch, folder, *words):
    """The exit status of `compress-export words` in the folder, run in this process."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["compress-export", *map(str, words)])
    try:
        cli.main()
    except SystemExit as stop:
        return stop.code or 0
    return 0


@pytest.fixture
def call(monkeypatch, capsys):
    """call(folder, *words) -> (exit status, standard output, standard error) of `compress-export words` there."""

    def run(folder, *words):
        capsys.readouterr()
        status = status_of(monkeypatch, folder, *words)
        out = capsys.readouterr()
        return status, out.out, out.err

    return run


@pytest.fixture(scope="session")
def status_once():
    """status_once(folder, *words) -> the exit status, for fixtures that make a run for several tests."""

    def run(folder, *words):
        with pytest.MonkeyPatch.context() as patch:
            return status_of(patch, folder, *words)

    return run


@pytest.fixture(scope="session")
def digits_weights(common, net_file, status_once):
    """Weights of the small network, trained on digits once for all tests that want a trained one."""
    run = common / "runs" / "digits"
    words = ("plan", f"{net_file}:build", "--input", "3x16x16", "--data", "digits", "--train", "8", "--name", run.name)
    with FileLock(common / "digits.lock"):
        if not (run / "plan.json").exists():
            assert status_once(common, *words, "--max-params", "0.5x", "--set", "plan.costs=counted") == 0
    return run / "original.safetensors"
