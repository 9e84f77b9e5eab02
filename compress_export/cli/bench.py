"""`compress-export bench`: measures a run's files again, or files that belong to no run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from compress_export.cli.options import BENCH, SPOKEN, parse_image
from compress_export.cli.to_settings import bench_of
from compress_export.console import console, tell
from compress_export.errors import InputError

LOOSE = ("images", "image", "out")


@click.command("bench", short_help="Measure a run's files again, or any files.")
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="RUN|FILE...")
@BENCH
@click.option("--images", type=click.Path(path_type=Path), metavar="FILE.npy|DIR|PICTURE", help="For files: a float32 "
              "NxCxHxW array, or pictures that are cut to size.  [default: crops of photographs]")  # fmt: skip
@click.option("--input", "image", metavar="CxHxW", help="For files: the size of the image where they do not tell it "
              "(.ptl).")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE", help="For files: where rows are added.  "
              "[default: measurements.jsonl, or profiles.jsonl, beside the first]")  # fmt: skip
@click.option("--profile", is_flag=True, help="Cost by layer, worst first, by each engine's own profiler; on the "
              "simulated ARM CPU in instructions.")  # fmt: skip
@SPOKEN
def bench(paths: tuple[Path, ...], **asked: Any) -> None:
    """Measure a RUN's files again (measurements.jsonl in it), or exported FILEs; those of one format take turns."""
    from bench.profile.measure import check_place
    from compress_export.pipeline.files import is_run

    if asked["profile"]:
        check_place(bench_of(asked).inside)
    runs = [path for path in paths if is_run(path)]
    if runs and len(paths) > 1:
        raise InputError(f"bench takes one run, or files: {runs[0]} is a folder; measure runs one by one")
    if runs:
        _bench_run(paths[0], asked)
    else:
        _bench_files(paths, asked)


def _bench_run(path: Path, asked: dict[str, Any]) -> None:
    for name in LOOSE:
        if asked[name] is not None:
            option = "--input" if name == "image" else f"--{name}"
            raise InputError(f"{option} is for files; a run has images and rows of its own, so leave it out")
    if asked["profile"]:
        from compress_export.pipeline.files import profile_run

        profile_run(path, bench_of(asked))
    else:
        from compress_export.pipeline.run import bench_only

        bench_only(path, bench_of(asked))


def _bench_files(paths: Sequence[Path], asked: dict[str, Any]) -> None:
    from compress_export.pipeline.files import artifacts_of, images_for, measure_files, profile_files, sized
    from compress_export.reporting.measured_files import as_plain, show_rows

    artifacts = artifacts_of(paths, None if asked["image"] is None else parse_image(asked["image"]))
    images = images_for(artifacts, asked["images"])
    artifacts = sized(artifacts, images)
    settings, beside = bench_of(asked), artifacts[0].path.parent
    if asked["profile"]:
        profile_files(artifacts, images, settings, asked["out"] or beside / "profiles.jsonl")
        return
    rows, place = measure_files(artifacts, images, settings, asked["out"] or beside / "measurements.jsonl")
    tell(as_plain(artifacts, rows, place), lambda: show_rows(artifacts, rows, place, console()))
