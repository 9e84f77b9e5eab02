"""Compress a trained CNN, export it for phones, measure what came out.

The verbs, imported when first used, so that `import compress_export` costs nothing:

    survey(network, images) -> Survey
    make_plan(network, survey, Goal(max_params="0.15x")) -> Plan
    compress(network, plan) -> CompressedModel
    fine_tune(network, plan, train, validation) -> (CompressedModel, rows of tuning.jsonl)
    plan_sharing(survey, Sharing(4, 256)) -> rows, a layer each
    share(network, rows, sharing) -> SharedModel
    export(module, example, format, path) -> Artifact
    measure(artifacts, images) -> measurements
    report(path) -> Summary
"""

from __future__ import annotations

from importlib import import_module

_PLACES = {
    "survey": ("compressor.survey", "survey"),
    "Goal": ("compressor.planning.goal", "Goal"),
    "make_plan": ("compressor.planning.planner", "make_plan"),
    "Plan": ("compressor.plan", "Plan"),
    "compress": ("compressor.surgery", "compress"),
    "fine_tune": ("compressor.training.fine_tune", "fine_tune"),
    "Sharing": ("compressor.weight_sharing.product_quantization", "Sharing"),
    "plan_sharing": ("compressor.weight_sharing.layers", "plan_sharing"),
    "share": ("compressor.weight_sharing.layers", "share"),
    "export": ("exporters.export", "export"),
    "measure": ("bench.host.measure", "measure"),
    "report": ("compress_export.pipeline.run", "report_only"),
}

__all__ = [
    "Goal",
    "Plan",
    "Sharing",
    "compress",
    "export",
    "fine_tune",
    "make_plan",
    "measure",
    "plan_sharing",
    "report",
    "share",
    "survey",
]


def __getattr__(name: str) -> object:
    if name not in _PLACES:
        raise AttributeError(f"compress_export has no {name!r}; it has {', '.join(__all__)}")
    module, attribute = _PLACES[name]
    return getattr(import_module(module), attribute)


def __dir__() -> list[str]:
    return __all__
