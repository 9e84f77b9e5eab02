"""`compress-export check` as CI calls it: exit statuses, outputs, and that it imports no toolkit and takes no time."""

import json
import re
import subprocess
import sys
from dataclasses import replace

import pytest
from bench_rows import measurement
from budget_runs import PHONE, disturbed, make_run, measured_in_app, ten_of_each, write_budgets

from bench.budgets.first_draft import most_ms
from bench.measurement import Block
from bench.statistics import summarize

RUN = 'run = "run"\ndevice = "host"\n'
LAYER = "<b>fc1|`x`</b>"


@pytest.fixture
def folder(tmp_path):
    make_run(tmp_path / "run", with_pte=False)
    return tmp_path


@pytest.mark.parametrize(
    ("limits", "words", "status"),
    [
        ('size = "1 MB"', [], 0),
        ('size = "1 kB"', [], 1),
        ('size = "1 kB"', ["--json"], 1),
        ('size = "1 kB"', ["--markdown"], 1),
        ('instructions = "1M"', [], 0),
        ('instructions = "1M"', ["--strict"], 1),
        ('size = "+1 %"', ["--base", "."], 0),
        ('size = "1 Mb"', [], 2),
        ('size = "1 MB"', ["--base", "nowhere"], 2),
        ('size = "1 MB"', ["--json", "--markdown"], 2),
        ('size = "1 MB"', ["--json", "--github"], 2),
        ('size = "1 MB"', ["--write", "a.txt"], 2),
        ('size = "1 MB"', ["--budgets", "b.toml"], 2),
        ('size = "1 MB"', ["--init", "run"], 2),
        ('size = "1 MB"', ["--sise"], 2),
    ],
)
def test_exit_statuses(call, folder, limits, words, status):
    write_budgets(folder, RUN + limits)
    found, out, err = call(folder, "check", *words)
    assert found == status, err
    assert bool(err) == (status == 2)
    assert bool(out) == (status != 2)


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--json", "--markdown"], "--json and --markdown both print; pass one"),
        (["--json", "--github"], "--json and --github both print; pass one, and --write FILE.json for the JSON"),
        (["--write", "a.txt"], "--write a.txt: verdicts are written as .md or .json"),
        (["--github"], "there is no GITHUB_STEP_SUMMARY here"),
        (["--init", "run"], "budgets.toml exists; remove it"),
        (
            ["--init", "run", "--budgets", "dangling.toml"],
            "dangling.toml cannot be written (No such file or directory); "
            "pass another place with --budgets FILE, or make its folder one that can be written",
        ),
        (
            ["--write", "no/x.json"],
            "no/x.json cannot be written (No such file or directory); pass another place with "
            "--write FILE, or make its folder one",
        ),
        (["--init", "nowhere", "--budgets", "b.toml"], "--init nowhere: there is no such run or folder"),
    ],
)
def test_what_is_wrong_with_the_command_is_said(call, folder, monkeypatch, words, text):
    monkeypatch.delenv("GITHUB_STEP_SUMMARY", raising=False)
    write_budgets(folder, RUN + 'size = "1 MB"')
    (folder / "dangling.toml").symlink_to(folder / "no/where.toml")
    status, _, err = call(folder, "check", *words)
    assert status == 2
    assert text in err


def test_success_is_printed_too(call, folder):
    write_budgets(folder, RUN + 'size = "1 MB"\nlatency = "9 ms"\ninstructions = "1M"')
    _, out, _ = call(folder, "check")
    assert "run/artifacts/compressed.onnx" in out
    assert re.search(r"passed +latency, p50 +5\.00 ms +9\.00 ms", out)
    assert "not measured: the run has no simulated count of this file (budgets.toml:6)" in out
    assert out.endswith("2 passed, 1 not measured: the budgets hold\n")
    assert "\x1b" not in out  # no colour where it is no terminal


def test_times_that_are_not_steady_are_marked_wherever_a_verdict_is_told(call, folder):
    disturbed(folder / "run", preemptions=3)
    write_budgets(folder, RUN + 'latency = ["5 ms", "1 ms"]')
    _, out, _ = call(folder, "check")
    clause = "its times are not steady: p90 is 2.00 times p50; measure again"
    assert re.search(r"passed +latency, p50 +5\.00 ms, not steady +5\.00 ms", out)
    assert f"latency, p50: 4.00 ms too much (400 %) (budgets.toml:4); {clause}; largest MACs: layer fc1 1,200, " in out
    slower = "what disturbs a file makes it slower, so the limit holds (budgets.toml:4)"
    assert f"passed: run/artifacts/compressed.onnx: {clause}; {slower}" in out
    _, out, _ = call(folder, "check", "--markdown")
    assert f"- passed: run/artifacts/compressed.onnx: {clause}; {slower}" in out
    first, second = json.loads(call(folder, "check", "--json")[1])["verdicts"]
    assert first["unsteady"] == second["unsteady"] == ["p90 is 2.00 times p50"]
    assert (first["outcome"], first["parts_of"], second["parts_of"]) == ("passed", None, "MACs")


def test_a_failure_says_by_how_much_where_and_what_grew(call, tmp_path):
    for name, rank in (("head", 7), ("base", 4)):
        make_run(tmp_path / name / "run", rank, with_pte=False)
    write_budgets(tmp_path / "head", RUN + 'size = ["+2 % or 1 kB", "1 kB"]')
    status, out, _ = call(tmp_path / "head", "check", "--base", "../base")
    assert status == 1
    assert (
        "  size: 2,600 bytes too much (26 %) (budgets.toml:4); parts that grew: layer fc1 +3,600 bytes "
        "(4x200, 100x4 -> 7x200, 100x7)" in out
    )
    assert out.count("that grew:") == 1  # the second limit of one quantity does not repeat it
    assert out.endswith("2 failed, changes from ../base: the budgets do not hold\n")


def test_why_names_a_regression_that_was_planted_in_one_layer(call, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")  # a narrower terminal breaks the line
    for name, rank in (("head", 7), ("base", 4)):
        make_run(tmp_path / name / "run", rank, with_pte=False)
    write_budgets(tmp_path / "head", RUN + 'size = "1 MB"')
    status, out, _ = call(tmp_path / "head", "check", "--base", "../base", "--why")
    assert status == 0
    (line,) = [line for line in out.splitlines() if line.strip().startswith("fc1")]
    assert line.split() == [
        "fc1",
        "8,400",
        "67.2",
        "%",
        "+3,600",
        "bytes",
        "(4x200,",
        "100x4",
        "->",
        "7x200,",
        "100x7)",
    ]
    assert "nothing is stored twice" in out


def test_why_tells_types_operators_and_copies(call, tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    same = np.arange(100, dtype=np.float32)
    save_file(
        {"a.weight": same, "b.weight": same.copy(), "c.weight": same.astype(np.float16)}, tmp_path / "w.safetensors"
    )
    (tmp_path / "x.bin").write_bytes(b"12345")
    write_budgets(tmp_path, 'files = "[wx].*"\nsize = "2 kB"')
    _, out, _ = call(tmp_path, "check", "--why")
    assert "weights 800 bytes float32, 200 bytes float16" in out
    assert "operators: none: it holds weights only" in out
    assert "stored 2 times, 400 bytes each: a.weight 100 float32, b.weight 100 float32" in out
    assert "5 bytes; no reader knows this kind of file" in out


def test_why_leaves_small_layers_to_json(call, tmp_path):
    import numpy as np
    from safetensors.numpy import save_file

    save_file({f"l{n}.weight": np.zeros(n + 1, np.float32) for n in range(20)}, tmp_path / "w.safetensors")
    write_budgets(tmp_path, 'files = "w.*"\nsize = "1 MB"')
    assert "and 9 smaller layers (--json has all)" in call(tmp_path, "check", "--why")[1]
    assert len(json.loads(call(tmp_path, "check", "--why", "--json")[1])["files"][0]["weights"]) == 20


def test_json_has_every_verdict_and_what_is_inside(call, folder):
    write_budgets(folder, RUN + 'size = ["1 kB", "0.2x"]\ninstructions = "1M"')
    status, out, _ = call(folder, "check", "--json", "--why", "--write", "v.json", "--write", "v.md")
    found = json.loads(out)
    assert status == 1
    assert out == (folder / "v.json").read_text()
    assert (folder / "v.md").read_text().startswith("### ❌ Budgets: ")
    assert found["version"] == 1
    assert found["counts"] == {"passed": 1, "failed": 1, "not_measured": 1, "new_file": 0}
    size = (folder / "run/artifacts/compressed.onnx").stat().st_size
    original = (folder / "run/artifacts/original.onnx").stat().st_size
    failed, ratio, unmeasured = found["verdicts"]
    assert failed["excess"] == size - 1000
    assert (failed["outcome"], failed["line"], failed["unit"], failed["kind"]) == ("failed", 4, "bytes", "absolute")
    assert failed["parts"][0]["name"] == "fc1"
    assert (ratio["reference"], ratio["allowed"]) == (original, pytest.approx(0.2 * original))
    assert (unmeasured["value"], unmeasured["reason"]) == (None, "the run has no simulated count of this file")
    (file,) = found["files"]
    assert file["weights"][0] == {
        "name": "fc1.0.weight", "layer": "fc1", "type": "float32", "shape": [4, 200], "bytes": 3200,
    }  # fmt: skip


def test_markdown_is_a_comment_that_keeps_text_as_text(call, tmp_path):
    run = make_run(tmp_path / "run", with_pte=False)
    for name in ("plan.json", "compressed.json"):
        text = (run / name).read_text()
        (run / name).write_text(text.replace('"fc1', f'"{LAYER}'))
    write_budgets(tmp_path, RUN + 'parameters = "1k"\naccuracy = "9 %"')
    _, out, _ = call(tmp_path, "check", "--markdown", "--why")
    assert out.startswith("### ❌ Budgets: 1 passed, 1 failed: the budgets do not hold\n")
    assert "&#60;b&#62;fc1&#124;&#96;x&#96;&#60;/b&#62;" in out
    assert "<b>" not in out
    assert "| ✅ passed | run | top-1 accuracy | 97.50 % | at least 9.00 % |" in out
    assert "<details><summary>Inside run/artifacts/compressed.onnx</summary>" in out


def test_a_terminal_shows_names_as_they_are(call, tmp_path):
    run = make_run(tmp_path / "run", with_pte=False)
    for name in ("plan.json", "compressed.json"):
        (run / name).write_text((run / name).read_text().replace('"fc1', '"[red]fc1[/]'))
    write_budgets(tmp_path, RUN + 'parameters = "1k"')
    assert "largest parameters: layer [red]fc1[/] 1,200" in call(tmp_path, "check")[1]


def test_github_gets_a_summary_and_marks_on_lines(call, folder, monkeypatch):
    summary = folder / "summary.md"
    summary.write_text("before\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    write_budgets(folder, RUN + 'size = "1 kB"\ninstructions = "1M"')
    status, out, _ = call(folder, "check", "--github")
    assert status == 1
    assert summary.read_text().startswith("before\n### ❌ Budgets: ")
    (mark,) = [line for line in out.splitlines() if line.startswith("::")]
    assert mark.startswith("::error file=budgets.toml,line=4::run/artifacts/compressed.onnx, size: ")
    assert "%25" in mark  # a bare % would be read as an escape
    _, out, _ = call(folder, "check", "--github", "--strict")
    assert [line.partition("::run")[0] for line in out.splitlines() if line.startswith("::")] == [
        "::error file=budgets.toml,line=4",
        "::error file=budgets.toml,line=5",
    ]


def test_a_run_of_a_newer_version_is_bad_input(call, folder):
    (folder / "run/settings.json").write_text('{"version": 99}')
    write_budgets(folder, RUN + 'size = "1 MB"')
    status, _, err = call(folder, "check")
    assert status == 2
    assert "written by a newer compress-export: its files have version 99, this one reads up to 1" in err


def test_measurements_that_are_no_text_are_bad_input(call, folder):
    (folder / "run/measurements.jsonl").write_bytes(b"\xff\xfe")
    write_budgets(folder, RUN + 'latency = "9 ms"')
    status, _, err = call(folder, "check")
    assert status == 2
    assert err.startswith("compress-export: ")
    assert "measurements.jsonl is no text (invalid start byte at byte 0); it is UTF-8: mend it" in err


def test_a_run_without_files_fails_under_strict(call, folder):
    (folder / "run/artifacts.json").unlink()
    write_budgets(folder, RUN + 'size = "1 kB"')
    status, out, _ = call(folder, "check", "--strict")
    assert status == 1
    assert "the run has no exported files of its compressed network; `compress-export export run` (budgets" in out
    assert out.endswith("1 not measured, which fails under --strict: the budgets do not hold\n")


def test_init_of_an_unfinished_run_is_refused_and_what_is_left_out_is_said(call, folder):
    (folder / "run/accuracy.json").unlink()
    assert call(folder, "check", "--init", "run")[0] == 0
    text = (folder / "budgets.toml").read_text()
    assert "# no limit on accuracy: the run has no accuracy: it was made without --data" in text
    (folder / "budgets.toml").unlink()
    for name in ("compressed.json", "artifacts.json"):
        (folder / "run" / name).unlink()
        status, _, err = call(folder, "check", "--init", "run")
        assert (status, (folder / "budgets.toml").exists()) == (2, False)
        assert (
            f"run is an unfinished run: it has no compressed.json{' and no artifacts.json' * (name[0] == 'a')}" in err
        )
        assert "finish it with the command that began it" in err


def test_init_writes_budgets_that_hold(call, folder):
    status, out, _ = call(folder, "check", "--init", "run")
    assert (status, out) == (0, "budgets.toml: look at the limits, then `compress-export check`\n")
    text = (folder / "budgets.toml").read_text()
    assert 'parameters = ["2.23k", "+0 %"]  # 2,200' in text
    assert 'accuracy = "97 %"  # 97.5 %' in text
    assert call(folder, "check", "--base", ".", "--strict")[0] == 0


def test_init_suggests_a_latency_near_the_one_measured(call, folder):
    assert call(folder, "check", "--init", "run")[0] == 0
    path = folder / "budgets.toml"
    text = path.read_text()
    assert text.count('# device = "desk"\n# latency = "5.5 ms"  # p50 5 ms, p90 5 ms\n') == 1
    path.write_text(text.replace("# device", "device").replace("# latency =", "latency ="))
    status, out, _ = call(folder, "check", "--json")
    rows = [row for row in json.loads(out)["verdicts"] if row["quantity"] == "latency"]
    assert (status, [(row["outcome"], row["value"], row["allowed"]) for row in rows]) == (0, [("passed", 5.0, 5.5)])


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"preemptions": 200}, "other processes took the core from it 250 times a second; measure again, with nothing"),
        ({"invalid": "let the phone cool"}, "its times are invalid: let the phone cool; measure again, with nothing"),
        ({"verdict": "not measured", "reason": ""}, "nobody measured this file; `compress-export bench` does"),
    ],
)
def test_init_suggests_no_latency_from_times_that_are_not_steady(call, folder, change, text):
    path = folder / "run/measurements.jsonl"
    rows = [json.loads(line) | change for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert call(folder, "check", "--init", "run")[0] == 0
    drawn = (folder / "budgets.toml").read_text()
    assert drawn.count(f"# no limit on latency: {text}") == 1
    assert "latency =" not in drawn


def test_init_names_the_process_of_a_phone(call, tmp_path):
    measured_in_app(make_run(tmp_path / "run", device=PHONE, with_pte=False), times=1.5)
    assert call(tmp_path, "check", "--init", "run")[0] == 0
    text = (tmp_path / "budgets.toml").read_text()
    assert '# device = "Pixel 8"\n# process = "app"\n# latency = "8.3 ms"  # p50 7.5 ms, p90 7.5 ms\n' in text


@pytest.mark.parametrize(
    ("samples", "most"),
    [
        ([10.0] * 40, 11),  # a tenth above the median
        ([10.0] * 34 + [12.1] * 6, 13),  # p90, where that is more
        ([0.0523] * 40, 0.058),
        ([96.0] * 40, 110),
        ([1234.0] * 40, 1400),
    ],
)
def test_a_suggested_latency_covers_the_spread_in_two_digits(samples, most):
    row = replace(measurement(), blocks=(Block(0, tuple(samples)),))
    assert most_ms(summarize(row)) == pytest.approx(most)


@pytest.fixture(scope="module")
def ten(tmp_path_factory):
    """Ten files and ten runs, with every limit that a budget can have."""
    return ten_of_each(tmp_path_factory.mktemp("ten"))


def test_a_check_imports_no_toolkit(ten):
    code = (
        "import sys; from compress_export.cli.main import cli\n"
        "try: cli.main(['check', '--base', '.', '--why'], standalone_mode=False)\n"
        "except SystemExit as stop: print(stop.code, *sorted({name.split('.')[0] for name in sys.modules}))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ten, capture_output=True, text=True, check=True)
    status, *modules = done.stdout.splitlines()[-1].split()
    assert status == "0"
    assert not {"torch", "numpy", "onnx", "executorch", "coremltools", "safetensors", "matplotlib"} & set(modules)


def test_a_check_needs_no_more_than_click_rich_and_msgspec(ten):
    code = (
        "import sys; from compress_export.cli.main import cli\n"
        "try: cli.main(['check'], standalone_mode=False)\n"
        "except SystemExit: print(*{name.split('.')[0] for name, module in sys.modules.items()"
        " if 'site-packages' in (getattr(module, '__file__', None) or '')})"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ten, capture_output=True, text=True, check=True)
    assert set(done.stdout.splitlines()[-1].split()) <= {
        "click",
        "rich",
        "msgspec",
        "typing_extensions",  # which msgspec takes where it is there
        "pygments",
        "markdown_it",
        "mdurl",
        "_virtualenv",
        "_distutils_hack",
    }
