"""action.yml: its steps run as a shell would run them, on a pull request's base and head; the example fits it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
ACTION = yaml.safe_load((ROOT / "action.yml").read_text())
WORKFLOW = yaml.safe_load((ROOT / "docs" / "budgets-workflow.yml").read_text())
STEPS = ACTION["runs"]["steps"]

sys.path.insert(0, str(ROOT / "tests" / "bench"))

from budget_runs import make_run, write_budgets  # noqa: E402  # it lies among the tests of bench


def test_every_input_and_output_is_described():
    assert all(entry["description"] for entry in [*ACTION["inputs"].values(), *ACTION["outputs"].values()])


def test_no_expression_stands_inside_a_script():
    """Words of a pull request's author must not become a part of a shell's command."""
    assert [step["name"] for step in STEPS if "${{" in step["run"]] == []
    scripts = [step["run"] for job in WORKFLOW["jobs"].values() for step in job["steps"] if "run" in step]
    assert scripts
    assert not any("${{" in script for script in scripts)


def test_the_example_passes_inputs_that_there_are():
    (step,) = [each for each in WORKFLOW["jobs"]["budgets"]["steps"] if "compress-export" in each.get("uses", "")]
    assert set(step["with"]) <= set(ACTION["inputs"])


@pytest.fixture
def clone(tmp_path):
    """A shallow clone of a pull request's head, whose base is only known to the origin."""
    origin = tmp_path / "origin"
    git = ["git", "-C", str(origin), "-c", "user.name=a", "-c", "user.email=a@b"]
    make_run(origin / "run", 4, with_pte=False)
    write_budgets(origin, 'run = "run"\nsize = ["1 MB", "+2 % or 1 kB"]\ninstructions = "1M"')
    for words in (["init", "-q", "-b", "main"], ["config", "uploadpack.allowAnySHA1InWant", "true"], ["add", "-A"],
                  ["commit", "-qm", "base"]):  # fmt: skip
        subprocess.run([*git, *words], check=True)
    return tmp_path, git


def grow(folder, git):
    """The pull request: fc1 at a higher rank."""
    subprocess.run([*git, "rm", "-rqf", "run"], check=True)
    make_run(folder / "origin/run", 7, with_pte=False)
    for words in (["add", "-A"], ["commit", "-qm", "head"]):
        subprocess.run([*git, *words], check=True)


def run_steps(folder, git, **inputs):
    """(status, output, GITHUB_OUTPUT, summary) of the action's steps in a clone of depth 1."""
    base = subprocess.run([*git, "rev-parse", "HEAD~1"], capture_output=True, text=True, check=True).stdout.strip()
    work = folder / "work"
    subprocess.run(["git", "clone", "-q", "--depth=1", f"file://{folder / 'origin'}", work], check=True)
    values = {f"inputs.{name}": str(entry["default"]) for name, entry in ACTION["inputs"].items()}
    values |= {"inputs.base": base, "github.action_path": str(ROOT), "runner.temp": str(folder / "temp")}
    values |= {f"inputs.{name}": value for name, value in inputs.items()}
    status, said = 0, ""
    for step in STEPS:
        files = {"GITHUB_OUTPUT": folder / step["name"], "GITHUB_STEP_SUMMARY": folder / "summary"}
        given = {
            name: re.sub(r"\$\{\{ *([\w.]+) *\}\}", lambda match: values[match[1]], text)
            for name, text in step["env"].items()
        }
        environment = {**os.environ, **given, **{name: str(path) for name, path in files.items()}}
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]]
        done = subprocess.run(shell, cwd=work, env=environment, capture_output=True, text=True, check=False)
        status, said = done.returncode, said + done.stdout + done.stderr
        if status:
            break
        if "id" in step:
            told = (line.partition("=") for line in files["GITHUB_OUTPUT"].read_text().splitlines())
            values.update({f"steps.{step['id']}.outputs.{name}": value for name, _, value in told})
    return status, said, *(path.read_text() if path.exists() else "" for path in files.values())


@pytest.mark.slow
def test_a_pull_request_that_grows_a_layer_fails_with_its_name(clone):
    folder, git = clone
    grow(folder, git)
    status, said, output, summary = run_steps(folder, git)
    assert status == 1, said
    assert output == "holds=false\n"
    assert "parts that grew: layer fc1 +3,600 bytes" in said
    assert "::error file=budgets.toml,line=3::run/artifacts/compressed.onnx, size: " in said
    assert summary == (folder / "work/budgets-comment.md").read_text()
    assert summary.startswith("### ❌ Budgets: 1 passed, 1 failed, 1 not measured, changes from ")
    assert '"holds": false' in (folder / "work/budgets-verdicts.json").read_text()


@pytest.mark.slow
def test_a_base_may_be_a_branch_that_only_the_origin_has(clone):
    folder, git = clone
    subprocess.run([*git, "checkout", "-qb", "grown"], check=True)
    grow(folder, git)
    status, said, output, summary = run_steps(folder, git, base="main")
    assert (status, output) == (1, "holds=false\n"), said
    commit = subprocess.run([*git, "rev-parse", "main"], capture_output=True, text=True, check=True).stdout.strip()
    assert summary.startswith(f"### ❌ Budgets: 1 passed, 1 failed, 1 not measured, changes from {commit}: ")


@pytest.mark.slow
def test_the_first_push_of_a_branch_has_no_base(clone):
    folder, git = clone
    grow(folder, git)
    status, said, output, summary = run_steps(folder, git, base="0" * 40)
    assert status == 0, said
    assert output == "holds=true\n"
    assert "1 passed, 2 not measured: the budgets hold" in summary


@pytest.mark.slow
def test_a_pull_request_that_grows_nothing_passes_and_strict_asks_for_more(clone):
    folder, git = clone
    (folder / "origin/README").write_text("a")
    for words in (["add", "-A"], ["commit", "-qm", "head"]):
        subprocess.run([*git, *words], check=True)
    status, said, output, summary = run_steps(folder, git)
    assert status == 0, said
    assert output == "holds=true\n"
    assert summary.startswith("### ✅ Budgets: 2 passed, 1 not measured")
    status, said, output, _ = run_steps_again(folder, git, strict="true")
    assert status == 1
    assert output.endswith("holds=false\n")


def run_steps_again(folder, git, **inputs):
    import shutil

    shutil.rmtree(folder / "work")
    return run_steps(folder, git, **inputs)
