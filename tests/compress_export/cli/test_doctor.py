import subprocess
import sys

import pytest

from compress_export.cli import doctor


@pytest.fixture
def enough_room(monkeypatch):
    """The room on this machine's disk must not decide what other findings say."""
    monkeypatch.setattr(doctor, "FREE_GB", 0)


@pytest.mark.usefixtures("enough_room")
def test_this_machine_can_do_the_main_job(capsys):
    assert doctor.examine()
    out = capsys.readouterr().out
    assert "write .pte" in out
    assert "torch" in out


def test_what_is_missing_is_named_with_its_command(monkeypatch, capsys):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "onnxscript" else name)
    assert not doctor.examine()
    assert "pip install onnxscript" in " ".join(capsys.readouterr().out.split())


def test_a_full_disk_is_a_fault_and_says_what_helps(monkeypatch):
    monkeypatch.setattr(doctor, "FREE_GB", 10**6)
    assert not doctor.examine()
    found = next(finding for finding in doctor.findings_here() if finding.ability == "keep runs here")
    assert (found.ready, found.needed) == (False, True)
    assert found.cure == "free some, or pass --runs on another disk"


@pytest.mark.usefixtures("enough_room")
def test_what_only_some_commands_use_is_no_fault(monkeypatch):
    monkeypatch.setattr(doctor, "find_spec", lambda name: None if name == "timm" else name)
    assert doctor.examine()


def test_a_missing_program_is_named_with_its_package(monkeypatch, capsys):
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert doctor.examine()
    assert "apt-get install adb" in " ".join(capsys.readouterr().out.split())


def test_a_phone_needs_a_runner_as_well(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    found = next(finding for finding in doctor.findings_here() if finding.ability == "measure on a phone")
    assert (found.ready, found.cure) == (False, "make runner")
    assert found.found.endswith("but no runner to push")
    (tmp_path / "aarch64").mkdir()
    (tmp_path / "aarch64" / "manifest.json").write_text("{}")
    assert next(finding for finding in doctor.findings_here() if finding.ability == "measure on a phone").ready


@pytest.mark.parametrize("package", ["torch", "executorch", "coremltools"])
def test_nothing_is_imported_to_find_out(package):
    code = (
        "import sys; from compress_export.cli.doctor import findings_here; "
        f"list(findings_here()); print({package!r} in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
