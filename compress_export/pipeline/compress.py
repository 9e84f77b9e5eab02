"""The stages between survey and report. Each takes earlier results from the run's files where they exist."""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from torch import nn

from bench.run_files import ORIGINAL
from compress_export.pipeline.load import RunContext
from compressor.batch_norm import carry_over
from compressor.plan import Plan
from compressor.planning.recipes import parameters_with_every_bias
from compressor.surgery import compress, load_weights, save_weights, skeleton
from compressor.survey import survey
from compressor.training.loop import accuracy


def cut_stage(context: RunContext, plan: Plan, verified: nn.Module | None = None) -> nn.Module:
    """The network with the plan's factors in place, not yet tuned: the one that was `verified` with the plan, if any.

    A plan that was edited since is compressed anew.
    """
    run, text = context.run, plan.to_json()
    if run.has("compressed.safetensors"):
        if run.read_json("compressed.json")["plan"] == json.loads(text):
            return load_module(context, plan, "compressed.safetensors")
        context.reporter.say(f"{run / 'plan.json'} has been edited: cutting again")
        run.clear_from("cut")
    module = verified
    if module is None:
        with context.reporter.stage(f"Factoring {len(plan.factored)} layers") as advance:
            module = compress(
                context.network.module,
                plan,
                context.decompositions,
                progress=lambda done, total, name: advance(done, total, name),
                moments=context.moments,
            ).module
            if plan.factored:
                settle_statistics(context, module, context.network.module)
    run.write_json("compressed.json", {**_after(context, plan, module), "plan": json.loads(text)})
    save_weights(module, run / "compressed.safetensors")
    return module


def _after(context: RunContext, plan: Plan, module: nn.Module) -> dict[str, Any]:
    """The survey of the compressed network, each layer's stability number, and the paper's own count."""
    layers = context.survey.layers
    ready = context.decompositions
    record: dict[str, Any] = asdict(survey(module, context.images))
    record["stability"] = {row.name: ready[row.name, row.method].stability(row.rank) for row in plan.factored}
    if isinstance(context.run.settings()["plan"]["ranks"], str) and len(plan.factored) == len(layers):
        rows = [(layer, plan.layer(layer.name).rank[0]) for layer in layers]
        record["paper_parameters"] = parameters_with_every_bias(rows)
    return record


def load_module(context: RunContext, plan: Plan, name: str) -> nn.Module:
    module = copy.deepcopy(context.network.module)
    skeleton(module, plan.layers)
    load_weights(module, context.run / name)
    return module.eval()


def settle_statistics(context: RunContext, module: nn.Module, before: nn.Module) -> None:
    """BatchNorm's statistics are those of the layers `before` the cut; they are moved as the cut moved the outputs."""
    if context.trainable and context.data is not None:
        carry_over(module, before, context.data.calibration)


def baseline_stage(context: RunContext) -> None:
    """The original's accuracy, before hours are spent: a validation image that cannot be read is found here, and a
    figure that is not the one expected is seen."""
    run = context.run
    if not context.trainable or context.data is None or run.has("accuracy.json"):
        return
    with context.reporter.stage("Measuring the original's accuracy on the validation set"):
        found = accuracy(context.network.module, context.data.validation, context.group.device)
    run.write_json("accuracy.json", {ORIGINAL: asdict(found)})
    context.reporter.say(f"top-1 of the original: {found.top1:.2f} % of {len(found.correct)} validation images")


def accuracy_stage(context: RunContext, modules: Mapping[str, nn.Module]) -> None:
    """Writes accuracy.json: top-1, top-5 and every prediction on the validation set, for each module by name."""
    run = context.run
    if not context.trainable or context.data is None:
        return
    rows: dict[str, Any] = run.read_json("accuracy.json") if run.has("accuracy.json") else {}
    if set(rows) == set(modules):
        return
    with context.reporter.stage("Measuring accuracy on the validation set") as advance:
        for done, (name, module) in enumerate(modules.items()):
            advance(done, len(modules), name)
            if name != ORIGINAL or ORIGINAL not in rows:
                rows[name] = asdict(accuracy(module, context.data.validation, context.group.device))
    run.write_json("accuracy.json", {name: rows[name] for name in modules})
