"""The stages between survey and report. Each takes earlier results from the run's files where they exist."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

from torch import nn

from compress_export.pipeline.load import Subject
from compress_export.progress import Reporter
from compress_export.reporting.summary import ORIGINAL
from compress_export.run_directory import RunDirectory
from compressor.batch_norm import carry_over
from compressor.calibration import Moments, collect
from compressor.decompositions.methods import Decompositions
from compressor.distributed import ALONE, Crew
from compressor.plan import Plan
from compressor.planning.recipes import parameters_with_every_bias
from compressor.surgery import compress, load_weights, save_weights, skeleton
from compressor.survey import survey
from compressor.training.loop import accuracy


@dataclass(frozen=True)
class Workbench:
    """What every stage works with; decompositions made for the plan serve the cut. `crew` are the processes that probe
    and train together."""

    run: RunDirectory
    reporter: Reporter
    subject: Subject
    seed: int = 0
    decompositions: Decompositions = field(default_factory=dict)
    crew: Crew = ALONE

    @property
    def fits_outputs(self) -> bool:
        """Whether factors are fitted to the outputs that layers have on calibration images, not to weights alone."""
        return self.subject.trainable and self.run.settings()["plan"]["fit"] == "outputs"

    @cached_property
    def moments(self) -> Mapping[str, Moments] | None:
        """What every layer that may be factored reads on the calibration images, from one pass over them."""
        if not self.fits_outputs:
            return None
        assert self.subject.data is not None  # it is trainable
        batches = self.subject.data.calibration
        layers = [layer.name for layer in self.subject.survey.layers if layer.must_keep is None]
        with self.reporter.stage("Reading what the layers read on calibration images") as advance:
            return collect(
                self.subject.network.module,
                batches,
                layers,
                seed=self.seed,
                progress=lambda images: advance(images, len(batches.dataset), ""),  # type: ignore[arg-type]  # sized
            )


def cut_stage(bench: Workbench, plan: Plan) -> nn.Module:
    """The network with the plan's factors in place, not yet tuned. A plan that was edited since is cut anew."""
    run, text = bench.run, plan.to_json()
    if run.has("compressed.safetensors"):
        if run.read_json("compressed.json")["plan"] == json.loads(text):
            return load_module(bench, plan, "compressed.safetensors")
        bench.reporter.say(f"{run / 'plan.json'} has been edited: cutting again")
        run.clear_from("cut")
    with bench.reporter.stage(f"Factoring {len(plan.factored)} layers") as advance:
        compressed = compress(
            bench.subject.network.module,
            plan,
            bench.decompositions,
            progress=lambda done, total, name: advance(done, total, name),
            moments=bench.moments,
        )
        if plan.factored:
            settle_statistics(bench, compressed.module, bench.subject.network.module)
    run.write_json("compressed.json", {**_after(bench, plan, compressed.module), "plan": json.loads(text)})
    save_weights(compressed.module, run / "compressed.safetensors")
    return compressed.module


def _after(bench: Workbench, plan: Plan, module: nn.Module) -> dict[str, Any]:
    """The survey of the compressed network, each layer's stability number, and the paper's own count."""
    layers = bench.subject.survey.layers
    ready = bench.decompositions
    record: dict[str, Any] = asdict(survey(module, bench.subject.images))
    record["stability"] = {row.name: ready[row.name, row.method].stability(row.rank) for row in plan.factored}
    if isinstance(bench.run.settings()["plan"]["ranks"], str) and len(plan.factored) == len(layers):
        rows = [(layer, plan.layer(layer.name).rank[0]) for layer in layers]
        record["paper_parameters"] = parameters_with_every_bias(rows)
    return record


def load_module(bench: Workbench, plan: Plan, name: str) -> nn.Module:
    module = copy.deepcopy(bench.subject.network.module)
    skeleton(module, plan.layers)
    load_weights(module, bench.run / name)
    return module.eval()


def settle_statistics(bench: Workbench, module: nn.Module, before: nn.Module) -> None:
    """BatchNorm's statistics are those of the layers `before` the cut; they are moved as the cut moved the outputs."""
    if bench.subject.trainable and bench.subject.data is not None:
        carry_over(module, before, bench.subject.data.calibration)


def baseline_stage(bench: Workbench) -> None:
    """The original's accuracy, before hours are spent: a validation image that cannot be read is found here, and a
    figure that is not the one expected is seen."""
    subject, run = bench.subject, bench.run
    if not subject.trainable or subject.data is None or run.has("accuracy.json"):
        return
    with bench.reporter.stage("Measuring the original's accuracy on the validation set"):
        found = accuracy(subject.network.module, subject.data.validation, bench.crew.device)
    run.write_json("accuracy.json", {ORIGINAL: asdict(found)})
    bench.reporter.say(f"top-1 of the original: {found.top1:.2f} % of {len(found.correct)} validation images")


def accuracy_stage(bench: Workbench, modules: Mapping[str, nn.Module]) -> None:
    """Writes accuracy.json: top-1, top-5 and every prediction on the validation set, for each module by name."""
    subject, run = bench.subject, bench.run
    if not subject.trainable or subject.data is None:
        return
    rows: dict[str, Any] = run.read_json("accuracy.json") if run.has("accuracy.json") else {}
    if set(rows) == set(modules):
        return
    with bench.reporter.stage("Measuring accuracy on the validation set") as advance:
        for done, (name, module) in enumerate(modules.items()):
            advance(done, len(modules), name)
            if name != ORIGINAL or ORIGINAL not in rows:
                rows[name] = asdict(accuracy(module, subject.data.validation, bench.crew.device))
    run.write_json("accuracy.json", {name: rows[name] for name in modules})
