"""Verdicts on real files: what passes, what fails and by how much, what grew, what was not measured."""

import json
import os
import shutil
import subprocess
from dataclasses import replace

import numpy as np
import pytest
from bench_rows import DEVICE, simulated
from budget_runs import PHONE, RANK, make_run, measured_in_app, onnx_layers, shapes, write_budgets
from safetensors.numpy import save_file

from bench.budgets.first_draft import draft
from bench.budgets.growth import MEASURES
from bench.budgets.limits import BudgetError, read_budgets
from bench.budgets.model_files import base_folder
from bench.budgets.verdicts import Checked, amount, cells, check, contrast, exact, remark
from bench.measurement import PROCESSES, Counts, to_line
from bench.phone import measure as phone
from bench.run_files import RUN_VERSION, RunError, RunFiles
from exporters.artifact import size_and_sha256

RUN = 'run = "run"\ndevice = "host"\n'


def verdicts(folder, *tables, base=None):
    return check(read_budgets(write_budgets(folder, *tables)), base).verdicts


def outcomes(folder, *tables, base=None):
    return [verdict.outcome for verdict in verdicts(folder, *tables, base=base)]


@pytest.fixture
def folder(tmp_path):
    """A folder with one run of a single compressed file."""
    make_run(tmp_path / "run", with_pte=False)
    return tmp_path


def one(folder, key, text, base=None):
    (verdict,) = verdicts(folder, f'{RUN}{key} = "{text}"', base=base)
    return verdict


@pytest.mark.parametrize(
    ("key", "passes", "fails", "value"),
    [
        ("parameters", "2200", "2199", 2200),
        ("parameters", "0.105x", "0.1x", 2200),
        ("macs", "2.2k", "2k", 2200),
        ("latency", "5 ms", "4.9 ms", 5.0),
        ("latency", "0.5x", "0.49x", 5.0),
        ("memory", "300 MB", "290 MB", (391_000 - 100_000) * 1024),
        ("memory", "1x", "0.9x", (391_000 - 100_000) * 1024),
        ("accuracy", "97.5 %", "98 %", 97.5),
        ("accuracy", "0.99x", "1x", 97.5),
    ],
)
def test_each_quantity_passes_at_its_limit_and_fails_beyond(folder, key, passes, fails, value):
    good, bad = one(folder, key, passes), one(folder, key, fails)
    assert (good.outcome, good.value, good.excess) == ("passed", pytest.approx(value), 0)
    assert bad.outcome == "failed"
    assert bad.excess > 0


def test_agreement_passes_at_its_limit_and_fails_beyond(tmp_path):
    make_run(tmp_path / "run", with_pte=False, agreement=31 / 32)
    good, bad = one(tmp_path, "agreement", "96.875 %"), one(tmp_path, "agreement", "97 %")
    assert (good.outcome, good.value, bad.outcome, bad.excess) == ("passed", 96.875, "failed", 0.125)


def test_size_is_exact_to_the_byte(folder):
    size = (folder / "run/artifacts/compressed.onnx").stat().st_size
    assert one(folder, "size", f"{size} B").outcome == "passed"
    failed = one(folder, "size", f"{size - 1} B")
    assert (failed.outcome, failed.excess) == ("failed", 1)
    assert cells(failed) == (f"{size:,} bytes", f"{size - 1:,} bytes")
    assert remark(failed, "budgets.toml").startswith(
        "1 byte too much (0.011 %) (budgets.toml:4); largest parts: layer fc1 "
    )


def test_a_ratio_of_sizes_is_to_the_originals_file(folder):
    files = folder / "run/artifacts"
    ratio = (files / "compressed.onnx").stat().st_size / (files / "original.onnx").stat().st_size
    assert one(folder, "size", f"{ratio + 1e-4:.4f}x").outcome == "passed"
    assert one(folder, "size", f"{ratio - 1e-4:.4f}x").outcome == "failed"
    assert one(folder, "shipped", "0.2x").outcome == "passed"
    (files / "original.onnx").unlink()
    assert "the original's file is not beside it" in one(folder, "size", "0.2x").reason


def test_shipped_is_what_zip_at_level_nine_makes_of_it(folder):
    import zlib

    content = (folder / "run/artifacts/compressed.onnx").read_bytes()
    verdict = one(folder, "shipped", "1 MB")
    assert verdict.value == len(zlib.compress(content, 9))
    remembered = json.loads((folder / "run" / "shipped.json").read_text())
    assert remembered == {size_and_sha256(folder / "run/artifacts/compressed.onnx")[1]: verdict.value}
    (folder / "run" / "shipped.json").write_text(json.dumps(dict.fromkeys(remembered, 17)))
    assert one(folder, "shipped", "1 MB").value == 17


def test_a_file_outside_a_run_is_shipped_too_and_a_package_as_a_whole(tmp_path):
    save_file({"a": np.zeros(1000, np.float32)}, tmp_path / "a.safetensors")
    package = tmp_path / "b.bundle"
    package.mkdir()
    small, note = verdicts(tmp_path, 'files = "a.safetensors"\nshipped = "1 kB"\naccuracy = "9 %"')
    assert small.outcome == "passed"
    assert note.outcome == "not measured"
    assert outcomes(tmp_path, 'files = "b.*"\nsize = "1 kB"') == ["failed"]  # a plain folder is no file


def test_a_run_is_judged_once_as_a_network_and_for_each_of_its_compressed_files(tmp_path):
    make_run(tmp_path / "run")
    found = verdicts(tmp_path, f'{RUN}parameters = "1M"\nsize = "1 MB"\nagreement = "100 %"')
    assert [(verdict.subject, verdict.limit.quantity) for verdict in found] == [
        ("run", "parameters"),
        ("run/artifacts/compressed.onnx", "size"),
        ("run/artifacts/compressed.onnx", "agreement"),
        ("run/artifacts/compressed.pte", "size"),
        ("run/artifacts/compressed.pte", "agreement"),
    ]


def test_files_of_a_run_know_their_run(tmp_path):
    make_run(tmp_path / "run")
    found = verdicts(tmp_path, 'files = "run/artifacts/original.*"\nparameters = "21000"\nmacs = "20k"')
    assert [verdict.outcome for verdict in found] == ["passed", "failed"] * 2


def test_a_file_that_its_run_did_not_record_has_no_run(folder):
    """The original under another name is not the compressed network."""
    shutil.copy(folder / "run/artifacts/original.onnx", folder / "run/artifacts/other.onnx")
    quantities = 'parameters = "2200"\nmacs = "1G"\naccuracy = "1 %"\nlatency = "1 s"\ninstructions = "1G"'
    found = verdicts(folder, f'files = "run/artifacts/other.*"\ndevice = "host"\n{quantities}')
    assert [(each.limit.quantity, each.outcome, each.value, each.reason) for each in found] == [
        ("parameters", "failed", 21_000, ""),
        *(
            (name, "not measured", None, f"no run recorded this file, and only a run tells {what}")
            for name, what in (
                ("macs", "MACs"),
                ("instructions", "measurements"),
                ("latency", "measurements"),
                ("accuracy", "accuracy"),
            )
        ),
    ]
    (grown,) = verdicts(folder, 'files = "run/artifacts/other.*"\nparameters = "+0 %"', base=folder)
    assert (grown.outcome, grown.reference) == ("passed", 21_000)
    drawn = draft(folder / "run/artifacts/other.onnx", folder)
    assert "# no limit on latency: nobody measured this file" in drawn


def test_parameters_outside_a_run_are_counted_in_the_file(tmp_path):
    onnx_layers(tmp_path / "a.onnx", shapes(4))
    (tmp_path / "b.bin").write_bytes(b"?")
    found = verdicts(tmp_path, 'files = "[ab].*"\nparameters = "2200"\nsize = "1 MB"')
    assert [(verdict.subject, verdict.outcome) for verdict in found] == [
        ("a.onnx", "passed"),
        ("a.onnx", "passed"),
        ("b.bin", "passed"),
        ("b.bin", "not measured"),
    ]


def test_a_device_is_a_name_or_a_kind(folder):
    for device, outcome in (("desk", "passed"), ("host", "passed"), ("pixel-7", "not measured")):
        (verdict,) = verdicts(folder, f'run = "run"\ndevice = "{device}"\nlatency = "9 ms"')
        assert verdict.outcome == outcome
    assert verdict.reason == "the run has no measurement of this file on 'pixel-7' (measured on desk (host))"


def test_a_process_is_named_and_the_shell_is_meant_where_none_is(tmp_path):
    table = 'run = "run"\ndevice = "phone"\nlatency = ["6 ms", "0.6x"]\n'
    run = make_run(tmp_path / "run", with_pte=False, device=PHONE)
    for process, reason in (("app", "(measured on Pixel 8 (phone))"), ("app_process", "(measured on Pixel 8 (phone))")):
        verdict, _ = verdicts(tmp_path, f'{table}process = "{process}"')
        assert verdict.outcome == "not measured"
        assert verdict.reason == f"the run has no measurement of this file on 'phone' inside '{process}' {reason}"
    measured_in_app(run)
    assert outcomes(tmp_path, table) == outcomes(tmp_path, f'{table}process = "shell"') == ["passed"] * 2
    absolute, ratio = verdicts(tmp_path, f'{table}process = "app"')
    assert (absolute.outcome, absolute.value) == ("failed", 7.5)
    assert (ratio.outcome, ratio.reference) == ("passed", 15.0)
    rows = (run / "measurements.jsonl").read_text().splitlines()
    (run / "measurements.jsonl").write_text("\n".join(rows[2:]) + "\n")
    (verdict, _) = verdicts(tmp_path, table)
    assert verdict.reason == "the run has no measurement of this file on 'phone' (measured on Pixel 8 (phone, app))"


def test_a_base_inside_another_process_is_not_compared(tmp_path):
    head, base = tmp_path / "head", tmp_path / "base"
    measured_in_app(make_run(head / "run", with_pte=False, device=PHONE))
    make_run(base / "run", with_pte=False, device=PHONE)
    table = 'run = "run"\ndevice = "phone"\nprocess = "app"\nlatency = "+10 %"'
    (verdict,) = verdicts(head, table, base=base)
    assert verdict.reason.startswith("the base: the run has no measurement of this file on 'phone' inside 'app'")
    measured_in_app(base / "run", times=1.4)
    (verdict,) = verdicts(head, table, base=base)
    assert (verdict.outcome, verdict.value, verdict.reference) == ("passed", 7.5, pytest.approx(7.0))


def test_processes_are_those_that_a_phone_has():
    assert tuple(phone.PLACES) == PROCESSES


def test_a_device_that_refused_says_why(folder):
    row = json.loads((folder / "run/measurements.jsonl").read_text().splitlines()[-1])
    kept = {key: row[key] for key in ("network", "format", "sha256", "device")}
    refused = {"verdict": "not measured", **kept, "reason": "CoreML predicts on macOS only"}
    (folder / "run/measurements.jsonl").write_text(json.dumps(refused) + "\n")
    assert one(folder, "latency", "9 ms").reason == "CoreML predicts on macOS only"


def test_the_newest_measurement_counts(folder):
    row = json.loads((folder / "run/measurements.jsonl").read_text().splitlines()[-1])
    with (folder / "run/measurements.jsonl").open("a") as lines:
        lines.write(json.dumps({**row, "blocks": [{"turn": 0, "samples_ms": [99.0]}]}) + "\n")
    assert one(folder, "latency", "9 ms").value == 99


def test_files_that_did_not_take_turns_have_no_ratio(tmp_path):
    make_run(tmp_path / "run", with_pte=False)
    lines = [json.loads(line) for line in (tmp_path / "run/measurements.jsonl").read_text().splitlines()]
    lines[0]["session"] = "yesterday"
    (tmp_path / "run/measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert "it did not take turns with the original" in one(tmp_path, "latency", "0.5x").reason


def test_a_device_that_does_not_tell_memory_is_not_measured(folder):
    lines = [json.loads(line) for line in (folder / "run/measurements.jsonl").read_text().splitlines()]
    for line in lines:
        line["memory"]["end"]["peak"] = None
    (folder / "run/measurements.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert one(folder, "memory", "1 GB").reason == "desk does not tell a process's peak memory"


def test_instructions_come_from_a_simulated_row_of_this_very_file(folder):
    assert one(folder, "instructions", "1M").reason == "the run has no simulated count of this file"
    own = size_and_sha256(folder / "run/artifacts/compressed.onnx")[1]
    with (folder / "run/measurements.jsonl").open("a") as lines:
        for sha256, count in ((own, 123_453), ("00" * 32, 1)):
            counts = Counts(100_000, 20_000, 3_000, 400, count - 123_400, 9, 9)
            row = replace(simulated(), network="compressed", sha256=sha256, run=counts)
            lines.write(to_line(row))
    assert one(folder, "instructions", "123453").outcome == "passed"
    failed = one(folder, "instructions", "123452")
    assert cells(failed) == ("123,453", "123,452")
    assert "too much (110 %)" in remark(one(folder, "instructions", "58786"), "budgets.toml")
    assert one(folder, "latency", "9 ms").value == 5  # no simulated figure stands in for the host's


def counted_row(path, network, count, core="cortex-a76", emulator="QEMU 7.2.22, counter 0123456789ab"):
    """Adds the simulated row of a network's .onnx."""
    counts = Counts(count - 4, 1, 1, 1, 1, 9, 9)
    device = replace(simulated().device, name=f"simulated {core}", cpu=core)
    sha256 = size_and_sha256(path / f"artifacts/{network}.onnx")[1]
    row = replace(simulated(), network=network, sha256=sha256, run=counts, device=device, emulator=emulator)
    with (path / "measurements.jsonl").open("a") as lines:
        lines.write(to_line(row))


def test_instructions_of_two_cores_are_never_compared(folder):
    run = folder / "run"
    counted_row(run, "compressed", 300)
    counted_row(run, "original", 1000, "cortex-a53")
    assert one(folder, "instructions", "0.5x").reason == (
        "the run has no simulated count of this file on the simulated cortex-a76"
    )
    counted_row(run, "original", 900)
    counted_row(run, "original", 1000, "cortex-a53")
    assert one(folder, "instructions", "0.5x").reference == 900
    counted_row(run, "compressed", 200, "cortex-a53")
    assert one(folder, "instructions", "0.5x").reference == 1000
    named = write_budgets(folder, f'{RUN.replace("host", "simulated cortex-a76")}instructions = "300"')
    assert [verdict.value for verdict in check(read_budgets(named)).verdicts if verdict.value == 300] == [300]
    counted_row(run, "compressed", 200, emulator="QEMU 9.0.0, counter 0123456789ab")
    assert one(folder, "instructions", "0.5x").reason == (
        "counted with QEMU 7.2.22, counter 0123456789ab and 1.5.1, this with QEMU 9.0.0, counter 0123456789ab and "
        "1.5.1: measure both again"
    )


def test_a_figure_that_an_interpreter_gave_is_marked(folder):
    artifacts = json.loads((folder / "run/artifacts.json").read_text())
    assert [one(folder, key, "9 %").interpreter for key in ("agreement", "accuracy")] == ["", ""]
    for row in artifacts:
        row["parity"]["interpreter"] = "interpreted, not Core ML"
    (folder / "run/artifacts.json").write_text(json.dumps(artifacts))
    marked = one(folder, "agreement", "9 %")
    assert (marked.outcome, cells(marked)[0]) == ("passed", "100.00 %, interpreted, not Core ML")
    assert one(folder, "latency", "5 ms").interpreter == "", "its times are the runtime's own"


def test_what_a_run_does_not_tell_is_not_measured(folder):
    (folder / "run/accuracy.json").unlink()
    assert one(folder, "accuracy", "9 %").reason == "the run has no accuracy: it was made without --data"
    assert one(folder, "accuracy", "1x").outcome == "not measured"
    artifacts = json.loads((folder / "run/artifacts.json").read_text())
    for row in artifacts:
        row["parity"].update(executed=False, top1_agreement=None, note="not executed on this system")
    (folder / "run/artifacts.json").write_text(json.dumps(artifacts))
    assert one(folder, "agreement", "9 %").reason == "not executed on this system"
    for row in artifacts:
        row["parity"] = None
    (folder / "run/artifacts.json").write_text(json.dumps(artifacts))
    assert one(folder, "agreement", "9 %").reason == "the file was not compared with its module"


def test_unmeasured_fails_only_under_strict(folder):
    checked = check(read_budgets(write_budgets(folder, f'{RUN}instructions = "1M"')))
    assert checked.holds(strict=False)
    assert not checked.holds(strict=True)


# What changes from a base


@pytest.fixture
def pair(tmp_path):
    """(head, base): in the head's run fc1 was cut to a higher rank than in the base's."""
    for name, rank in (("head", RANK + 3), ("base", RANK)):
        make_run(tmp_path / name / "run", rank)
    return tmp_path / "head", tmp_path / "base"


def test_a_regression_in_one_layer_is_named_in_every_quantity(pair):
    head, base = pair
    keys = ("size", "parameters", "macs", "latency")
    limits = "\n".join(f'{key} = "+1 %"' for key in keys[:3])
    for verdict in verdicts(head, f"{RUN}{limits}", base=base):
        if verdict.subject.endswith(".pte"):
            assert verdict.outcome == "passed"
            continue
        assert verdict.outcome == "failed"
        assert verdict.parts[0].name == "fc1"
        said = remark(verdict, "budgets.toml")
        assert f"{MEASURES[verdict.limit.quantity]} that grew: layer fc1 +" in said
        assert "(4x200, 100x4 -> 7x200, 100x7)" in said


def test_growth_below_the_floor_passes(pair):
    head, base = pair
    grown = 3 * 300 * 4
    assert outcomes(head, f'{RUN}size = ["+1 %", "+1 % or 3 kB", "+1 % or 4 kB", "+4 kB"]', base=base) == [
        "failed", "failed", "passed", "passed", *["passed"] * 4,
    ]  # fmt: skip
    (verdict,) = [v for v in verdicts(head, f'{RUN}size = "+1 kB"', base=base) if v.subject.endswith("onnx")]
    assert verdict.excess == grown - 1000


def test_a_loss_of_accuracy_is_counted_in_points(tmp_path):
    make_run(tmp_path / "head/run", top1=96.9)
    make_run(tmp_path / "base/run", top1=97.5)
    head, base = tmp_path / "head", tmp_path / "base"
    assert one(head, "accuracy", "-0.6 points", base).outcome == "passed"
    failed = one(head, "accuracy", "-0.5 points", base)
    assert remark(failed, "budgets.toml") == "0.1 points too little (budgets.toml:4)"


def test_times_from_another_machine_are_not_compared(tmp_path):
    make_run(tmp_path / "head/run", with_pte=False)
    make_run(tmp_path / "base/run", with_pte=False, device=replace(DEVICE, cpu="Apple M4"))
    head, base = tmp_path / "head", tmp_path / "base"
    assert one(head, "latency", "+10 %", base).reason == (
        "the base was measured on desk (host, Apple M4) with 1 thread, this on desk (host, AMD EPYC) with 1 thread"
    )
    (base / "run/measurements.jsonl").unlink()
    assert one(head, "latency", "+10 %", base).reason.startswith("the base: the run has no measurement of this file")


def test_the_same_machine_is_compared(tmp_path):
    make_run(tmp_path / "head/run", with_pte=False, ms=5.4)
    make_run(tmp_path / "base/run", with_pte=False)
    head, base = tmp_path / "head", tmp_path / "base"
    assert one(head, "latency", "+10 %", base).outcome == "passed"
    assert one(head, "latency", "+5 %", base).outcome == "failed"


def test_a_new_file_is_said_and_its_absolute_limits_hold(pair):
    head, base = pair
    (base / "run/artifacts/compressed.onnx").unlink()
    first, second = verdicts(head, 'files = "run/artifacts/compressed.onnx"\nsize = ["+1 %", "1 kB"]', base=base)
    assert (first.outcome, first.reason) == ("new file", "the base does not have this file, so nothing grew")
    assert second.outcome == "failed"
    assert check(read_budgets(write_budgets(head, 'files = "run/**/compressed.onnx"\nsize = "+1 %"')), base).holds(True)


def test_without_a_base_nothing_relative_is_measured(pair):
    assert one(pair[0], "parameters", "+1 %").reason == "a change needs a base to compare with; pass --base"


def test_a_base_that_is_broken_is_said(pair):
    head, base = pair
    (base / "run/artifacts/compressed.onnx").write_bytes(b"x")
    found = verdicts(head, 'files = "run/artifacts/compressed.onnx"\nsize = "+1 %"', base=base)
    assert found[0].reason.startswith("the base's file: it is not the file that artifacts.json records: 1 bytes")


def test_weights_without_names_are_matched_in_their_order(tmp_path):
    """A layer that was inserted does not make all that follow look new."""
    for name, sizes in (("head", (3, 9, 5)), ("base", (3, 5))):
        (tmp_path / name).mkdir()
        save_file(
            {f"l{size}.weight": np.zeros((size, 100), np.float32) for size in sizes}, tmp_path / name / "a.safetensors"
        )
    (verdict,) = verdicts(tmp_path / "head", 'files = "*.safetensors"\nsize = "+1 %"', base=tmp_path / "base")
    assert [part.name for part in verdict.parts] == ["l9", "graph and names"]
    assert "parts that grew: layer l9 +3,600 bytes (new), graph and names +" in remark(verdict, "budgets.toml")


def test_a_base_is_a_folder_or_a_commit(pair):
    head, base = pair
    budgets = read_budgets(write_budgets(head, 'files = "run/artifacts/*.onnx"\nsize = "+1 %"'))
    with base_folder(None, budgets) as found:
        assert found is None
    with base_folder(str(base), budgets) as found:
        assert found == base
    git = ["git", "-C", str(head), "-c", "user.name=a", "-c", "user.email=a@b"]
    with pytest.raises(BudgetError, match=r"--base main: a base is a folder, or a commit .*; it is neither"):
        base_folder("main", budgets).__enter__()
    for words in (["init", "-q", "-b", "main"], ["add", "-A"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    grown = head / "run/artifacts/compressed.onnx"
    with base_folder("main", budgets) as found:
        assert (found / "run/artifacts/compressed.onnx").read_bytes() == grown.read_bytes()
        assert (found / "run/artifacts.json").exists()
        assert [verdict.outcome for verdict in check(budgets, found).verdicts] == ["passed", "passed"]
    assert not found.exists()
    with pytest.raises(BudgetError, match="it is neither"):
        base_folder("--output=/tmp/x", budgets).__enter__()


def test_a_commit_without_the_files_makes_them_new(pair):
    head, _ = pair
    git = ["git", "-C", str(head), "-c", "user.name=a", "-c", "user.email=a@b"]
    (head / "README").write_text("a")
    for words in (["init", "-q", "-b", "main"], ["add", "README"], ["commit", "-qm", "one"]):
        subprocess.run([*git, *words], check=True)
    budgets = read_budgets(write_budgets(head, 'files = "run/artifacts/*.onnx"\nsize = "+1 %"'))
    with base_folder("HEAD", budgets) as found:
        assert [verdict.outcome for verdict in check(budgets, found).verdicts] == ["new file"] * 2


def test_without_git_the_cure_is_said(pair, monkeypatch):
    monkeypatch.setenv("PATH", "")
    budgets = read_budgets(write_budgets(pair[0], 'files = "*"\nsize = "1 MB"'))
    with pytest.raises(BudgetError, match="git is not installed: apt-get install git"):
        base_folder("main", budgets).__enter__()


# Bad input


def test_a_budget_that_guards_nothing_fails(folder):
    first, second = verdicts(folder, 'files = "*.pte"\nsize = "1 MB"', 'run = "runs/*"\nsize = "1 MB"')
    assert (first.outcome, first.line) == ("failed", 1)
    assert first.reason == "*.pte matches nothing: this budget guards nothing; make the files, or mend the path"
    assert second.outcome == "failed"


def test_patterns_begin_at_the_budgets(folder):
    with pytest.raises(BudgetError, match=r"line 1: /\*.pte begins at the root of the file system"):
        verdicts(folder, 'files = "/*.pte"\nsize = "1 MB"')
    with pytest.raises(BudgetError, match=r"line 1: '\*\*a' is no pattern"):
        verdicts(folder, 'files = "**a"\nsize = "1 MB"')


def test_a_folder_that_is_no_run(folder):
    (folder / "other").mkdir()
    with pytest.raises(RunError, match=r"other is no run directory: it has no settings\.json"):
        verdicts(folder, 'run = "other"\nsize = "1 MB"')


@pytest.mark.parametrize("cut", [0, 100, -1])
def test_a_truncated_file_of_a_run_fails_whatever_its_limits(folder, cut):
    path = folder / "run/artifacts/compressed.onnx"
    path.write_bytes(path.read_bytes()[:cut])
    (verdict,) = verdicts(folder, f'{RUN}size = "1 MB"\nlatency = "1 s"')
    assert (verdict.outcome, verdict.limit) == ("failed", None)
    assert "it is not the file that artifacts.json records" in verdict.reason


def test_a_truncated_file_outside_a_run_fails(tmp_path):
    onnx_layers(tmp_path / "a.onnx", shapes(4))
    (tmp_path / "a.onnx").write_bytes((tmp_path / "a.onnx").read_bytes()[:500])
    (verdict,) = verdicts(tmp_path, 'files = "a.onnx"\nsize = "1 MB"')
    assert verdict.outcome == "failed"
    assert "a.onnx is no whole .onnx: it ends in the middle" in verdict.reason


def test_a_file_that_is_gone_fails(folder):
    (folder / "run/artifacts/compressed.onnx").unlink()
    (verdict,) = verdicts(folder, f'{RUN}size = "1 MB"')
    assert verdict.reason == "the run recorded it, and it is gone; export it again"


@pytest.mark.parametrize("pattern", ['run = "run"', 'files = "run/artifacts/*.onnx"'])
@pytest.mark.parametrize("version", [RUN_VERSION + 1, "2.0"])
def test_a_run_of_a_newer_version_is_refused(folder, pattern, version):
    (folder / "run/settings.json").write_text(json.dumps({"version": version}))
    with pytest.raises(RunError, match="run was written by a newer compress-export: its files have version"):
        verdicts(folder, f'{pattern}\nsize = "1 MB"')


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        (
            "settings.json",
            "[1]",
            r"settings.json has lost its content \(Expected `object`, got `array`\); make the run",
        ),
        (
            "compressed.json",
            "{}",
            r"run/compressed.json has lost its content \(.*missing required field `parameters`\)",
        ),
        ("settings.json", "{", r"settings.json is no JSON .*; mend it, or make the run again"),
        ("artifacts.json", "[{}]", "artifacts.json is not a list of artifacts"),
        ("measurements.jsonl", "{}\n", "measurements.jsonl, line 1, is not a measurement"),
        ("measurements.jsonl", "nonsense\n", "measurements.jsonl, line 1, is not a measurement"),
        ("measurements.jsonl", "\xe9", r"jsonl is no text \(.* at byte 0\); it is UTF-8: mend it, or remove"),
    ],
)
def test_a_run_whose_files_are_broken_is_refused(folder, name, content, text):
    (folder / "run" / name).write_text(content, encoding="latin-1")
    with pytest.raises(RunError, match=text):
        verdicts(folder, f'{RUN}latency = "1 s"\nparameters = "1M"')


@pytest.mark.parametrize("left", ["nothing", "originals"])
def test_limits_on_files_of_a_run_without_files_are_not_measured(tmp_path, left):
    run = make_run(tmp_path / "runs/bare")
    make_run(tmp_path / "runs/whole", with_pte=False)
    rows = json.loads((run / "artifacts.json").read_text())
    (run / "artifacts.json").write_text(json.dumps([row for row in rows if row["network"] == "original"]))
    if left == "nothing":
        (run / "artifacts.json").unlink()
    table = 'run = "runs/bare"\ndevice = "host"\nsize = ["1 B", "0.1x"]\nlatency = "1 us"'
    checked = check(read_budgets(write_budgets(tmp_path, table)))
    assert [(each.subject, each.line, each.outcome) for each in checked.verdicts] == [
        ("runs/bare", 4, "not measured"), ("runs/bare", 4, "not measured"), ("runs/bare", 5, "not measured"),
    ]  # fmt: skip
    reason = "the run has no exported files of its compressed network; `compress-export export runs/bare`"
    assert {each.reason for each in checked.verdicts} == {reason}
    assert (checked.holds(strict=False), checked.holds(strict=True)) == (True, False)
    found = verdicts(tmp_path, 'run = "runs/*"\nsize = "1 MB"\nparameters = "1M"')
    assert [(each.subject, each.limit.quantity, each.outcome) for each in found] == [
        ("runs/bare", "parameters", "passed"),
        ("runs/bare", "size", "not measured"),
        ("runs/whole", "parameters", "passed"),
        ("runs/whole/artifacts/compressed.onnx", "size", "passed"),
    ]


def test_budgets_without_a_verdict_do_not_hold(folder):
    assert not Checked(read_budgets(write_budgets(folder, f'{RUN}size = "1 MB"')), (), ()).holds(strict=False)


def test_a_run_that_was_only_planned_has_no_files(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/settings.json").write_text("{}")
    (verdict,) = verdicts(tmp_path, f'{RUN}macs = "1M"')
    assert verdict.outcome == "not measured"
    assert RunFiles(tmp_path / "run").rows == ()


# Words


@pytest.mark.parametrize(
    ("unit", "value", "said", "all_of_it"),
    [
        ("bytes", 28_513_576, "28.51 MB", "28,513,576 bytes"),
        ("bytes", 1.2e9, "1.20 GB", "1,200,000,000 bytes"),
        ("bytes", 999, "999 bytes", "999 bytes"),
        ("count", 7_125_084, "7.13M", "7,125,084"),
        ("ms", 1.51649, "1.52 ms", "1.51649 ms"),
        ("percent", 98.6111, "98.61 %", "98.6111 %"),
    ],
)
def test_figures(unit, value, said, all_of_it):
    assert amount(unit, value) == said
    assert exact(unit, value) == all_of_it


def test_rounding_never_hides_a_difference():
    assert contrast("bytes", 8_000_001, 8_000_000) == ["8,000,001 bytes", "8,000,000 bytes"]
    assert contrast("bytes", 8e6, 8e6) == ["8.00 MB", "8.00 MB"]
    assert contrast("bytes", 9e6, 8e6) == ["9.00 MB", "8.00 MB"]


# The first draft


@pytest.mark.parametrize("place", ["run", "run/artifacts", "run/artifacts/compressed.onnx"])
def test_a_draft_holds_at_once_and_fails_for_what_grows(folder, place):
    text = draft(folder / place, folder)
    (folder / "budgets.toml").write_text(text)
    budgets = read_budgets(folder / "budgets.toml")
    assert all(verdict.outcome == "passed" for verdict in check(budgets, folder).verdicts)
    grown = folder / "grown"
    make_run(grown / "run", RANK + 2, with_pte=False)
    (grown / "budgets.toml").write_text(text)
    assert check(read_budgets(grown / "budgets.toml")).count("failed") >= 2


def test_a_draft_of_nothing_or_elsewhere_is_refused(folder, tmp_path_factory):
    (folder / "empty").mkdir()
    with pytest.raises(BudgetError, match=r"empty holds no run and no file to guard \(\.pte, \.onnx"):
        draft(folder / "empty", folder)
    with pytest.raises(BudgetError, match="lies outside"):
        draft(tmp_path_factory.mktemp("elsewhere"), folder)
    os.truncate(folder / "run/artifacts/compressed.onnx", 10)
    with pytest.raises(
        BudgetError, match=r"a budget is drawn from whole files; run/artifacts/compressed.onnx: it is not"
    ):
        draft(folder / "run", folder)
