"""The task's metric of each network of a run, or that of the user's own code, as metrics.json keeps them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict

from torch import nn

from bench.run_files import ORIGINAL, NetworkMetrics, RunFile
from compress_export.data.datasets import spread_images
from compress_export.errors import InputError
from compress_export.models.tasks import Evaluation
from compress_export.pipeline.load import RunContext, stored_source

MOST = 512
"""Test images that a user's own evaluation is given, at most, spread over the set."""


def measure_metrics(context: RunContext, modules: Mapping[str, nn.Module]) -> None:
    """Writes metrics.json: the metric of each module by name on the test set. The original's is kept once it is known;
    alone it is measured only where the file has none yet. Nothing for a classifier without an evaluation of the user's.
    """
    run, source, objective = context.run, stored_source(context.run), context.objective
    judged = objective.score is not None and context.trainable and context.data is not None
    if source.evaluate is None and not judged:
        return
    known = run.read_json(RunFile.METRICS) if run.has(RunFile.METRICS) else {"networks": {}}
    networks: dict[str, dict[str, float]] = known["networks"]
    if set(networks) == set(modules) or (networks and set(modules) == {ORIGINAL}):
        return
    unit, better = "%", True
    if source.evaluate is not None:
        unit, better, evaluation = "", not source.lower_is_better, Evaluation(source.evaluate)
        images = context.images if context.data is None else spread_images(context.data.test, MOST)
        count = len(images)
    else:
        assert context.data is not None  # it is judged
        count = len(context.data.test.dataset)  # type: ignore[arg-type]  # each of ours has a length
    found: dict[str, dict[str, float]] = {}
    title = source.evaluate or objective.metric
    with context.reporter.stage(f"Measuring {title} of {', '.join(modules)}") as advance:
        for done, (name, module) in enumerate(modules.items()):
            advance(done, len(modules), name)
            if name == ORIGINAL and ORIGINAL in networks:
                found[name] = networks[name]
            elif source.evaluate is not None:
                found[name] = evaluation.measure(module, images)
            else:
                assert context.data is not None  # likewise
                assert objective.score is not None  # likewise
                score = objective.score(module, context.data.test, context.group.device)
                found[name] = {objective.metric: score}
    first = next(iter(found.values()))
    for name, figures in found.items():
        if set(figures) != set(first):
            raise InputError(
                f"source.evaluate={source.evaluate} gave {', '.join(figures)} of {name} and {', '.join(first)} of the "
                "original; it gives the same figures of every network"
            )
    metric = next(iter(first))
    run.write_json(RunFile.METRICS, asdict(NetworkMetrics(metric, unit, better, count, found)))
    if set(modules) == {ORIGINAL}:
        context.reporter.say(
            f"{metric} of the original: {first[metric]:.4g}{unit and ' ' + unit} on {count} test images"
        )
