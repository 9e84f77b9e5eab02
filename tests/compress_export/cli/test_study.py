"""The study: cells become lines once, comparisons are McNemar's, tables come from the lines alone."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from scipy.stats import binom

from compress_export.errors import InputError
from compress_export.pipeline.validate import RunRequest
from compress_export.settings import PlanSettings, SourceSettings, TuneSettings, plain
from compress_export.study.cells import borrow
from compress_export.study.grids import GRIDS, SYSTEMS, cells_of
from compress_export.study.results import (
    TABLES,
    VERSION,
    TrainedLine,
    add_line,
    find,
    of_grid,
    ours_table,
    packed,
    paper_table,
    put_line,
    read_lines,
    spread,
    trained_table,
    unpacked,
)

LABELS = [0, 1, 2, 3] * 5


def line(cell, right, top1, grid="methods"):
    """A line of a cell whose network has the first `right` images right."""
    predictions = [label if place < right else (label + 1) % 4 for place, label in enumerate(LABELS)]
    return TrainedLine(
        grid,
        cell,
        parameters=(40, 10),
        macs=(400, 200),
        ranks={"a": ("cp", 3), "b": ("tucker", 2, 4)},
        errors={"a": 0.2, "b": 0.4},
        stability={"a": 1.5, "b": None},
        top1={"original": 90.0, "untuned": 20.0, "compressed": top1},
        held_out=((0, 1, 19.5),),
        predictions={"original": packed(LABELS), "compressed": packed(predictions)},
        labels=packed(LABELS),
    )


def test_predictions_survive_packing():
    classes = [0, 9, 999, 3] * 100
    assert unpacked(packed(classes)) == classes
    assert len(packed(classes)) < 100


def test_the_spread_is_told_where_there_is_one():
    assert (spread([90.0]), spread([90.0, 91.0, 92.0])) == ("90.00", "91.00 ± 1.00")
    assert spread([90.0, 90.0]) == "90.00"


def test_a_line_is_found_by_its_cell_and_a_cut_one_goes(tmp_path):
    path = tmp_path / "results" / "study.jsonl"
    first, second = cells_of("methods", "net", "digits")[:2]
    add_line(path, line(first, 10, 50.0))
    with path.open("a") as file:
        file.write('{"version": 1, "cell": {"sys')
    assert read_lines(path) == [line(first, 10, 50.0)]
    add_line(path, line(second, 12, 60.0))
    assert [row.cell for row in read_lines(path)] == [first, second]
    assert find(read_lines(path), second).top1["compressed"] == 60
    assert find(read_lines(path), cells_of("methods", "other", "digits")[0]) is None
    put_line(path, line(first, 11, 55.0))
    assert read_lines(path) == [line(first, 11, 55.0), line(second, 12, 60.0)]
    assert json.loads(path.read_text().splitlines()[1])["cell"]["epochs"] == 2


def test_the_lines_that_lie_here_are_written_as_they_were_read(tmp_path):
    stored = Path(__file__).parents[3] / "results" / "study.jsonl"
    for line_read in read_lines(stored):
        add_line(tmp_path / "study.jsonl", line_read)
    assert (tmp_path / "study.jsonl").read_text() == stored.read_text()


def test_a_file_of_another_version_is_refused(tmp_path):
    path = tmp_path / "study.jsonl"
    path.write_text(json.dumps({"version": VERSION + 1, "cell": {}}) + "\n")
    with pytest.raises(InputError, match=f"line 1, is of version {VERSION + 1}, and this study writes {VERSION}"):
        read_lines(path)
    path.write_text("{]\n")
    with pytest.raises(InputError, match="line 1, is no JSON"):
        read_lines(path)
    path.write_text(json.dumps({"version": VERSION, "grid": "methods", "cell": {}}) + "\n")
    with pytest.raises(InputError, match=r"line 1, is no line of a study \(.*`system`"):
        read_lines(path)


def test_the_table_compares_with_ours_seed_by_seed():
    cells = [cell for cell in cells_of("methods", "net.py:build", "digits") if cell.budget == "0.5x"]
    own = {(cell.system, cell.seed): cell for cell in cells}
    lines = [line(own["ours", seed], 18, 90.0) for seed in (0, 1)] + [
        line(own["cp-tpm", seed], right, 40.0) for seed, right in enumerate((8, 12, 10))
    ]
    head, *rows = trained_table(lines)
    found = {row[2]: dict(zip(head, row, strict=True)) for row in rows}
    assert found["ours"]["tuned"] == "90.00"
    assert (found["cp-tpm"]["seeds"], found["cp-tpm"]["ours - this"], found["cp-tpm"]["flipped"]) == (
        "3",
        "+50.00",
        "50.0 %",
    )
    assert found["cp-tpm"]["p"] == f"{2 * binom.cdf(0, 6, 0.5):.1g}"  # of the seed that differs least: 6 images
    assert found["cp-tpm"]["times faster"] == "not measured"
    assert (found["cp-tpm"]["mean error"], found["cp-tpm"]["largest stability"]) == ("0.300", "1.50")


def test_cells_of_fewer_images_stand_in_a_row_of_their_own():
    few, whole = (cells_of("headline", "net", "cifar10", images=images)[0] for images in (10000, None))
    head, *rows = trained_table([line(few, 10, 50.0), line(whole, 18, 90.0)])
    found = {row[head.index("epochs, course")]: row[head.index("tuned")] for row in rows}
    assert found == {"6 of 10,000 images": "50.00", "6": "90.00"}
    (only,) = ours_table([line(few, 10, 50.0), line(whole, 18, 90.0), line(cells_of("deep", "net", "d")[1], 9, 45.0)])[
        1:
    ]
    assert only == ["net", "cifar10", "2.00x", "4.00x", "not measured", "90.00", "20.00", "90.00", "10.0 %", "6", "1"]


def test_ours_stands_in_the_front_table_as_it_was_tuned_longest():
    own = cells_of("headline", "net", "cifar10")[0]
    rows = [line(replace(own, epochs=epochs), right, 50.0) for epochs, right in ((2, 10), (6, 18))]
    head, *body = ours_table(rows)
    assert [row[head.index("epochs")] for row in body] == ["6"]
    other = line(replace(own, data="mnist", epochs=2), 10, 50.0)
    assert [row[head.index("data")] for row in ours_table([*rows, other])[1:]] == ["cifar10", "mnist"]


def test_a_p_that_is_hardly_a_number_is_told_as_below():
    ours, other = (cells_of("methods", "net", "cifar10")[place] for place in (7, 0))
    many = packed([0] * 1060)  # 2 / 2^1060 is above 0, with hardly a digit left
    rows = [
        replace(line(cell, 0, 50.0), labels=many, predictions=dict.fromkeys(("original", "compressed"), found))
        for cell, found in ((ours, many), (other, packed([1] * 1060)))
    ]
    head, *body = trained_table(rows)
    assert {row[head.index("system")]: row[head.index("p")] for row in body} == {"ours": "", "cp-tpm": "below 1e-300"}


@pytest.mark.parametrize(
    ("seed", "fit", "planned", "expected"),
    [
        (0, "weights", False, ["losses.jsonl"]),
        (0, "outputs", True, ["probes.jsonl"]),
        (1, "weights", True, ["probes.jsonl"]),
        (1, "weights", False, []),
    ],
)
def test_a_cell_borrows_what_another_measured_of_the_same_network(tmp_path, seed, fit, planned, expected):
    source = SourceSettings("net", data="digits", images=100)
    made = tmp_path / "made"
    made.mkdir()
    (made / "settings.json").write_text(
        json.dumps({"source": plain(source), "plan": plain(PlanSettings(fit="weights"))})
    )
    for name in ("losses.jsonl", "probes.jsonl", *(["plan.json"] if planned else [])):
        (made / name).write_text(name)
    request = RunRequest(replace(source, seed=seed), PlanSettings(fit=fit), TuneSettings())
    borrow(tmp_path, tmp_path / "new", request)
    assert sorted(path.name for path in (tmp_path / "new").glob("*")) == expected
    borrow(tmp_path, tmp_path / "other", replace(request, source=replace(request.source, images=200)))
    assert not (tmp_path / "other").exists()


def test_a_cell_that_two_grids_ask_for_is_one_row():
    (cell,) = [c for c in cells_of("claims", "net", "digits") if c.system == "tucker" and c.seed == 0]
    lines = [line(cell, 10, 50.0)]
    assert of_grid(lines, "methods") == lines
    assert len(trained_table([*lines, *lines])) == 2


@pytest.mark.parametrize("grid", list(GRIDS))
def test_every_grid_has_cells_of_known_systems_and_a_table(grid):
    cells = cells_of(grid, "net", "digits")
    assert len({cell.name for cell in cells}) == len(cells) > 0
    assert {cell.system for cell in cells} <= {*SYSTEMS, "counted"}
    assert grid in TABLES


@pytest.mark.slow
def test_the_papers_table_is_counted(call, tmp_path):
    status, out, _ = call(tmp_path, "study", "paper")
    assert status == 0
    rows = {row[0]: row[1:] for row in paper_table(read_lines(tmp_path / "results" / "study.jsonl"))}
    assert rows["original"][::2] == ["60.97M", "724.4M"]
    assert rows["the paper's ranks, a bias in every factor"][:2] == ["8.73M", "6.98x"]
    assert rows["printed in the paper"][2:] == ["205.0M", "3.53x"]
    assert float(rows["ours, as many weights"][0].rstrip("M")) <= float(rows["the paper's ranks"][0].rstrip("M"))
    assert "| original | 60.97M |" in out


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["methds"], "there is no grid 'methds': did you mean methods"),
        (["methods"], "the grid methods trains: pass --network and --data"),
        (
            ["methods", "--network", "n", "--data", "digits", "--systems", "turker"],
            "there is no system 'turker': did you",
        ),
        (
            ["claims", "--network", "n", "--data", "digits", "--systems", "spatial"],
            "the grid claims has no system 'spatial'; it has: cp-tpm; cp-tpm, iterative; ",
        ),
        (
            ["claims", "--network", "n", "--data", "digits", "--budgets", "0.25x,0.3x"],
            "--budgets 0.3x: this grid has 0.25x",
        ),
        (["deep", "--network", "n", "--data", "digits", "--seeds", "3"], "--seeds 3: this grid has 0, 1, 2"),
    ],
)
def test_what_the_study_cannot_do_is_told(call, tmp_path, words, text):
    status, _, err = call(tmp_path, "study", *words)
    assert (status, text in err) == (1, True)


def test_another_network_of_the_same_name_has_cells_of_its_own(call, tmp_path, net_file, monkeypatch):
    from compress_export.pipeline import run
    from compress_export.study import cells

    made = []
    monkeypatch.setattr(run, "compressed_run", lambda *_: None)
    monkeypatch.setattr(cells, "trained_line", lambda _, cell, _run: made.append(cell.source) or line(cell, 10, 50.0))
    for folder, code in (("a", ""), ("b", "# changed\n"), ("c", "")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "net.py").write_text(net_file.read_text() + code)
    words = ["--data", "digits", "--input", "3x16x16", "--systems", "ours", "--seeds", "0", "--budgets", "0.5x"]
    counts = []
    for folder, more in (("a", []), ("b", []), ("b", ["--train", "9"]), ("c", [])):
        assert call(tmp_path, "study", "methods", "--network", f"{folder}/net.py:build", *words, *more)[0] == 0
        counts.append(len(made))
    assert counts == [1, 2, 3, 3]  # the last is the first one's network in another place
    assert len({*made}) == 3


@pytest.mark.slow
def test_an_interrupted_study_goes_on_and_makes_nothing_twice(call, tmp_path, net_file, monkeypatch):
    from compress_export.study import cells

    words = [
        "study",
        "methods",
        "--network",
        f"{net_file}:build",
        "--input",
        "3x16x16",
        "--data",
        "digits",
        "--train",
        "2",
    ]
    words += [
        "--seeds",
        "0",
        "--budgets",
        "0.5x",
        "--systems",
        "ours;tucker-vbmf",
        "--epochs",
        "0.5",
        "--set",
        "source.images=200",
    ]
    made, whole = [], cells.trained_line

    def interrupted(grid, cell, context):
        if made:
            raise KeyboardInterrupt
        made.append(cell.system)
        return whole(grid, cell, context)

    monkeypatch.setattr(cells, "trained_line", interrupted)
    assert call(tmp_path, *words)[0] == 130
    path = tmp_path / "results" / "study.jsonl"
    (first,) = read_lines(path)
    monkeypatch.setattr(cells, "trained_line", whole)
    status, out, _ = call(tmp_path, *words)
    lines = read_lines(path)
    assert (status, [row.cell.system for row in lines], lines[0]) == (0, ["tucker-vbmf", "ours"], first)
    assert all(row.macs[1] <= 0.5 * row.macs[0] for row in lines)
    assert "| tucker-vbmf |" in out
    assert call(tmp_path, *words, "--cap", "0.2")[0] == 0
    timed = read_lines(path)
    assert [replace(row, ms=None) for row in timed] == lines
    assert all(row.ms.p50[0] > 0 and row.ms.ratio.value > 0 for row in timed)
    before = path.read_bytes()
    path.with_name("study-methods.svg").unlink()
    assert call(tmp_path, *words, "--tables")[0] == 0
    assert path.read_bytes() == before
    assert "</svg>" in path.with_name("study-methods.svg").read_text()
