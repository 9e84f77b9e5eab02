"""Earlier results: used again, safe from a slip, and there after a kill."""

import json

import pytest

from bench.run_files import RunError
from compress_export.errors import InputError
from compress_export.run_directory import RunDirectory, open_run
from compress_export.settings import PlanSettings, SourceSettings, TuneSettings

ASKED = SourceSettings("alexnet", weights="none")
OTHER = SourceSettings("alexnet", weights="none", input=(3, 96, 96), train=4)


@pytest.fixture
def run(tmp_path):
    return RunDirectory(tmp_path)


def made(run, *names):
    for name in names:
        (run / name).write_text("{}")


def test_the_same_settings_go_on(run):
    run.begin("source", ASKED)
    made(run, "network.json")
    assert not run.stale("source", ASKED, force=False)


def test_other_settings_stop_with_the_options_by_name(run):
    run.begin("source", ASKED)
    made(run, "network.json")
    with pytest.raises(InputError, match=r"--input 3x96x96 \(was none\), --train 4 \(was none\); pass --force"):
        run.stale("source", OTHER, force=False)
    assert run.stale("source", OTHER, force=True)


def test_a_plan_for_another_number_type_is_not_taken(run):
    run.begin("plan", PlanSettings())
    made(run, "plan.json")
    with pytest.raises(InputError, match=r"other settings: a plan for int8 files \(was float32\); pass --force"):
        run.stale("plan", PlanSettings(dtype="int8"), force=False)


def test_settings_that_led_to_nothing_do_not_stand_in_the_way(run):
    run.begin("source", ASKED)
    assert not run.stale("source", OTHER, force=False)


def test_force_removes_results_only_when_the_new_ones_begin(run):
    run.begin("source", ASKED)
    made(run, "network.json", "plan.json", "tuned.safetensors")
    assert run.stale("source", OTHER, force=True)
    assert run.has("plan.json")
    run.begin("source", OTHER, stale=True)
    assert not any(run.has(name) for name in ("network.json", "plan.json", "tuned.safetensors"))


def test_changing_a_section_keeps_what_came_before(run):
    run.begin("source", ASKED)
    run.begin("plan", PlanSettings())
    run.begin("tune", TuneSettings())
    made(run, "network.json", "plan.json", "tuned.safetensors", "artifacts.json")
    run.begin("tune", TuneSettings(epochs=5), stale=True)
    assert run.has("plan.json")
    assert not run.has("artifacts.json")
    assert set(run.stored().sections) == {"source", "plan", "tune"}


def test_a_file_that_changed_under_the_same_name_is_another_setting(run):
    run.begin("plan", PlanSettings(plan="p.json", plan_sha256="a"))
    made(run, "plan.json")
    with pytest.raises(InputError, match="the file of --plan has changed"):
        run.stale("plan", PlanSettings(plan="p.json", plan_sha256="b"), force=False)


def test_a_torn_last_line_goes_before_the_next(run):
    run.append_line("probes.jsonl", {"layer": "a"})
    with (run / "probes.jsonl").open("a") as lines:
        lines.write('{"layer": "b", "dr')
    assert run.read_lines("probes.jsonl") == [{"layer": "a"}]
    run.append_line("probes.jsonl", {"layer": "c"})
    assert run.read_lines("probes.jsonl") == [{"layer": "a"}, {"layer": "c"}]


def test_what_a_kill_left_is_swept(tmp_path):
    (tmp_path / "run" / "artifacts" / ".exporting-x").mkdir(parents=True)
    (tmp_path / "run" / ".original.safetensors.123").write_text("half")
    with open_run(tmp_path / "run") as run:
        assert [path.name for path in run.path.rglob("*")] == [".lock", "artifacts"]


def test_a_run_that_came_to_nothing_leaves_no_folder(tmp_path):
    with pytest.raises(InputError, match="a slip"), open_run(tmp_path / "run"):
        raise InputError("a slip")
    assert not (tmp_path / "run").exists()


def test_a_file_that_is_no_json_any_more_is_named(run):
    (run / "settings.json").write_text("{")
    with pytest.raises(InputError, match=r"settings\.json is no JSON any more"):
        run.stored()


def test_a_missing_file_names_the_verb(run):
    with pytest.raises(InputError, match=r"has no plan\.json; write it with `compress-export plan NETWORK`"):
        run.need("plan.json", "plan NETWORK")


def test_settings_come_back_as_they_were_written(run):
    run.begin("source", OTHER)
    assert json.loads((run / "settings.json").read_text())["source"]["input"] == [3, 96, 96]
    made(run, "network.json")
    assert not run.stale("source", OTHER, force=False)


def test_a_run_of_a_newer_version_is_left_alone(tmp_path):
    (tmp_path / "settings.json").write_text('{"version": 2}')
    with pytest.raises(RunError, match="its files have version 2, this one reads up to 1; update it"):
        RunDirectory(tmp_path).stored()
    assert (tmp_path / "settings.json").read_text() == '{"version": 2}'


def test_earlier_names_are_read_as_those_of_today(run):
    """Settings, the key of the layers of a step, and the network that was not tuned yet."""
    tune = {"rate_shape": "step", "cut_order": "sensitive", "trained": "new", "epochs": 4}
    (run / "settings.json").write_text(json.dumps({"version": 1, "plan": {"rate_shape": "one-cycle"}, "tune": tune}))
    assert run.stored().plan == PlanSettings(rate_schedule="one-cycle")
    assert run.stored().tune == TuneSettings(rate_schedule="step", order="sensitive", trainable="new", epochs=4)
    (run / "accuracy.json").write_text('{"original": {"top1": 90.0}, "cut": {"top1": 80.0}}')
    assert run.read_json("accuracy.json") == {"original": {"top1": 90.0}, "untuned": {"top1": 80.0}}
    (run / "tuning.jsonl").write_text('{"step": 0, "cut": "conv1", "epoch": 1}\n')
    assert run.read_lines("tuning.jsonl") == [{"step": 0, "layers": "conv1", "epoch": 1}]
    (run / "losses.jsonl").write_text('{"layer": "a", "cut": 1}\n')
    assert run.read_lines("losses.jsonl") == [{"layer": "a", "cut": 1}]
