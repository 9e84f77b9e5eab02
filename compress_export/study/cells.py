"""One cell of the study: the settings of its run, and the line that is made of what the run measured, or counted."""

from __future__ import annotations

import copy
import shutil
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench.run_files import RunFile
from compress_export.data.images import View, photograph_crops
from compress_export.models.networks import Network, alexnet_caffe
from compress_export.pipeline.load import RunContext
from compress_export.pipeline.validate import RunRequest
from compress_export.run_directory import RunDirectory
from compress_export.settings import SourceSettings, TuneSettings
from compress_export.study.grids import SYSTEMS, Cell
from compress_export.study.results import CountedLine, Counts, Times, TrainedLine, packed
from compressor.decompositions.methods import decomposition
from compressor.plan import LayerPlan, Plan
from compressor.planning.cost_model import CountedCosts
from compressor.planning.goal import Goal
from compressor.planning.planner import PlanningProblem, make_plan, planned_parameters, solve
from compressor.planning.recipes import PAPER_RANKS, parameters_with_every_bias, ranks_for
from compressor.surgery import skeleton
from compressor.survey import survey

LATENCY_FORMAT = "onnx"

PAPER, PAPERS = "astrid-lee-2017", "the paper's ranks"
PRINTED = {"weights": 8.7e6, "macs": 205e6}
"""Sizes that the paper prints for its network after compression."""


def request_of(cell: Cell, source: SourceSettings, tune: TuneSettings) -> RunRequest:
    """The settings of a trained cell's run, on the network and data of `source`."""
    system = SYSTEMS[cell.system]
    assert cell.budget is not None  # only counted cells have none
    source = replace(source, seed=cell.seed, images=cell.images)
    return RunRequest(source, system.plan(cell.budget), system.tuning(cell.epochs, tune))


def borrow(runs: Path, path: Path, request: RunRequest) -> None:
    """Copies into the run at `path` what other runs have measured of the same network and data, whatever their budget.

    That is what each layer loses when it is factored alone, of the same seed and fit; and the sensitivities that the
    papers' rule probes by training an epoch for each layer, of the first seed that has them all: seeds of such a system
    differ in images, factors and training, not in ranks.
    """
    source = request.source
    for file in sorted(runs.glob("*/settings.json")):
        stored = RunDirectory(file.parent).stored()
        if file.parent == path or stored.source is None or replace(stored.source, seed=source.seed) != source:
            continue
        names = [RunFile.PROBES] if (file.parent / RunFile.PLAN).exists() else []
        if stored.source == source and stored.plan is not None and stored.plan.fit == request.plan.fit:
            names.append(RunFile.LOSSES)
        for name in names:
            if (file.parent / name).exists() and not (path / name).exists():
                path.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(file.parent / name, path / name)


def trained_line(grid: str, cell: Cell, context: RunContext) -> TrainedLine:
    """The line of a cell whose run has come as far as the accuracy of its compressed network; without times."""
    run, data = context.run, context.data
    assert data is not None  # a trained cell has data
    accuracy, after = run.read_json(RunFile.ACCURACY), run.read_json(RunFile.COMPRESSED_SURVEY)
    plan = Plan.read(run / RunFile.PLAN)
    errors = {}  # of a layer's outputs where its factors are fitted to them, else of its weights
    for row in plan.factored:
        inputs = (context.moments or {}).get(row.name)
        fit = decomposition(context.decompositions, context.network.module, row.name, row.method, plan.seed, inputs)
        errors[row.name] = fit.error(row.rank)
    return TrainedLine(
        grid,
        cell,
        parameters=(context.survey.parameters, after["parameters"]),
        macs=(context.survey.macs, after["macs"]),
        ranks={row.name: (row.method, *row.rank) for row in plan.factored},
        errors=errors,
        stability=after["stability"],
        top1={name: value["top1"] for name, value in accuracy.items()},
        held_out=tuple((row["step"], row["epoch"], row["top1"]) for row in run.read_lines(RunFile.TUNING)),
        predictions={name: packed(value["predictions"]) for name, value in accuracy.items()},
        labels=packed([int(label) for _, labels in data.test for label in labels]),
    )


def timed(line: TrainedLine, network: Network, cap: float) -> Times:
    """Milliseconds of both networks' files in turns on one core of this machine, and the ratio with its interval.

    `cap` is in seconds for each file. The factors are zeros: time does not depend on weights.
    """
    from bench.host.measure import measure
    from bench.measurement import Measurement, NotMeasured, Schedule
    from bench.statistics import summarize, time_ratio
    from exporters.export import export

    image = photograph_crops(View.of(network), 1)
    weights = {layer.name: layer.weight for layer in survey(network.module, image).layers}
    plans = [
        LayerPlan(name, weights[name], str(method), tuple(map(int, rank)), "")
        for name, (method, *rank) in line.ranks.items()
    ]
    skeleton(small := copy.deepcopy(network.module), plans)
    with TemporaryDirectory() as folder:
        files = [
            export(module.eval(), image, LATENCY_FORMAT, Path(folder, f"{name}.{LATENCY_FORMAT}"), network=name)
            for name, module in {"original": network.module, "compressed": small}.items()
        ]
        before, after = measure(files, image.numpy(), Schedule(cap_seconds=cap))
    if not isinstance(before, Measurement) or not isinstance(after, Measurement):
        return Times(not_measured=tuple(row.reason for row in (before, after) if isinstance(row, NotMeasured)))
    p50 = summarize(before).p50, summarize(after).p50
    return Times(p50, time_ratio(after, before), before.device.cpu, before.runtime_version)


def counted_line(grid: str, cell: Cell) -> CountedLine:
    """AlexNet with two groups: weights and MACs by the paper's ranks and by ours at as many weights."""
    network = alexnet_caffe(1000).eval()
    example = torch.zeros(1, 3, 227, 227)
    found = survey(network, example)
    theirs = make_plan(network, found, Goal(ranks=ranks_for(PAPER_RANKS[PAPER], found.layers), ranks_from=PAPER))
    paired = [(layer, theirs.layer(layer.name).rank[0]) for layer in found.layers]

    def counted(plan: Plan, papers_count: float | None = None) -> Counts:
        skeleton(compressed := alexnet_caffe(1000).eval(), plan.layers)
        after = survey(compressed, example)
        return Counts(after.parameters, after.macs, papers_count)

    rows = {PAPERS: counted(theirs, parameters_with_every_bias(paired))}
    problem = PlanningProblem(network, found, Goal(), CountedCosts(found))  # both goals share its decompositions
    weights, macs = f"{planned_parameters(theirs, found) / 1e6:.6f}M", f"{rows[PAPERS].macs / 1e6:.6f}M"
    for name, goal in (
        ("weights", Goal(max_params=weights)),
        ("weights and MACs", Goal(max_params=weights, max_macs=macs)),
    ):
        rows[f"ours, as many {name}"] = counted(solve(replace(problem, goal=goal)))
    return CountedLine(grid, cell, Counts(found.parameters, found.macs), PRINTED, rows)
