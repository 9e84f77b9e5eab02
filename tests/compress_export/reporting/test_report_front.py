"""The front of plans on every page, and the chosen one among them."""

import json
from dataclasses import replace

from page_text import Elements, words
from report_runs import counted, edit, report_run

from bench.run_files import FileAccuracy
from compress_export.reporting.figures import costs_table
from compress_export.reporting.gather import gather
from compress_export.reporting.html import html
from compress_export.reporting.pages import write_pages
from compress_export.reporting.plots import costs, pareto_front
from compress_export.run_directory import RunDirectory


def test_a_chosen_plan_may_be_told_by_its_figures(tmp_path):
    path = report_run(tmp_path / "net")
    edit(path, "plan.json", lambda plan: plan | {"chosen": plan["pareto_front"][2]})
    assert [point.chosen for point in gather(RunDirectory(path)).pareto_front] == [False, False, True]
    edit(path, "plan.json", lambda plan: plan | {"chosen": None})
    assert not any(point.chosen for point in gather(RunDirectory(path)).pareto_front)


def test_a_front_that_tells_no_time_is_drawn_over_parameters(tmp_path):
    path = report_run(tmp_path / "net")
    edit(
        path,
        "plan.json",
        lambda plan: plan | {"pareto_front": [point | {"ms": None} for point in plan["pareto_front"]]},
    )
    assert "loss against parameters" in html(gather(RunDirectory(path)))


def test_the_front_of_an_older_plan_is_read_under_its_earlier_name(tmp_path):
    path = report_run(tmp_path / "net")
    before = gather(RunDirectory(path)).pareto_front
    edit(path, "plan.json", lambda plan: {**plan, "front": plan.pop("pareto_front")})
    assert gather(RunDirectory(path)).pareto_front == before != ()


LIMITED = {"parameters": 5000, "macs": 10_000, "ms": 5.5, "loss": 1 / 3000, "drop": None}
"""A plan with limits, which lies off the front between its last two points."""


def test_a_chosen_plan_off_the_front_is_drawn_and_stands_in_every_table(tmp_path):
    path = report_run(tmp_path / "net")
    edit(path, "plan.json", lambda plan: plan | {"chosen": LIMITED, "pareto_front": plan["pareto_front"][::-1]})
    report = gather(RunDirectory(path))
    assert [(point.parameters, point.chosen, point.on_front) for point in report.pareto_front] == [
        (9000, False, True), (5000, True, False), (2200, False, True), (1000, False, True),
    ]  # fmt: skip
    drawn = pareto_front(report)
    assert drawn.title == "Pareto front: loss against time"
    assert drawn.says.endswith("The filled square is the chosen plan; this run's limits keep it off the front.")
    assert drawn.svg.count(">chosen<") == 1
    write_pages(RunDirectory(path))
    assert "| chosen | 5,000 | 10.0k | 5.50 | 0.0003333 |" in (path / "report.md").read_text()
    assert "chosen 5,000 10.0k 5.50 0.0003333" in words(Elements((path / "report.html").read_text()).text)
    told = json.loads((path / "report.json").read_text())["pareto_front"]
    assert [point["on_front"] for point in told] == [True, False, True, True]


def test_a_chosen_plan_of_the_front_is_told_in_spite_of_its_last_digit(tmp_path):
    path = report_run(tmp_path / "net")
    chosen = {"parameters": 2200, "macs": 4400, "ms": 2.2000000000000006, "loss": 1 / 2200, "drop": None}
    edit(path, "plan.json", lambda plan: plan | {"chosen": chosen})
    report = gather(RunDirectory(path))
    assert [point.chosen for point in report.pareto_front] == [False, True, False]
    assert pareto_front(report).says.endswith("The filled square is the chosen plan.")


def test_the_front_is_drawn_over_what_the_chosen_plan_tells(tmp_path):
    path = report_run(tmp_path / "net")
    edit(path, "plan.json", lambda plan: plan | {"chosen": LIMITED | {"ms": None}})
    assert pareto_front(gather(RunDirectory(path))).title == "Pareto front: loss against parameters"


def test_every_file_that_classified_the_images_is_drawn_at_what_it_costs(tmp_path):
    report = gather(RunDirectory(counted(report_run(tmp_path / "net"), (4_000_000, 1_000_000))))
    assert costs(report) is None
    (row,) = report.formats
    files = [
        replace(file, accuracy=FileAccuracy(top1, 100.0, 0, 4, file.artifact.sha256, (), ()))
        for file, top1 in zip(row.files, (100.0, 75.0), strict=True)
    ]
    report = replace(report, formats=(replace(row, original=files[0], compressed=files[1]),))
    drawn = costs(report)
    assert ">ms for one image<" in drawn.svg
    assert ">million instructions, simulated cortex-a76<" in drawn.svg
    assert drawn.svg.count(">.onnx<") == 2 * 2
    assert [line[1:] for line in costs_table(report).rows] == [
        ("100.00 %", f"{files[0].statistics.p50:.3g}", "4,000,000"),
        ("75.00 %", f"{files[1].statistics.p50:.3g}", "1,000,000"),
    ]
    untimed = replace(row, original=replace(files[0], statistics=None), compressed=files[1])
    assert "ms for one image" not in costs(replace(report, formats=(untimed,))).svg


def test_instructions_that_the_plan_predicts_stand_beside_its_macs(tmp_path):
    path = report_run(tmp_path / "net")
    assert gather(RunDirectory(path)).predicted_instructions is None
    points = {"original": LIMITED | {"instructions": 15_350_000}, "chosen": LIMITED | {"instructions": 9_430_000}}
    edit(path, "plan.json", lambda plan: plan | points)
    write_pages(RunDirectory(path))
    assert "| instructions, predicted | 15,350,000 | 9,430,000 | 1.63x fewer |" in (path / "report.md").read_text()
    page = words(Elements((path / "report.html").read_text()).text)
    assert "instructions, predicted 1.63x smaller 15.35M → 9.43M" in page


def test_the_error_of_the_factors_stands_in_the_place_of_the_plans_estimate(tmp_path):
    path = report_run(tmp_path / "net")
    assert gather(RunDirectory(path)).layers[0].error == 0.61
    edit(path, "compressed.json", lambda record: record | {"errors": {"fc1": 0.58}})
    assert [layer.error for layer in gather(RunDirectory(path)).layers] == [0.58, None]
