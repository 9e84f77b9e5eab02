"""The command line. Toolkits are imported by the commands that need them, never to print help."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from compress_export.cli.check import check
from compress_export.cli.list import compare, costs, list_kind
from compress_export.cli.options import (
    EXPORT,
    FORCE,
    MEASURING,
    OUTPUT,
    QUIET,
    RUN_DIRECTORY,
    GroupedCommand,
    given_in,
    option,
    with_settings,
)
from compress_export.cli.study import study
from compress_export.console import OutputOptions, console, output_options, print_result, set_output
from compress_export.errors import InputError, nearest
from compress_export.settings import SETTINGS

INTERRUPTED = 130
OWN_PACKAGES = ("compress_export", "compressor", "exporters", "bench")
"""Packages whose errors are made to be read; any other is a fault and shows its traceback."""


class FrontDoor(click.Group):
    """A group whose first word may be a network: `compress-export alexnet` is `compress-export run alexnet`.

    A subcommand's name wins over a network's.
    """

    command_class = GroupedCommand

    def parse_args(self, context: click.Context, args: list[str]) -> list[str]:
        if args and not args[0].startswith("-") and args[0] not in self.commands:
            if len(args) > 1 and not args[1].startswith("-"):  # a network is followed by options alone
                raise InputError(f"there is no command {args[0]!r}: {nearest(args[0], self.commands)}")
            args = ["run", *args]
        return super().parse_args(context, args)


@click.group(cls=FrontDoor, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="compress-export")
def cli() -> None:
    """Compress a trained CNN, export it for phones, and measure what came out.

    \b
    compress-export alexnet --target android
    compress-export alexnet --data digits --target android
    compress-export net.py:build --input 3x224x224 --data photos/ --max-params 0.25x

    The first word is a network: a torchvision name, timm:NAME, FILE.py:FUNCTION or alexnet-caffe.
    All options of the whole run: compress-export run --help.
    """


@cli.command(short_help="Do everything, from network to report.")
@click.argument("network")
@with_settings("source", "plan", "fine_tune", "share", "export", "bench", recipe=True, without=("bench.cores",))
@EXPORT
@RUN_DIRECTORY
@click.pass_context
def run(
    context: click.Context, network: str, target: str | None, formats: tuple[str, ...], name: str | None, runs: str,
    force: bool,
) -> None:  # fmt: skip
    """Do everything: load, survey, plan, compress, tune, export, measure, report."""
    from compress_export.cli import to_settings as settings

    given, written = given_in(context), settings.formats_of(target, formats)
    source, goal = settings.source_of(network, given), settings.plan_of(given, written)
    tuning, bench_settings, sharing = settings.tune_of(given), settings.bench_of(given), settings.share_of(given)
    path = settings.run_path(network, name, runs, target or ",".join(formats) or "android")
    from compress_export.pipeline.run import on_main_process, run_all  # now: it takes seconds, a typing error none
    from compress_export.pipeline.validate import RunRequest

    request = RunRequest(source, goal, tuning, written, settings.export_of(given), bench_settings, sharing)
    on_main_process(lambda group: run_all(path, request, force, group), tuning.mixed_precision)


@cli.command(short_help="Choose methods and ranks: plan.json.")
@click.argument("network")
@with_settings("source", "plan", recipe=True)
@RUN_DIRECTORY
@click.pass_context
def plan(context: click.Context, network: str, name: str | None, runs: str, force: bool) -> None:
    """Choose a method and a rank for each layer of NETWORK: plan.json in a new run directory."""
    from compress_export.cli import to_settings as settings

    path, given = settings.run_path(network, name, runs), given_in(context)
    source, goal = settings.source_of(network, given), settings.plan_of(given)
    from compress_export.pipeline.run import on_main_process, plan_only

    on_main_process(lambda group: plan_only(path, source, goal, force, group))


@cli.command(short_help="Compress by the plan: compressed.safetensors.")
@click.argument("run_directory", type=click.Path(path_type=Path))
def compress(run_directory: Path) -> None:
    """Put the factors of RUN_DIRECTORY's plan in place: compressed.safetensors."""
    from compress_export.pipeline.run import compress_only

    compress_only(run_directory)


@cli.command(short_help="Fine-tune: tuned.safetensors.")
@click.argument("run_directory", type=click.Path(path_type=Path))
@with_settings("fine_tune", recipe=True)
@FORCE
@click.pass_context
def tune(context: click.Context, run_directory: Path, force: bool) -> None:
    """Fine-tune RUN_DIRECTORY's network: tuned.safetensors and tuning.jsonl.

    What is not passed is as it was when the run was tuned before, or as the defaults say.
    """
    from compress_export.cli.to_settings import tune_again_of
    from compress_export.run_directory import existing_run

    settings = tune_again_of(given_in(context), existing_run(run_directory).stored())
    from compress_export.pipeline.run import on_main_process, tune_only

    on_main_process(lambda group: tune_only(run_directory, settings, force, group), settings.mixed_precision)


@cli.command(short_help="Share weights: shared.safetensors.")
@click.argument("run_directory", type=click.Path(path_type=Path))
@with_settings("share")
@FORCE
@click.pass_context
def share(context: click.Context, run_directory: Path, force: bool) -> None:
    """Share weights of RUN_DIRECTORY's network by product quantization: shared.safetensors and sharing.jsonl."""
    from compress_export.cli.to_settings import share_of

    settings = share_of(given_in(context))
    from compress_export.pipeline.run import share_only

    share_only(run_directory, settings, force)


@cli.command(short_help="Write and check files: artifacts/.")
@click.argument("run_directory", type=click.Path(path_type=Path))
@EXPORT
@with_settings("export")
@click.pass_context
def export(context: click.Context, run_directory: Path, target: str | None, formats: tuple[str, ...]) -> None:
    """Write RUN_DIRECTORY's networks as files, each checked: artifacts/ and artifacts.json."""
    from compress_export.cli.to_settings import export_again_of, formats_of
    from compress_export.run_directory import existing_run

    written = formats_of(target, formats)
    settings = export_again_of(given_in(context), existing_run(run_directory).stored())
    from compress_export.pipeline.run import export_only

    export_only(run_directory, written, settings)


@cli.command(short_help="Measure a run's files again, or any files.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN|FILE...")
@with_settings("bench")
@option("--profile", group=MEASURING, is_flag=True, help="Cost by layer, worst first, by each engine's own profiler; "
        "on the simulated ARM CPU in instructions.")  # fmt: skip
@option("--images", group="Files outside a run", type=click.Path(path_type=Path), metavar="FILE.npy|DIR|PICTURE",
        help="A float32 NxCxHxW array, or pictures, which are resized.  [default: crops of photographs]")  # fmt: skip
@option("--input", "image", group="Files outside a run", metavar="CxHxW",
        help="Size of the image where the files do not tell it (.ptl).")  # fmt: skip
@option("--out", group="Files outside a run", type=click.Path(path_type=Path), metavar="FILE", help="Where rows are "
        "added.  [default: measurements.jsonl, or profiles.jsonl, beside the first]")  # fmt: skip
@OUTPUT
@click.pass_context
def bench(
    context: click.Context, paths: tuple[Path, ...], profile: bool, images: Path | None, image: str | None,
    out: Path | None,
) -> None:  # fmt: skip
    """Measure a RUN's files again (measurements.jsonl in it), or exported FILEs; those of one format take turns."""
    from bench.profile.measure import check_place
    from compress_export.cli.to_settings import bench_of
    from compress_export.pipeline import files

    settings = bench_of(given_in(context))
    if profile:
        check_place(settings.inside)
    runs = [path for path in paths if files.is_run(path)]
    if runs and len(paths) > 1:
        raise InputError(f"bench takes one run, or files: {runs[0]} is a folder; measure runs one by one")
    if runs:
        for name, value in (("--images", images), ("--input", image), ("--out", out)):
            if value is not None:
                raise InputError(f"{name} is for files; a run has images and rows of its own, so leave it out")
        if profile:
            files.profile_run(runs[0], settings)
        else:
            from compress_export.pipeline.run import bench_only

            bench_only(runs[0], settings)
        return
    from compress_export.reporting.terminal import as_plain, show_rows

    size = None if image is None else SETTINGS["source.input"].parse(image)
    artifacts = files.artifacts_of(paths, size if isinstance(size, tuple) else None)
    pictures = files.images_for(artifacts, images)
    artifacts, beside = files.sized(artifacts, pictures), artifacts[0].path.parent
    if profile:
        files.profile_files(artifacts, pictures, settings, out or beside / "profiles.jsonl")
        return
    rows, written = files.measure_files(artifacts, pictures, settings, out or beside / "measurements.jsonl")
    print_result(as_plain(artifacts, rows, written), lambda: show_rows(artifacts, rows, written, console()))


@cli.command(short_help="Write and print the report.")
@click.argument("run_directory", type=click.Path(path_type=Path))
def report(run_directory: Path) -> None:
    """Write RUN_DIRECTORY's report.html, report.md and report.json from its files, and print the closing table."""
    from compress_export.pipeline.run import report_only

    report_only(run_directory)


@cli.command(short_help="List phones and other devices.")
@option("--clean", is_flag=True, help="Remove the runner that was left on each phone.")
def devices(clean: bool) -> None:
    """List where files can be measured: phones, the simulator, this machine."""
    from compress_export.cli.doctor import clean_phones, show_devices

    (clean_phones if clean else show_devices)()


@cli.command(short_help="Say what this machine can do.")
def doctor() -> None:
    """Say what this machine can do, and the command that adds what is missing."""
    from compress_export.cli.doctor import examine

    sys.exit(0 if examine() else 1)


for command in (run, plan, report, devices, doctor):
    OUTPUT(command)
for command in (compress, tune, share, export):
    QUIET(command)
for command in (check, compare, costs, list_kind, study):
    cli.add_command(command)


def main() -> None:
    """Runs the command line. An error that is the user's to mend is one message and status 1, Ctrl-C is status 130."""
    # Read by OpenMP when torch is imported: threads that wait must not spin while another process measures or trains.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    set_output(OutputOptions())
    try:
        cli.main(standalone_mode=False)
    except (click.exceptions.Abort, KeyboardInterrupt):
        _fail("interrupted; the same command goes on from here", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}", 1)
    except (ValueError, RuntimeError) as error:
        if type(error).__module__.split(".")[0] not in OWN_PACKAGES or output_options().verbose:
            raise
        text = str(error).strip()
        # a data loader's worker wraps it into a traceback, whose last line it is
        _fail(text.splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text, 1)


def _fail(message: str, status: int) -> None:
    click.echo(f"compress-export: {message}", err=True)
    sys.exit(status)
