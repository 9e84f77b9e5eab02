"""Settings that do not go together are refused before a network is loaded; their effects elsewhere, too."""

from dataclasses import replace

import pytest
from report_runs import edit, report_run

from bench.measurement import Device
from compress_export.errors import InputError
from compress_export.pipeline.validate import (
    RunRequest,
    check_goal,
    check_latency,
    runtime_note,
    timed_type_note,
    validated,
    with_costs,
)
from compress_export.reporting.gather import gather
from compress_export.run_directory import RunDirectory
from compress_export.settings import BenchSettings, PlanSettings, SourceSettings, TuneSettings
from compress_export.study.grids import SYSTEMS

HOST = Device("host", "desk", "AMD EPYC", 2, "Linux")
PHONE = replace(HOST, kind="phone", name="Virtual 8")
ARM = Device("simulated", "simulated cortex-a76", "cortex-a76", 1, "QEMU")
HALF, FIVE = (PlanSettings(max_latency=text, costs="measured") for text in ("0.5x", "5ms"))


@pytest.mark.parametrize(
    ("limits", "device", "costs"),
    [
        ({}, None, "instructions"),
        ({"max_macs": "0.5x"}, "host", "instructions"),
        ({"max_size": "0.5x"}, "phone", "instructions"),
        ({"max_drop": "1%"}, None, "instructions"),
        ({"max_latency": "0.5x"}, None, "measured"),
        ({"max_latency": "0.5x"}, "host", "measured"),
        ({"max_latency": "5ms", "max_macs": "0.5x"}, "phone", "measured"),
        ({"max_latency": "0.5x"}, "arm", "instructions"),
        ({"max_latency": "0.5x", "costs": "counted"}, "arm", "counted"),
        ({"max_macs": "0.5x", "costs": "measured"}, None, "measured"),
    ],
)
def test_costs_are_those_of_what_is_limited_and_where(limits, device, costs):
    settings = PlanSettings(**limits)
    assert with_costs(settings, device).costs == costs
    request = RunRequest(
        SourceSettings("net", data="digits"), settings, TuneSettings(), bench=BenchSettings(device=device)
    )
    assert validated(request).plan.costs == costs


@pytest.mark.parametrize(
    ("settings", "quantize", "dtype"),
    [
        (PlanSettings(max_macs="0.5x"), "none", "float32"),
        (PlanSettings(max_macs="0.5x"), "int8", "int8"),
        (HALF, "int8", "int8"),
        (HALF, "auto", "int8"),
        (HALF, "fp16", "float16"),
    ],
)
def test_instructions_and_bytes_are_of_the_number_type_that_ships(settings, quantize, dtype):
    assert with_costs(settings, None, quantize).dtype == dtype


def test_times_of_float32_layers_are_said_to_be_no_int8_times():
    timed, counted = (with_costs(settings, None, "int8") for settings in (HALF, PlanSettings(max_macs="0.5x")))
    assert timed_type_note(timed).startswith(
        "layers are timed in float32, and int8 files take other times; pass --device"
    )
    assert timed_type_note(counted) == timed_type_note(with_costs(HALF)) == ""


def test_the_study_plans_as_the_plain_command_does():
    for system in SYSTEMS.values():
        settings = system.plan("0.5x")
        plain = PlanSettings(max_macs="0.5x", rank_rule=settings.rank_rule, methods=settings.methods, fit=settings.fit)
        assert settings == plain
    assert with_costs(SYSTEMS["ours"].plan("0.5x")).costs == "instructions"


def test_a_limit_on_time_met_by_instructions_is_a_fraction_and_says_of_what():
    half, five = (replace(each, costs="instructions") for each in (HALF, FIVE))
    assert check_latency(half, BenchSettings(device="arm"), ARM) == ""
    said = check_latency(half, BenchSettings(), HOST)
    assert said.startswith(
        "--max-latency 0.5x is met by instructions predicted of a cortex-a76; the files' own figures"
    )
    assert "on desk (host) may have another ratio" in said
    check_goal(SourceSettings("net"), half)
    with pytest.raises(
        InputError, match=r"5ms needs times, and plan.costs=instructions predicts none, but instructions"
    ):
        check_goal(SourceSettings("net"), five)


def test_a_limit_on_time_that_is_met_elsewhere_is_said_or_refused():
    assert check_latency(HALF, BenchSettings(), HOST) == ""
    sized = PlanSettings(max_params="0.5x", costs="measured")
    assert check_latency(sized, BenchSettings(device="phone"), PHONE) == ""
    said = check_latency(HALF, BenchSettings(device="phone"), PHONE)
    assert said.startswith(
        "--max-latency 0.5x is met by times of layers on this machine, one thread; the files' own times"
    )
    assert "on Virtual 8 (phone) may have another ratio" in said
    assert "with 2 threads may" in check_latency(HALF, BenchSettings(threads=2), HOST)
    assert check_latency(FIVE, BenchSettings(), PHONE)  # found by itself: said, for nobody asked for it
    with pytest.raises(
        InputError, match=r"measured on Virtual 8 \(phone\), where they take other times; pass a fraction"
    ):
        check_latency(FIVE, BenchSettings(device="phone"), PHONE)


def test_a_goal_with_nothing_to_measure_it_by_is_refused():
    check_goal(SourceSettings("net", data="digits"), PlanSettings(max_drop="1%"))
    check_goal(SourceSettings("net", data="digits", weights="none", train=2), PlanSettings(max_drop="1%"))
    check_goal(SourceSettings("net"), PlanSettings(max_latency="0.5x", costs="counted"))
    with pytest.raises(InputError, match="there is none to measure: it needs --data and trained weights"):
        check_goal(SourceSettings("net"), PlanSettings(rank_rule="sensitivity"))
    with pytest.raises(InputError, match=r"--max-latency 5ms needs times, and plan.costs=counted measures none; leave"):
        check_goal(SourceSettings("net"), replace(FIVE, costs="counted"))


def test_the_runtime_that_stands_in_for_core_ml_is_named(tmp_path):
    said = runtime_note(HALF, ("mlpackage",))
    assert said.startswith("layers are timed in ExecuTorch, XNNPACK delegate, for CoreML does not run here")
    assert runtime_note(HALF, ("pte", "mlpackage")) == ""
    assert runtime_note(PlanSettings(max_macs="0.5x", costs="instructions"), ("mlpackage",)) == ""
    run = RunDirectory(report_run(tmp_path / "net"))
    edit(run.path, "settings.json", lambda value: value | {"plan": value["plan"] | {"latency_format": "ptl"}})
    notes = gather(run).notes
    assert "The plan's times are those of PyTorch lite interpreter on this machine; ONNX may take others." in notes


def test_a_file_above_its_limit_is_told(tmp_path):
    run = RunDirectory(report_run(tmp_path / "net"))
    edit(run.path, "settings.json", lambda value: value | {"plan": value["plan"] | {"max_size": "1kB"}})
    (note,) = [note for note in gather(run).notes if "--max-size" in note]
    size = (run / "artifacts/compressed.onnx").stat().st_size
    assert note.startswith(f"compressed.onnx has {size:,} bytes, {size - 1000:,} bytes more than --max-size 1kB allows")
    edit(run.path, "settings.json", lambda value: value | {"plan": value["plan"] | {"max_size": "1x"}})
    assert not [note for note in gather(run).notes if "--max-size" in note]
