import json
from dataclasses import replace
from pathlib import Path

import pytest

from exporters.artifact import (
    Artifact,
    ExportError,
    Parity,
    encode_path,
    move,
    read_artifacts,
    size_and_sha256,
    write_artifacts,
)

GOOD = Parity(True, 8, 1e-6, 2e-6, 0.99999, 1.0)
UNSEEN = Parity(False, 0, None, None, None, None, "not executed on this system; 3 of 3 stored weights match")


def artifact(folder: Path, parity: Parity | None = GOOD) -> Artifact:
    return Artifact(
        path=folder / "model" / "compressed.pte",
        network="compressed",
        format="pte",
        bytes=123,
        sha256="ab" * 32,
        dtype="float32",
        input=(1, 3, 224, 224),
        toolkits={"executorch": "1.5.1"},
        not_delegated=("features.3",),
        fallbacks=("aten.cat (features.3)",),
        parity=parity,
    )


@pytest.mark.parametrize("parity", [GOOD, UNSEEN, None])
def test_artifacts_come_back_from_json_as_they_were(tmp_path, parity):
    written = (artifact(tmp_path, parity), replace(artifact(tmp_path), network="original"))
    write_artifacts(tmp_path / "artifacts.json", written)
    assert read_artifacts(tmp_path / "artifacts.json") == written


def test_paths_are_stored_relative_so_that_a_run_can_be_moved(tmp_path):
    write_artifacts(tmp_path / "artifacts.json", [artifact(tmp_path)])
    assert json.loads((tmp_path / "artifacts.json").read_text())[0]["path"] == "model/compressed.pte"
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    (tmp_path / "artifacts.json").rename(moved / "artifacts.json")
    assert read_artifacts(moved / "artifacts.json")[0].path == moved / "model" / "compressed.pte"
    assert [entry.name for entry in moved.iterdir()] == ["artifacts.json"]


@pytest.mark.parametrize("text", ["{", "[{}]", "3", '[{"path": 1}]'])
def test_a_file_that_is_no_list_of_artifacts_is_refused(tmp_path, text):
    (tmp_path / "artifacts.json").write_text(text)
    with pytest.raises(ExportError, match=r"artifacts.json is not a list of artifacts: .*--target all` writes one"):
        read_artifacts(tmp_path / "artifacts.json")


def test_a_file_is_measured_by_its_bytes(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert size_and_sha256(tmp_path / "a") == (3, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad")


def test_a_folder_is_measured_by_names_and_contents(tmp_path):
    def folder(name: str, files: dict[str, bytes]) -> tuple[int, str]:
        for file, content in files.items():
            (tmp_path / name / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file).write_bytes(content)
        return size_and_sha256(tmp_path / name)

    first = folder("first", {"Data/weight.bin": b"1234", "Manifest.json": b"56"})
    assert first[0] == 6
    assert folder("same", {"Manifest.json": b"56", "Data/weight.bin": b"1234"}) == first
    assert folder("renamed", {"Data/weights.bin": b"1234", "Manifest.json": b"56"})[1] != first[1]
    assert folder("shifted", {"Data/weight.bin": b"12345", "Manifest.json": b"6"})[1] != first[1]


def test_move_replaces_a_folder_that_is_there(tmp_path):
    for name in ("old.mlpackage", "new.mlpackage"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name[:3]).write_text("x")
    move(tmp_path / "new.mlpackage", tmp_path / "old.mlpackage")
    assert [path.name for path in tmp_path.rglob("*")] == ["old.mlpackage", "new"]


@pytest.mark.parametrize(
    ("parity", "dtype", "verdict"),
    [
        (GOOD, "float32", "passed"),
        (replace(GOOD, relative_error=1e-3), "float32", "failed"),
        (replace(GOOD, relative_error=1e-3), "float16", "passed"),
        (replace(GOOD, relative_error=0.06, rms_error=0.015), "float16", "passed"),
        (replace(GOOD, relative_error=0.06, rms_error=0.021), "float16", "failed"),
        (replace(GOOD, relative_error=float("nan")), "float32", "failed"),
        (replace(GOOD, top1_agreement=0.875), "float32", "failed"),
        (UNSEEN, "float16", "not executed"),
        # one image that a rounding has led away passes, a shift of all does not
        (replace(GOOD, relative_error=0.35, rms_error=0.05), "int8", "passed"),
        (replace(GOOD, relative_error=0.2, rms_error=0.11), "int8", "failed"),
        (replace(GOOD, relative_error=0.2, rms_error=0.05, top1_agreement=0.875), "int8", "failed"),
        (replace(GOOD, relative_error=0.2), "int8", "failed"),
        (replace(GOOD, relative_error=0.2, rms_error=1e-6), "float32", "failed"),
    ],
)
def test_a_file_passes_by_its_error_and_its_classes_and_never_unseen(parity, dtype, verdict):
    assert parity.verdict(dtype) == verdict
    assert replace(artifact(Path()), parity=parity, dtype=dtype).verdict == verdict


def test_an_artifact_without_parity_is_not_passed():
    assert artifact(Path(), None).verdict == "not executed"


def test_what_json_has_no_word_for_is_refused():
    assert encode_path(Path("model") / "net.pte") == "model/net.pte"
    with pytest.raises(TypeError, match="JSON has no complex"):
        encode_path(1j)
