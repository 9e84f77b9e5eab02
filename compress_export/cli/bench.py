"""`compress-export bench`: measures a run's files again, or files that belong to no run."""

from __future__ import annotations

from pathlib import Path

import click

from compress_export.cli.options import MEASURING, OUTPUT, GroupedCommand, given_in, option, with_settings
from compress_export.console import console, print_result
from compress_export.errors import InputError
from compress_export.settings import SETTINGS


@click.command("bench", cls=GroupedCommand, short_help="Measure a run's files again, or any files.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN|FILE...")
@with_settings("bench")
@option("--profile", group=MEASURING, is_flag=True, help="Cost by layer, worst first, by each engine's own profiler; "
        "on the simulated ARM CPU in instructions.")  # fmt: skip
@option("--images", group="Files outside a run", type=click.Path(path_type=Path), metavar="FILE.npy|DIR|PICTURE",
        help="A float32 NxCxHxW array, or pictures that are cut to size.  [default: crops of photographs]")  # fmt: skip
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
