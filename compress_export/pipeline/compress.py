"""Puts the factors of a plan in place: the compressed network, which is tuned, shared and exported after this."""

from __future__ import annotations

import json
from dataclasses import asdict

from torch import nn

from bench.run_files import RunFile
from compress_export.pipeline.load import RunContext
from compressor.plan import Plan
from compressor.planning.recipes import parameters_with_every_bias
from compressor.surgery import compress, save_weights
from compressor.survey import survey


def compress_stage(context: RunContext, plan: Plan, verified: nn.Module | None = None) -> nn.Module:
    """The network with the plan's factors in place, not yet tuned: the one that was `verified` with the plan, if any.

    A plan that was edited since is compressed anew.
    """
    run, stored, original = context.run, plan.to_json(), context.network.module
    if run.has(RunFile.COMPRESSED_WEIGHTS):
        if Plan.from_json(json.dumps(run.read_json(RunFile.COMPRESSED_SURVEY)["plan"])) == Plan.from_json(stored):
            return context.load_module(plan, RunFile.COMPRESSED_WEIGHTS)
        context.reporter.say(f"{run / RunFile.PLAN} has been edited: compressing again")
        run.clear_from("compress")
    if verified is None:
        with context.reporter.stage(f"Factoring {len(plan.factored)} layers") as advance:
            module = compress(original, plan, context.decompositions, advance, context.moments, context.images).module
            if plan.factored:
                context.settle_statistics(module, original)
    else:
        module = verified
    layers, ready = context.survey.layers, context.decompositions
    record = asdict(survey(module, context.images))
    fits = {row.name: (ready[row.name, row.method], row.rank) for row in plan.factored}
    record["stability"] = {name: fit.stability(rank) for name, (fit, rank) in fits.items()}
    record["errors"] = {name: fit.error(rank) for name, (fit, rank) in fits.items()}
    if isinstance(context.plan_settings.ranks, str) and len(plan.factored) == len(layers):
        record["paper_parameters"] = parameters_with_every_bias(
            [(layer, plan.layer(layer.name).rank[0]) for layer in layers]
        )
    run.write_json(RunFile.COMPRESSED_SURVEY, {**record, "plan": json.loads(stored)})
    save_weights(module, run / RunFile.COMPRESSED_WEIGHTS)
    return module
