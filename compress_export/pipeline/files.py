"""Exported files outside a run: what each is, the images that they are given, and where their rows are kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.devices import DeviceEngine
from bench.file_contents.readers import input_shape
from bench.file_contents.readers import read as read_contents
from bench.measurement import BenchError, NotMeasured, Row
from bench.measurement import append as append_rows
from bench.profile.measure import Result
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
    append_profiles(out, [each for each in found if isinstance(each, Profile)])
    names = [artifact.path.name for artifact in artifacts]
    print_result(profiles_as_plain(names, found, out), lambda: _show(names, found, out))


def _show(names: Sequence[str], found: Sequence[Result], out: Path) -> None:
    profiles = [(name, each) for name, each in zip(names, found, strict=True) if isinstance(each, Profile)]
    show_profiles(profiles, console())
    for name, each in zip(names, found, strict=True):
        if isinstance(each, NotMeasured):
            console().print(f"{name}: not profiled: {each.reason}", markup=False, soft_wrap=True)
    console().print(f"profiles added to {out}", markup=False, soft_wrap=True)


IMAGES = 32


def is_run(path: Path) -> bool:
    """Whether `path` is to be read as a run directory: any folder that is no file of a format."""
    return path.is_dir() and path.suffix.removeprefix(".") not in FORMATS


def artifacts_of(paths: Sequence[Path], image: tuple[int, ...] | None = None) -> tuple[Artifact, ...]:
    """What each file is: as its run recorded it, else as the file itself tells it; `image` is the size (C, H, W) of
    those that do not tell theirs. InputError for what no runtime takes, BenchError for a file that is not whole."""
    return tuple(_artifact(path, image) for path in paths)


def _artifact(path: Path, image: tuple[int, ...] | None) -> Artifact:
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
        return replace(recorded, path=path)
    contents = read_contents(path)
    types = [name for name in (contents.dtypes if contents is not None else ()) if name in LIMITS]
    shape = input_shape(path) or (() if image is None else (1, *image))
    return Artifact(path, path.stem, form, *size_and_sha256(path), types[0] if types else "float32", shape, {})


def images_for(artifacts: Sequence[Artifact], place: Path | None) -> Images:
    """Images for all of these files, float32 (N, C, H, W) and normalized: those at `place` (a .npy as they are,
    pictures cut to size), else crops of photographs. InputError if the files take images of different sizes, or none
    tells its own."""
    if place is not None and place.suffix == ".npy":
        return _stacked(place)
    sizes = {each.path.name: tuple(each.input[1:]) for each in artifacts if each.input}
    if len(set(sizes.values())) > 1:
        said = ", ".join(f"{name} takes {'x'.join(map(str, size))}" for name, size in sizes.items())
        raise InputError(f"files that are measured together take images of one size: {said}; measure them one by one")
    if not sizes:
        raise InputError(
            f"{artifacts[0].path.name} does not tell the size of its image; pass --input CxHxW, such as --input "
            "3x224x224, or --images FILE.npy"
        )
    (size,) = set(sizes.values())
    if len(size) != 3:
        raise InputError(f"{next(iter(sizes))} takes {len(size)} sides, not an image of channels, height and width")
    return _pictures(place, (size[0], size[1], size[2]))


def _stacked(place: Path) -> Images:
    import numpy as np

    try:
        found = np.load(place, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"--images {place} is no .npy file ({error})") from error
    if found.ndim != 4 or found.dtype != np.float32 or not len(found):
        raise InputError(
            f"--images {place} holds {found.dtype} of shape {'x'.join(map(str, found.shape))}; it takes float32 of "
            "shape NxCxHxW, normalized as the network takes it"
        )
    return np.ascontiguousarray(found)


def _pictures(place: Path | None, size: tuple[int, int, int]) -> Images:
    from compress_export.data.images import PICTURES, View, photograph_crops, pictures
    from compress_export.models.networks import usual_normalization

    view = View(size, *usual_normalization(size[0]))
    if place is None:
        return photograph_crops(view, IMAGES).numpy()
    files = [place] if place.is_file() else sorted(each for each in place.glob("*") if each.suffix.lower() in PICTURES)
    if not files:
        raise InputError(
            f"--images {place} holds no picture ({', '.join(PICTURES)}); pass a folder of some, one picture, or a .npy"
        )
    return pictures(files[:IMAGES], view).numpy()


def sized(artifacts: Sequence[Artifact], images: Images) -> tuple[Artifact, ...]:
    """The files, those that do not tell the size of their image with that of the images they are given."""
    return tuple(replace(each, input=each.input or (1, *images.shape[1:])) for each in artifacts)


def measure_files(
    artifacts: Sequence[Artifact], images: Images, settings: BenchSettings, place: Path
) -> tuple[tuple[Row, ...], Path]:
    """A row for each file, and the file that they were added to."""
    device = choose_device(settings, Reporter())
    rows = _measured(device, artifacts, images, settings, place)
    append_rows(place, rows)
    return rows, place


def _measured(
    device: DeviceEngine, artifacts: Sequence[Artifact], images: Images, settings: BenchSettings, place: Path
) -> tuple[Row, ...]:
    where, files = device.describe(), "1 file" if len(artifacts) == 1 else f"{len(artifacts)} files"
    with Reporter().stage(f"Measuring {files} on {where.name} ({where.cpu})") as advance:
        try:
            return device.measure(artifacts, images, schedule_for(settings), advance)
        except BenchError as error:
            if error.rows:
                append_rows(place, error.rows)
            raise
