"""One cell of the study: planned, cut, tuned, judged and timed, in a run directory of its own."""

from __future__ import annotations

import copy
import shutil
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from bench.run_files import RunFile
from compress_export.data.images import View, photograph_crops
from compress_export.models.networks import Network
from compress_export.pipeline.load import RunContext
from compress_export.pipeline.run import RunRequest, compressed_run
from compress_export.run_directory import RunDirectory
from compress_export.settings import PlanSettings, SourceSettings, TuneSettings
from compress_export.study.grids import SYSTEMS, Cell
from compress_export.study.lines import Line, packed
from compressor.decompositions.methods import decomposition
from compressor.distributed import SINGLE_PROCESS, ProcessGroup
from compressor.plan import LayerPlan, Plan
from compressor.planning.cost_model import CountedCosts
from compressor.planning.goal import Goal
from compressor.planning.planner import PlanningProblem, make_plan, planned_parameters, solve
from compressor.planning.recipes import PAPER_RANKS, parameters_with_every_bias, ranks_for
from compressor.surgery import skeleton
from compressor.survey import survey

LATENCY_FORMAT = "onnx"


def timed(line: Line, network: Network, cap: float) -> dict[str, Any]:
    """Milliseconds of both networks' files in turns on one core of this machine, and the ratio with its interval.

    `cap` is in seconds for each file. The factors are zeros: time does not depend on weights.
    """
    from bench.host.measure import measure
    from bench.measurement import Measurement, NotMeasured, Schedule
    from bench.statistics import summarize, time_ratio
    from exporters.export import export

    image = photograph_crops(View(network.input, network.mean, network.std), 1)
    weights = {layer.name: layer.weight for layer in survey(network.module, image).layers}
    skeleton(
        small := copy.deepcopy(network.module),
        [LayerPlan(name, weights[name], method, tuple(rank), "") for name, (method, *rank) in line["ranks"].items()],
    )
    with TemporaryDirectory() as folder:
        files = [
            export(module.eval(), image, LATENCY_FORMAT, Path(folder, f"{name}.{LATENCY_FORMAT}"), network=name)
            for name, module in {"original": network.module, "compressed": small}.items()
        ]
        before, after = measure(files, image.numpy(), Schedule(cap_seconds=cap))
    if not isinstance(before, Measurement) or not isinstance(after, Measurement):
        return {"not measured": [row.reason for row in (before, after) if isinstance(row, NotMeasured)]}
    ratio = time_ratio(after, before)
    p50 = [summarize(row).p50 for row in (before, after)]
    return {"p50": p50, "ratio": asdict(ratio), "cpu": before.device.cpu, "runtime": before.runtime_version}


PAPER, PAPERS = "astrid-lee-2017", "the paper's ranks"


PRINTED = {"weights": 8.7e6, "macs": 205e6}
"""What the paper prints for its network after compression."""


LOSSES, PROBES = RunFile.LOSSES, RunFile.PROBES


@dataclass(frozen=True)
class Bed:
    """Where cells are made: the network and data as a command names them, how all are tuned, the folder of runs, and
    the processes that probe and train."""

    source: SourceSettings
    tune: TuneSettings
    runs: Path
    group: ProcessGroup = SINGLE_PROCESS


def line_of(cell: Cell, bed: Bed) -> Line:
    """The line of a cell. An interrupted one goes on where it was, for its run directory is still there."""
    return {"grid": cell.grid, "cell": cell.key, **(_counted() if cell.data is None else _trained(cell, bed))}


def _trained(cell: Cell, bed: Bed) -> Line:
    assert cell.budget is not None  # only counted cells have none
    system, path = SYSTEMS[cell.system], bed.runs / cell.name
    source, plan_settings = replace(bed.source, seed=cell.seed, images=cell.images), system.plan(cell.budget)
    _borrow(bed.runs, path, source, plan_settings)
    request = RunRequest(source, plan_settings, system.tuning(cell.epochs, bed.tune))
    context = compressed_run(path, request, bed.group)
    run = context.run
    accuracy, after = run.read_json(RunFile.ACCURACY), run.read_json(RunFile.COMPRESSED_SURVEY)
    rows = run.read_lines(RunFile.TUNING)
    plan = Plan.read(run / RunFile.PLAN)
    return {
        "parameters": [context.survey.parameters, after["parameters"]],
        "macs": [context.survey.macs, after["macs"]],
        "ranks": {row.name: [row.method, *row.rank] for row in plan.factored},
        "errors": _errors(context, plan),
        "stability": after["stability"],
        "top1": {name: value["top1"] for name, value in accuracy.items()},
        "held_out": [[row["step"], row["epoch"], row["top1"]] for row in rows],
        "predictions": {name: packed(value["predictions"]) for name, value in accuracy.items()},
        "labels": packed(_labels(context)),
        "ms": None,
    }


def _errors(context: RunContext, plan: Plan) -> dict[str, float]:
    """The relative error of each factored layer: of its outputs where it is fitted to them, else of its weights."""
    found = {}
    for row in plan.factored:
        inputs = (context.moments or {}).get(row.name)
        fit = decomposition(context.decompositions, context.network.module, row.name, row.method, plan.seed, inputs)
        found[row.name] = fit.error(row.rank)
    return found


def _borrow(runs: Path, path: Path, source: SourceSettings, settings: PlanSettings) -> None:
    """Copies what another cell has measured of the same network and data, whatever its budget is.

    That is what each layer loses when it is cut alone, of the same seed and fit; and the sensitivities that the papers'
    rule probes by training an epoch for each layer, of the first seed that has them all: seeds of such a system differ
    in images, factors and training, not in ranks.
    """
    for file in sorted(runs.glob("*/settings.json")):
        stored = RunDirectory(file.parent).stored()
        if file.parent == path or stored.source is None or replace(stored.source, seed=source.seed) != source:
            continue
        if (file.parent / RunFile.PLAN).exists():
            _copy(file.parent / PROBES, path / PROBES)
        if stored.source == source and stored.plan is not None and stored.plan.fit == settings.fit:
            _copy(file.parent / LOSSES, path / LOSSES)


def _copy(measured: Path, place: Path) -> None:
    if measured.exists() and not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(measured, place)


def _labels(context: RunContext) -> list[int]:
    assert context.data is not None  # a trained cell has data
    return [int(label) for _, labels in context.data.validation for label in labels]


def _counted() -> Line:
    """AlexNet with two groups: weights and MACs by the paper's ranks and by ours at as many weights."""
    import torch

    from compress_export.models.networks import alexnet_caffe

    network = alexnet_caffe(1000).eval()
    example = torch.zeros(1, 3, 227, 227)
    found = survey(network, example)
    paper = PAPER_RANKS[PAPER]
    theirs = make_plan(network, found, Goal(ranks=ranks_for(paper, found.layers), ranks_from=PAPER))
    most = planned_parameters(theirs, found)

    def counted(plan: Plan) -> dict[str, float]:
        skeleton(cut := alexnet_caffe(1000).eval(), plan.layers)
        after = survey(cut, example)
        return {"parameters": after.parameters, "macs": after.macs}

    rows = {PAPERS: counted(theirs)}
    problem = PlanningProblem(network, found, Goal(), CountedCosts(found))  # both goals share its decompositions
    weights, macs = f"{most / 1e6:.6f}M", f"{rows[PAPERS]['macs'] / 1e6:.6f}M"
    for name, goal in (
        ("weights", Goal(max_params=weights)),
        ("weights and MACs", Goal(max_params=weights, max_macs=macs)),
    ):
        rows[f"ours, as many {name}"] = counted(solve(replace(problem, goal=goal)))
    paired = [(layer, theirs.layer(layer.name).rank[0]) for layer in found.layers]
    rows[PAPERS]["papers_count"] = parameters_with_every_bias(paired)
    return {"original": {"parameters": found.parameters, "macs": found.macs}, "printed": PRINTED, "counted": rows}
