"""`bench --profile`: what each layer costs, of a run's files or of files outside a run; profiles.jsonl keeps it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.measurement import NotMeasured
from bench.profilers import Result
from bench.profiles import FILE, Profile, append
from compress_export.file_stages import choose_device, schedule_for
from compress_export.progress import Reporter
from compress_export.reporting.profile_table import as_plain, show_profiles
from compress_export.run_directory import open_run
from compress_export.settings import BenchSettings
from compress_export.voice import console, tell
from exporters.artifact import Artifact, read_artifacts

if TYPE_CHECKING:
    from compress_export.loose_files import Images


def profile_run(path: Path, settings: BenchSettings) -> None:
    """Profiles every file of the run at `path` and prints their costs by layer; its report shows them."""
    from compress_export.pipeline import images_of
    from compress_export.reporting.pages import renew_pages

    with open_run(path, create=False) as run:
        run.need("artifacts.json", f"export {path} --target android")
        artifacts = read_artifacts(run / "artifacts.json")
        profile_files(artifacts, images_of(run), settings, run / FILE)
        renew_pages(run)


def profile_files(artifacts: Sequence[Artifact], images: Images, settings: BenchSettings, out: Path) -> None:
    """Profiles the files, adds them to `out`, and prints their costs by layer."""
    device = choose_device(settings, Reporter())
    where = device.describe()
    with Reporter().stage(f"Profiling on {where.name} ({where.cpu})") as advance:
        found = device.profile(artifacts, images, schedule_for(settings), advance)
    append(out, [each for each in found if isinstance(each, Profile)])
    names = [artifact.path.name for artifact in artifacts]
    tell(as_plain(names, found, out), lambda: _show(names, found, out))


def _show(names: Sequence[str], found: Sequence[Result], out: Path) -> None:
    profiles = [(name, each) for name, each in zip(names, found, strict=True) if isinstance(each, Profile)]
    show_profiles(profiles, console())
    for name, each in zip(names, found, strict=True):
        if isinstance(each, NotMeasured):
            console().print(f"{name}: not profiled: {each.reason}", markup=False, soft_wrap=True)
    console().print(f"profiles added to {out}", markup=False, soft_wrap=True)
