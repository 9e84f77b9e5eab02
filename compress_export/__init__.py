"""Compress a trained CNN, export it for phones, measure what came out.

The verbs, imported when first used, so that `import compress_export` costs nothing:

    survey(network, images) -> Survey
    make_plan(network, survey, Goal(max_params="0.15x")) -> Plan
    compress(network, plan) -> CompressedModel
    fine_tune(network, plan, train, held_out) -> (CompressedModel, rows of tuning.jsonl)
    plan_sharing(survey, Sharing(4, 256)) -> rows, a layer each
    share(network, rows, sharing) -> SharedModel
    export(module, example, format, path) -> Artifact
    measure(artifacts, images) -> measurements
    report(path) -> Summary
"""

from __future__ import annotations

from importlib import import_module

_PLACES = {
    "survey": ("compressor.costs", "survey"),
    "Goal": ("compressor.goal", "Goal"),
    "make_plan": ("compressor.planner", "make_plan"),
    "Plan": ("compressor.plan", "Plan"),
    "compress": ("compressor.surgery", "compress"),
    "fine_tune": ("compressor.tuning", "fine_tune"),
    "Sharing": ("compressor.sharing", "Sharing"),
    "plan_sharing": ("compressor.shared_layers", "plan_sharing"),
    "share": ("compressor.shared_layers", "share"),
    "export": ("exporters.export", "export"),
    "measure": ("bench.host", "measure"),
    "report": ("compress_export.pipeline", "report_only"),
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
