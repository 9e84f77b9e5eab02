"""The command line. Toolkits are imported by the commands that need them, never to print help."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from compress_export.cli.bench import bench
from compress_export.cli.check import check
from compress_export.cli.list import compare, costs, list_kind
from compress_export.cli.options import BENCH, EXPORT, LOUDNESS, PLACE, PLAN, RATE, RECIPE, SHARE, SOURCE, SPOKEN, TUNE
from compress_export.cli.study import study
from compress_export.cli.to_settings import (
    bench_of,
    formats_of,
    place_of,
    plan_of,
    share_of,
    source_of,
    tune_again_of,
    tune_of,
)
from compress_export.console import ordinary, voice
from compress_export.errors import InputError, nearest

INTERRUPTED = 130


class FrontDoor(click.Group):
    """A group whose first word may be a network: `compress-export alexnet` is `compress-export run alexnet`.

    A subcommand's name wins over a network's.
    """

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
@SOURCE
@RECIPE
@PLAN
@TUNE
@SHARE
@EXPORT
@BENCH
@PLACE
def run(network: str, **asked: Any) -> None:
    """Do everything: load, survey, plan, compress, tune, export, measure, report."""
    formats = formats_of(asked)
    source, plan_settings = source_of(network, asked), plan_of(asked, formats)
    tuning, bench_settings, sharing = tune_of(asked), bench_of(asked), share_of(asked)
    place = place_of(network, asked, asked["target"] or ("android" if not asked["formats"] else asked["formats"]))
    from compress_export.pipeline.run import (
        RunRequest,
        on_main_process,
        run_all,  # now, for it takes seconds and a typing error none
    )

    request = RunRequest(source, plan_settings, tuning, formats, bench_settings, sharing)
    on_main_process(lambda group: run_all(place, request, asked["force"], group), asked["mixed_precision"])


@cli.command(short_help="Choose methods and ranks: plan.json.")
@click.argument("network")
@SOURCE
@RECIPE
@PLAN
@RATE
@PLACE
def plan(network: str, **asked: Any) -> None:
    """Choose a method and a rank for each layer of NETWORK: plan.json in a new run directory."""
    place, source, settings = place_of(network, asked, None), source_of(network, asked), plan_of(asked)
    from compress_export.pipeline.run import on_main_process, plan_only

    on_main_process(lambda group: plan_only(place, source, settings, asked["force"], group))


@cli.command(short_help="Cut by the plan: compressed.safetensors.")
@click.argument("run_directory", type=click.Path(path_type=Path))
def compress(run_directory: Path) -> None:
    """Put the factors of RUN_DIRECTORY's plan in place: compressed.safetensors."""
    from compress_export.pipeline.run import compress_only

    compress_only(run_directory)


@cli.command(short_help="Fine-tune: tuned.safetensors.")
@click.argument("run_directory", type=click.Path(path_type=Path))
@RECIPE
@TUNE
@click.option("--force", is_flag=True, help="Replace results that were made with other settings.")
@click.pass_context
def tune(context: click.Context, /, run_directory: Path, **asked: Any) -> None:
    """Fine-tune RUN_DIRECTORY's network: tuned.safetensors and tuning.jsonl.

    What is not passed is as it was when the run was tuned before, or as the defaults say.
    """
    from compress_export.pipeline.run import on_main_process, tune_only

    given = {name for name in asked if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
    on_main_process(
        lambda group: tune_only(
            run_directory, lambda stored: tune_again_of(asked, given, stored), asked["force"], group
        ),
        asked["mixed_precision"],
    )


@cli.command(short_help="Share weights: shared.safetensors.")
@click.argument("run_directory", type=click.Path(path_type=Path))
@SHARE
@click.option("--force", is_flag=True, help="Replace results that were made with other settings.")
def share(run_directory: Path, **asked: Any) -> None:
    """Share weights of RUN_DIRECTORY's network by product quantization: shared.safetensors and sharing.jsonl."""
    settings = share_of(asked)
    from compress_export.pipeline.run import share_only

    share_only(run_directory, settings, asked["force"])


@cli.command(short_help="Write and check files: artifacts/.")
@click.argument("run_directory", type=click.Path(path_type=Path))
@EXPORT
def export(run_directory: Path, **asked: Any) -> None:
    """Write RUN_DIRECTORY's networks as files, each checked: artifacts/ and artifacts.json."""
    formats = formats_of(asked)
    from compress_export.pipeline.run import export_only

    export_only(run_directory, formats)


@cli.command(short_help="Write and print the report.")
@click.argument("run_directory", type=click.Path(path_type=Path))
def report(run_directory: Path) -> None:
    """Write RUN_DIRECTORY's report.html, report.md and report.json from its files, and print the closing table."""
    from compress_export.pipeline.run import report_only

    report_only(run_directory)


@cli.command(short_help="List phones and other devices.")
@click.option("--clean", is_flag=True, help="Remove the runner that was left on each phone.")
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
    SPOKEN(command)
for command in (compress, tune, share, export):
    LOUDNESS(command)
for command in (bench, check, compare, costs, list_kind, study):
    cli.add_command(command)


def main() -> None:
    """Runs the command line. An error that is the user's to mend is one message and status 1, Ctrl-C is status 130."""
    # Read by OpenMP when torch is imported: threads that wait must not spin while another process measures or trains.
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    ordinary()
    try:
        cli.main(standalone_mode=False)
    except click.exceptions.Abort:
        _fail("interrupted; the same command goes on from here", INTERRUPTED)
    except KeyboardInterrupt:
        _fail("interrupted; the same command goes on from here", INTERRUPTED)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        _fail(f"{place}{error.strerror or error}", 1)
    except (ValueError, RuntimeError) as error:
        if not _is_ours(error) or voice().verbose:
            raise
        _fail(_message(error), 1)


def _message(error: Exception) -> str:
    """The error's text. A data loader's worker wraps it into a traceback, whose last line it is."""
    text = str(error).strip()
    return text.splitlines()[-1].partition(": ")[2] if text.startswith("Caught ") else text


def _is_ours(error: Exception) -> bool:
    """Whether the error is one of the project's own, made to be read; any other is a fault and shows its traceback."""
    return type(error).__module__.split(".")[0] in ("compress_export", "compressor", "exporters", "bench")


def _fail(message: str, status: int) -> None:
    click.echo(f"compress-export: {message}", err=True)
    sys.exit(status)
