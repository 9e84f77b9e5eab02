"""Exported files outside a run: what each is, the images that they are given, and where their rows are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.file_contents.readers import input_shape
from bench.file_contents.readers import read as read_contents
from bench.measurement import BenchError, NotMeasured, Row
from bench.measurement import append as append_rows
from bench.profile.profile import Profile
from bench.profile.profile import append as append_profiles
from bench.run_files import RunFile, RunFiles
from compress_export.console import Reporter, console, print_result
from compress_export.errors import InputError
from compress_export.pipeline.load import load, stored_source
from compress_export.pipeline.measure import choose_device, schedule_for
from compress_export.reporting.terminal import profiles_as_plain, show_profiles
from compress_export.run_directory import open_run
from compress_export.settings import BenchSettings
from exporters.artifact import LIMITS, Artifact, read_artifacts, size_and_sha256
from exporters.formats import FORMATS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Images = NDArray[np.float32]

IMAGES = 32
"""Images that a file is given where it is measured outside a run, at most."""

CHANNELS = (1, 3)
"""Channels of a picture: grey, or colours."""


def profile_run(path: Path, settings: BenchSettings) -> None:
    """Profiles every file of the run at `path` and prints their costs by layer; its report shows them."""
    from compress_export.reporting.pages import renew_pages

    with open_run(path, create=False) as run:
        run.need(RunFile.ARTIFACTS, f"export {path} --target android")
        artifacts = read_artifacts(run / RunFile.ARTIFACTS)
        images = load(run, stored_source(run), Reporter()).images
        profile_files(artifacts, images.numpy(), settings, run / RunFile.PROFILES)
        renew_pages(run)


def profile_files(artifacts: Sequence[Artifact], images: Images, settings: BenchSettings, out: Path) -> None:
    """Profiles the files, adds them to `out`, and prints their costs by layer."""
    device = choose_device(settings, Reporter())
    where = device.describe()
    with Reporter().stage(f"Profiling on {where.name} ({where.cpu})") as advance:
        found = device.profile(artifacts, images, schedule_for(settings), advance)
    names = [artifact.path.name for artifact in artifacts]
    profiles = [(name, each) for name, each in zip(names, found, strict=True) if isinstance(each, Profile)]
    append_profiles(out, [profile for _, profile in profiles])

    def show() -> None:
        show_profiles(profiles, console())
        for name, each in zip(names, found, strict=True):
            if isinstance(each, NotMeasured):
                console().print(f"{name}: not profiled: {each.reason}", markup=False, soft_wrap=True)
        console().print(f"profiles added to {out}", markup=False, soft_wrap=True)

    print_result(profiles_as_plain(names, found, out), show)


def is_run(path: Path) -> bool:
    """True if `path` is to be read as a run directory: any folder that is no file of a format."""
    return path.is_dir() and path.suffix.removeprefix(".") not in FORMATS


def artifacts_of(paths: Sequence[Path], image: tuple[int, ...] | None = None) -> tuple[Artifact, ...]:
    """Every file as its run recorded it, else as the file itself tells; `image` is the size (C, H, W) of those that do
    not tell theirs. InputError for a file that no runtime takes, BenchError for one that is not whole."""
    artifacts = []
    for path in paths:
        form = path.suffix.removeprefix(".")
        if not path.exists():
            raise InputError(f"{path}: there is no such file or run")
        if form not in FORMATS:
            known = ", ".join(f".{name}" for name in FORMATS)
            raise InputError(
                f"{path}: no runtime here takes a {path.suffix or 'nameless'} file; pass one of {known}, or a run"
            )
        run = RunFiles.of(path)
        recorded = None if run is None else run.artifact(path)
        if recorded is not None:
            artifacts.append(replace(recorded, path=path))
            continue
        contents = read_contents(path)
        stored = "" if contents is None else contents.number_type
        dtype = stored if stored in LIMITS else "float32"
        shape = input_shape(path) or (() if image is None else (1, *image))
        artifacts.append(Artifact(path, path.stem, form, *size_and_sha256(path), dtype, shape, {}))
    return tuple(artifacts)


def images_for(artifacts: Sequence[Artifact], source: Path | None) -> Images:
    """Images for all of these files, float32 (N, C, H, W) and normalized: those of `source` (a .npy as they are,
    pictures cropped to size), else crops of photographs. InputError if the files take images of different sizes, or
    none tells its own."""
    import numpy as np

    from compress_export.data.images import View, photograph_crops
    from compress_export.data.picture_files import PICTURES, pictures
    from compress_export.models.networks import usual_normalization

    if source is not None and source.suffix == ".npy":
        try:
            found = np.load(source, allow_pickle=False)
        except (OSError, ValueError) as error:
            raise InputError(f"--images {source} is no .npy file ({error})") from error
        if found.ndim != 4 or found.dtype != np.float32 or not len(found):
            raise InputError(
                f"--images {source} holds {found.dtype} of shape {'x'.join(map(str, found.shape))}; it takes float32 "
                "of shape NxCxHxW, normalized as the network takes it"
            )
        return np.ascontiguousarray(found)
    sizes = {each.path.name: tuple(each.input[1:]) for each in artifacts if each.input}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} takes {'x'.join(map(str, size))}" for name, size in sizes.items())
        raise InputError(f"files that are measured together take images of one size: {said}; measure them one by one")
    if not sizes:
        raise InputError(
            f"{artifacts[0].path.name} does not tell the size of its image; pass --input CxHxW, such as --input "
            "3x224x224, or --images FILE.npy"
        )
    name, size = next(iter(sizes.items()))
    if len(size) != 3:
        raise InputError(f"{name} takes {len(size)} sides, not an image of channels, height and width")
    if size[2] in CHANNELS and size[0] not in CHANNELS:
        raise InputError(
            f"{name} takes images of {'x'.join(map(str, size))}, with their channels last; files that are measured "
            "here take 1xCxHxW: write it with `compress-export`, or have its converter keep PyTorch's order"
        )
    view = View((size[0], size[1], size[2]), *usual_normalization(size[0]))
    if source is None:
        return photograph_crops(view, IMAGES).numpy()
    files = sorted(each for each in source.glob("*") if each.suffix.lower() in PICTURES)
    if source.is_file():
        files = [source]
    if not files:
        raise InputError(
            f"--images {source} holds no picture ({', '.join(PICTURES)}); pass a folder of some, one picture, or a .npy"
        )
    return pictures(files[:IMAGES], view).numpy()


def sized(artifacts: Sequence[Artifact], images: Images) -> tuple[Artifact, ...]:
    """The files, those that do not tell the size of their image with that of the images they are given."""
    return tuple(replace(each, input=each.input or (1, *images.shape[1:])) for each in artifacts)


def measure_files(
    artifacts: Sequence[Artifact], images: Images, settings: BenchSettings, rows_file: Path
) -> tuple[tuple[Row, ...], Path]:
    """A row for each file, and the file that they were added to."""
    device = choose_device(settings, Reporter())
    where, files = device.describe(), "1 file" if len(artifacts) == 1 else f"{len(artifacts)} files"
    with Reporter().stage(f"Measuring {files} on {where.name} ({where.cpu})") as advance:
        try:
            rows = device.measure(artifacts, images, schedule_for(settings), advance)
        except BenchError as error:
            if error.rows:
                append_rows(rows_file, error.rows)
            raise
    append_rows(rows_file, rows)
    return rows, rows_file
