"""Exports the original and the compressed network to every format, and records what was made."""

from __future__ import annotations

import shutil
from collections.abc import Sequence

from torch import nn

from bench.run_files import COMPRESSED, ORIGINAL, RunFile
from compress_export.pipeline.load import RunContext
from exporters.artifact import Artifact, read_artifacts, size_and_sha256, write_artifacts


def export_stage(context: RunContext, compressed: nn.Module, formats: Sequence[str]) -> tuple[Artifact, ...]:
    """Every format of the original and the compressed network, those exported before included. Files that are no
    longer as they were recorded are exported again if asked for; else they are left out, and stay on record as such."""
    from exporters import capture as program
    from exporters.export_all import export_all
    from exporters.parity import logits_of

    run, images = context.run, context.images.numpy()
    recorded = read_artifacts(run / RunFile.ARTIFACTS) if run.has(RunFile.ARTIFACTS) else ()
    damaged = {
        artifact.format
        for artifact in recorded
        if not artifact.path.exists() or size_and_sha256(artifact.path) != (artifact.bytes, artifact.sha256)
    }
    for name in sorted(damaged):
        cure = "exporting them again" if name in formats else f"`compress-export export {run.path} --format {name}`"
        context.reporter.say(f"files of {name} are gone or have changed: {cure}")
    stays = [artifact for artifact in recorded if artifact.format in damaged - set(formats)]
    artifacts = [artifact for artifact in recorded if artifact.format not in damaged]
    missing = [name for name in formats if name not in {artifact.format for artifact in artifacts}]
    if not missing:
        return tuple(artifacts)
    work = run / "artifacts" / ".work"
    work.mkdir(parents=True, exist_ok=True)
    try:
        with context.reporter.stage(f"Exporting {' '.join(missing)}") as advance:
            finished, steps = 0, 2 * len(missing) + 1

            def progress(name: str, network: str, stage: str) -> None:
                nonlocal finished
                finished += stage == "done"
                advance(1 + finished, steps, f"{network} .{name}: {stage}")

            def record(made: tuple[Artifact, ...]) -> None:
                artifacts.extend(made)
                write_artifacts(run / RunFile.ARTIFACTS, [*artifacts, *stays])

            programs, reference = {}, {}
            for name, module in {ORIGINAL: context.network.module, COMPRESSED: compressed}.items():
                advance(0, steps, f"capturing the {name} network")
                programs[name] = work / f"{name}.pt2"
                program.save(program.capture(module, context.images[:1]), programs[name])
                reference[name] = logits_of(module, images)
            export_all(programs, missing, run / "artifacts", images, reference, progress=progress, finished=record)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return tuple(artifacts)
