"""A bundle is what was built, or it is refused with the file's name and the command that mends it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from bench.measurement import BenchError
from bench.runner.bundle import BUILD, Bundle, BundledFile, Program, open_bundle, read_manifest, write_manifest
from exporters.artifact import size_and_sha256


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder of bundles with one for aarch64: a program, a loader and their manifest."""
    path = tmp_path / "aarch64"
    (path / "lib").mkdir(parents=True)
    names = ("run_pte", "lib/ld-linux-aarch64.so.1")
    for name in names:
        (path / name).write_text(name)
    files = {name: BundledFile(*size_and_sha256(path / name)) for name in names}
    engines = {"pte": Program("run_pte", "executorch", "1.5.1")}
    write_manifest(Bundle(path, "aarch64", "arm64-v8a", "2.36", engines, files))
    return tmp_path


def test_a_bundle_reads_back_as_it_was_written(root: Path) -> None:
    bundle = open_bundle("aarch64", root)
    assert (bundle.arch, bundle.abi, bundle.glibc) == ("aarch64", "arm64-v8a", "2.36")
    assert bundle.engines == {"pte": Program("run_pte", "executorch", "1.5.1")}
    assert bundle.files["run_pte"].bytes == len("run_pte")
    assert read_manifest(bundle.path, Bundle, BUILD) == bundle


def test_a_program_starts_through_the_loader_that_its_bundle_carries(root: Path) -> None:
    bundle = open_bundle("aarch64", root)
    path = str(bundle.path)
    words = [f"{path}/lib/ld-linux-aarch64.so.1", "--library-path", f"{path}/lib", f"{path}/run_pte"]
    assert bundle.command("pte") == words
    bare = Bundle(bundle.path, "host", "x86_64", "", bundle.engines, {"run_pte": bundle.files["run_pte"]})
    assert bare.command("pte") == [f"{path}/run_pte"]


def change(path: Path) -> None:
    (path / "run_pte").write_text("another")


def drop(path: Path) -> None:
    (path / "run_pte").unlink()


def outdate(path: Path) -> None:
    fields = json.loads((path / "manifest.json").read_text())
    (path / "manifest.json").write_text(json.dumps(fields | {"schema": 2}))


def empty(path: Path) -> None:
    (path / "manifest.json").write_text("{}")


@pytest.mark.parametrize(
    ("harm", "text"),
    [
        (change, "is not the one that was built: the sha256 of"),
        (drop, "run_pte is missing; build it with `make runner`"),
        (outdate, "is no manifest: its schema is 2, not 1; build it with `make runner`"),
        (empty, "is no manifest: its schema is None, not 1; build it with `make runner`"),
    ],
)
def test_a_harmed_bundle_is_refused(root: Path, harm: Callable[[Path], None], text: str) -> None:
    harm(root / "aarch64")
    with pytest.raises(BenchError) as error:
        open_bundle("aarch64", root)
    assert text in str(error.value)


def test_a_bundle_that_is_not_there_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(BenchError, match=r"there is no runner for aarch64 in .*; build it with `make runner`"):
        open_bundle("aarch64", tmp_path)
