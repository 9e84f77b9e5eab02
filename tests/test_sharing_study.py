"""The study of shared weights: what its tables are made by, and how it goes on where it stopped."""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "results"))

import sharing
import tables
from tables import factor_at, sharing_factor


def test_the_factor_at_an_accuracy_lies_on_the_line_between_points():
    points = [(10.0, 98.0), (1000.0, 96.0), (50.0, 95.0)]  # the last is beaten in both
    assert factor_at(points, 97.0) == pytest.approx(100.0)
    assert factor_at(points, 98.0) == pytest.approx(10.0)
    assert factor_at(points, 99.0) is None
    assert factor_at(points, 95.5) is None


def line(term, factor, top1, seed=0):
    shared = None if factor == 1.0 else {"length": 4, "centroids": int(factor), "split": "columns", "codebook": "layer"}
    return {
        "data": "mnist", "regularizer": term, "weight": 0.0 if term is None else 2.0, "seed": seed, "sharing": shared,
        "follows": None, "factor": factor, "top1": top1, "shared_top1": None if shared is None else top1 - 1,
    }  # fmt: skip


def test_factors_are_set_over_those_without_a_regularizer():
    rows = [line(None, 1.0, 98.0), line(None, 10.0, 98.0), line(None, 100.0, 96.0)]
    rows += [line("quartic", 1.0, 98.0), line("quartic", 20.0, 98.0), line("quartic", 200.0, 96.0)]
    head, *body = sharing_factor(rows)
    assert head == ["data", "centroids", "top-1", "none", "quartic, 2"]
    assert ["mnist", "tuned", "97.00", "31.6x", "63.2x (2.00)"] in body
    assert ["mnist", "not tuned", "96.00", "31.6x", "63.2x (2.00)"] in body
    assert not [row for row in body if row[2] == "94.00"]  # no point lies so low


def test_networks_of_one_seed_that_follow_other_centroids_are_one_seed():
    rows = [line(None, 1.0, 98.0)] + [{**line("centroid", 1.0, top1), "follows": {"length": n}} for n, top1 in
                                      ((4, 97.0), (8, 96.0))]  # fmt: skip
    head, *body = tables.sharing(rows)
    found = {row[head.index("regularizer, weight")]: row[head.index("seeds") :] for row in body}
    command = "`python results/sharing.py mnist --data-root data --terms centroid`"
    assert found["centroid, 2"] == ["1", "", "96.50", "", command]


def test_weights_that_were_not_taken_for_every_seed_are_left_out():
    rows = [line(None, 1.0, 98.0), line(None, 10.0, 97.0), line(None, 1.0, 98.2, 1), line(None, 10.0, 97.2, 1)]
    assert sharing_factor([*rows, line("quartic", 1.0, 98.0)])[0] == ["data", "centroids", "top-1", "none"]


def test_an_interrupted_study_goes_on_and_another_versions_lines_are_refused(tmp_path):
    table = tmp_path / "sharing.jsonl"
    assert sharing.lines(table) == []
    table.write_text(json.dumps({"version": 1, "seed": 0}) + '\n{"version": 1, "se')
    assert sharing.lines(table) == [{"version": 1, "seed": 0}]
    assert table.read_text().endswith("}\n")
    table.write_text(json.dumps({"version": 0}) + "\n")
    with pytest.raises(SystemExit, match=r"sharing.jsonl has lines of version 0, this script writes 1; move the file"):
        sharing.lines(table)


def test_every_cell_of_a_study_is_another_one_until_weights_are_chosen():
    study = sharing.STUDIES["cifar10"]
    rows = [
        {"data": "cifar10", "regularizer": kind, "weight": weights[0], "seed": 0, "shared_held_out": 90.0,
         "sharing": {"length": each.length, "centroids": each.centroids, "split": "columns", "codebook": "layer"}}
        for kind, weights in study.weights.items() for each in study.sharings
    ]  # fmt: skip
    keys = list(dict.fromkeys(cell.key for cell in sharing.cells("cifar10", study, rows)))
    shared = len(study.sharings)
    assert len(keys) == 3 * (1 + shared) + 2 * shared


def test_some_terms_of_a_study_are_its_cells_of_those_terms():
    study, rows = sharing.STUDIES["alexnet"], [{**line("quartic", 10.0, 80.0), "data": "alexnet", "weight": 0.15}]
    rows[0] |= {"shared_held_out": 70.0, "sharing": asdict(study.sharings[0])}
    whole = list(sharing.cells("alexnet", sharing.some(study, "none,quartic"), rows))
    parts = [cell for term in ("none", "quartic") for cell in sharing.cells("alexnet", sharing.some(study, term), rows)]
    assert {cell.key for cell in whole} == {cell.key for cell in parts}
    assert {cell.regularizer for cell in whole} == {None, "quartic"}
    with pytest.raises(SystemExit, match="there is no term 'cubic' here; choose among none, binarizing-l1, quartic"):
        sharing.some(study, "cubic")
