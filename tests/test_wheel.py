"""The built wheel in a clean environment: the command works, away from the source tree."""

import json
import os
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    words = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT]
    subprocess.run(words, check=True, capture_output=True)
    (path,) = folder.glob("*.whl")
    return path


def test_the_wheel_holds_the_four_packages_and_nothing_else(wheel):
    top = {name.split("/")[0] for name in zipfile.ZipFile(wheel).namelist()}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "compress_export",
        "compressor",
        "exporters",
        "bench",
    }


def test_the_command_works_from_a_clean_environment(wheel, tmp_path):
    uv = [sys.executable, "-m", "uv"]
    home = tmp_path / "clean"
    subprocess.run([*uv, "venv", "-q", "--python", sys.executable, home], check=True)
    python = home / "bin" / "python"
    subprocess.run([*uv, "pip", "install", "-q", "--no-deps", "--python", python, wheel], check=True)
    # The packages of this environment, 7 GB, without the source tree: the .pth file that names it is not read there.
    clean = Path(sysconfig.get_path("purelib", vars={"base": str(home), "platbase": str(home)}))
    (clean / "packages.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    # Caches of compiled modules may be written here: torch compiled anew takes each command some seconds.
    own = ("PYTHONPATH", "VIRTUAL_ENV", "PYTHONDONTWRITEBYTECODE")
    environment = {name: value for name, value in os.environ.items() if name not in own}

    def call(*words):
        command = [home / "bin" / "compress-export", *words]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    where = subprocess.run(
        [python, "-c", "import exporters; print(exporters.__file__)"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert Path(where.stdout.strip()).is_relative_to(home)
    assert call("--version").stdout.startswith("compress-export, version ")
    findings = json.loads(call("doctor", "--json").stdout)
    # How much room and memory this machine has is not the wheel's doing.
    fit = [finding for finding in findings if finding["ability"] not in ("keep runs here", "hold AlexNet")]
    assert len(fit) > 5
    assert [finding for finding in fit if finding["needed"] and not finding["ready"]] == []
    done = call(
        "squeezenet1_1",
        "--weights",
        "none",
        "--input",
        "3x64x64",
        "--max-params",
        "0.5x",
        "--set",
        "plan.costs=counted",
        "--format",
        "onnx,pte",
        "--name",
        "clean",
        "--set",
        "bench.cap=0.5",
    )
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "runs/clean/artifacts").iterdir()) == [
        f"{network}.{suffix}" for network in ("compressed", "original") for suffix in ("onnx", "pte")
    ]
