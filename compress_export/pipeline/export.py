"""Writes the run's networks in every format and number type, each compared with the network that it was made from."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence, Set
from functools import partial
from pathlib import Path

import msgspec
from torch import nn
from torch.export import ExportedProgram

from bench.run_files import COMPRESSED, ORIGINAL, RunFile, network_of, type_of
from compress_export.errors import InputError
from compress_export.pipeline.file_accuracy import TestSplit
from compress_export.pipeline.load import RunContext
from compress_export.pipeline.quantize import calibrated_otherwise, quantize_stage
from compress_export.pipeline.share import lookups_of
from compress_export.run_directory import RunDirectory
from compress_export.settings import DTYPES, ExportSettings
from exporters.artifact import Artifact, ExportError, number_type, read_artifacts, size_and_sha256, write_artifacts
from exporters.export_all import Array, Exported, FailedFormat
from exporters.formats import FORMATS

FEWEST_COMPARED, MOST_NUMBERS = 4, 1 << 26
"""Images on which files are compared at least, and numbers that the outputs of all of them are at most otherwise."""


def check_types(formats: Sequence[str], settings: ExportSettings) -> str:
    """A note on formats that have no file of the number type asked for ("" if none). InputError if all of them are."""
    wanted = settings.quantize
    if wanted == "none":
        return ""
    reasons = {name: _why_not(name, DTYPES[wanted]) for name in formats}
    lacking = [f".{name} ({reason})" for name, reason in reasons.items() if reason]
    if len(lacking) == len(formats):
        takes = ", ".join(name for name in FORMATS if not _why_not(name, DTYPES[wanted]))
        raise InputError(f"--quantize {wanted}: there is no such file of {', '.join(lacking)}; add --format {takes}")
    return f"--quantize {wanted}: not for {', '.join(lacking)}" if lacking else ""


def export_stage(
    context: RunContext, compressed: nn.Module, formats: Sequence[str], settings: ExportSettings
) -> tuple[Artifact, ...]:
    """Every format of the original and the compressed network, in float32 and the number type asked for, those exported
    before included. Each file has then classified the test images, where there are any.

    Files that are no longer as they were recorded are exported again if asked for; else they are left out, and stay on
    record as such. A format that cannot be written leaves the others written, and its reason in unwritten.json;
    ExportError where no format can be.
    """
    from exporters.export_all import export_all

    run, images = context.run, compared_images(context)
    otherwise = calibrated_otherwise(run, settings)
    run.begin("export", settings)
    test = TestSplit.of(context, settings)
    artifacts, stays, missing = _left_to_do(context, _networks(formats, settings), otherwise, test)
    if not missing:
        return tuple(artifacts)
    work = run / "artifacts" / ".work"
    work.mkdir(parents=True, exist_ok=True)
    modules = {ORIGINAL: context.network.module, COMPRESSED: compressed}
    networks = list(dict.fromkeys(name for own in missing.values() for name in own))
    try:
        programs, reference = _programs(context, modules, networks, settings, work)
        with context.reporter.stage(f"Exporting {' '.join(missing)}") as advance:
            finished, steps = 0, sum(map(len, missing.values()))

            def progress(name: str, network: str, stage: str) -> None:
                nonlocal finished
                finished += stage == "done"
                advance(finished, steps, f"{network} .{name}: {stage}")

            def record(made: tuple[Exported, ...]) -> None:
                if test is not None:
                    test.record(context, made)
                artifacts.extend(each.artifact for each in made)
                write_artifacts(run / RunFile.ARTIFACTS, [*artifacts, *stays])

            unwritten = {name: why for name, why in unwritten_formats(run).items() if name not in missing}
            run.write_json(RunFile.UNWRITTEN, unwritten)

            def fail(failed: FailedFormat) -> None:
                unwritten[failed.format] = failed.reason
                run.write_json(RunFile.UNWRITTEN, unwritten)
                made = {each.artifact.network for each in failed.exported}
                made |= {artifact.network for artifact in artifacts if artifact.format == failed.format}
                # a network's file is compared with the other network's, so one alone does not stay
                alone = {name for name in made if not {*_pair(type_of(name))} <= made}
                record(tuple(each for each in failed.exported if each.artifact.network not in alone))
                for each in failed.exported:
                    if each.artifact.network in alone:
                        each.artifact.path.unlink()
                context.reporter.say(f"files of {failed.format} are not written: {failed.reason}")

            written = None if test is None else test.write(work / "test.npy")
            folder = run / RunFile.ARTIFACTS_FOLDER
            lookups = lookups_of(run, compressed)
            export_all(
                programs,
                missing,
                folder,
                images,
                reference,
                lookups={name: lookups for name in networks if network_of(name) == COMPRESSED and lookups},
                test=written,
                outputs=context.network.layout,
                progress=progress,
                finished=record,
                failed=fail,
            )
    finally:
        shutil.rmtree(work, ignore_errors=True)
    if not artifacts:
        raise ExportError("; ".join(unwritten.values()))
    return tuple(artifacts)


def _programs(
    context: RunContext,
    modules: Mapping[str, nn.Module],
    networks: Sequence[str],
    settings: ExportSettings,
    folder: Path,
) -> tuple[dict[str, Path], dict[str, Array]]:
    """The program of each network in its number type, as a .pt2 in the folder, and the logits that its files are
    compared with: of int8 the program's own, else those of the float32 network."""
    from exporters import capture as program
    from exporters.parity import logits_of, logits_of_program

    images, captured = compared_images(context), dict[str, ExportedProgram]()

    def capture(name: str) -> ExportedProgram:
        if name not in captured:
            outputs = context.network.layout
            lone = outputs[0].name if len(outputs) == 1 else ""
            captured[name] = program.capture(modules[name], context.images[:1], lone)
        return captured[name]

    others = {name: partial(capture, network_of(name)) for name in networks if type_of(name)}
    quantized = quantize_stage(context, others, modules[COMPRESSED], settings)
    programs, reference = {}, {}
    with context.reporter.stage("Capturing the networks") as advance:
        for done, name in enumerate(networks):
            advance(done, len(networks), name)
            programs[name], own = folder / f"{name}.pt2", quantized.get(name)
            program.save(capture(name) if own is None else own, programs[name])
            if own is not None and number_type(own) == "int8":
                reference[name] = logits_of_program(own, images)
            else:
                reference[name] = logits_of(modules[network_of(name)], images)
    return programs, reference


def compared_images(context: RunContext) -> Array:
    """The images on which files are compared with their networks: fewer where an image has outputs of many numbers."""
    numbers = sum(output.numbers for output in context.network.layout)
    most = max(FEWEST_COMPARED, MOST_NUMBERS // max(1, numbers))
    images: Array = context.images[:most].numpy()
    return images


def _pair(kind: str) -> tuple[str, str]:
    """The names of both networks in that number type; "" is float32."""
    return f"{ORIGINAL}.{kind}".rstrip("."), f"{COMPRESSED}.{kind}".rstrip(".")


def unwritten_formats(run: RunDirectory) -> dict[str, str]:
    """The formats that could not be written, and why, as unwritten.json keeps them."""
    return msgspec.convert(run.read_json(RunFile.UNWRITTEN), dict[str, str]) if run.has(RunFile.UNWRITTEN) else {}


def _left_to_do(
    context: RunContext, wanted: dict[str, list[str]], otherwise: Set[str], test: TestSplit | None
) -> tuple[list[Artifact], list[Artifact], dict[str, list[str]]]:
    """The artifacts that hold, those of damaged files that nobody asked for, and the networks to export by format: of
    those wanted what is not there, is damaged, was calibrated otherwise, or was not judged on as many images."""
    run, formats = context.run, set(wanted)
    found = read_artifacts(run / RunFile.ARTIFACTS) if run.has(RunFile.ARTIFACTS) else ()
    damaged = {
        artifact.format
        for artifact in found
        if not artifact.path.exists() or size_and_sha256(artifact.path) != (artifact.bytes, artifact.sha256)
    }
    for name in sorted(damaged):
        cure = "exporting them again" if name in formats else f"`compress-export export {run.path} --format {name}`"
        context.reporter.say(f"files of {name} are gone or have changed: {cure}")
    anew = otherwise & {name for own in wanted.values() for name in own}
    for artifact in found:  # a network that is calibrated anew is exported anew in every format: its files share scales
        own = wanted.setdefault(artifact.format, [])
        if artifact.network in anew - {*own} and artifact.format not in damaged:
            own.append(artifact.network)

    def holds(artifact: Artifact) -> bool:
        if artifact.format in damaged or artifact.network not in wanted.get(artifact.format, ()):
            return artifact.format not in damaged
        executed = artifact.parity is not None and artifact.parity.executed
        judged = test is None or not executed or test.judged(context, artifact)
        return judged and artifact.network not in anew

    artifacts = [artifact for artifact in found if holds(artifact)]
    there = {(artifact.format, artifact.network) for artifact in artifacts}
    missing = {name: [each for each in own if (name, each) not in there] for name, own in wanted.items()}
    stays = [artifact for artifact in found if artifact.format in damaged - formats]
    return artifacts, stays, {name: own for name, own in missing.items() if own}


def _networks(formats: Sequence[str], settings: ExportSettings) -> dict[str, list[str]]:
    """The networks of each format's files."""
    found = {}
    for name in formats:
        found[name] = [ORIGINAL, COMPRESSED]
        if settings.quantize != "none" and not _why_not(name, DTYPES[settings.quantize]):
            found[name] += [f"{network}.{settings.quantize}" for network in (ORIGINAL, COMPRESSED)]
    return found


def _why_not(name: str, dtype: str) -> str:
    """The reason why a format has no further files of that number type; "" where it has."""
    kind = FORMATS[name]
    return f"its files are {dtype} anyway" if kind.computes == dtype else kind.refused.get(dtype, "")
