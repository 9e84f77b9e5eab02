import os
import signal
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest
from exporter_networks import images, small_network

from exporters import processes
from exporters.artifact import ExportError
from exporters.capture import capture, save
from exporters.formats import FORMATS
from exporters.parity import logits_of
from exporters.processes import export_all

IMAGES = images(4).numpy()


@pytest.fixture(scope="module")
def networks(tmp_path_factory):
    """Paths of two captured networks, and their modules' logits."""
    folder = tmp_path_factory.mktemp("programs")
    modules = {"original": small_network(), "compressed": small_network(seed=1)}
    for name, module in modules.items():
        save(capture(module, images()), folder / f"{name}.pt2")
    paths = {name: folder / f"{name}.pt2" for name in modules}
    return paths, {name: logits_of(module, IMAGES) for name, module in modules.items()}


@pytest.mark.slow
def test_two_networks_in_two_formats_side_by_side(tmp_path, networks):
    said = []
    artifacts = export_all(
        networks[0], ("onnx", "ptl"), tmp_path, IMAGES, networks[1], progress=lambda *words: said.append(words)
    )
    made = [(artifact.network, artifact.format, artifact.verdict) for artifact in artifacts]
    assert made == [(name, kind, "passed") for name in ("original", "compressed") for kind in ("onnx", "ptl")]
    assert {entry.name for entry in tmp_path.iterdir()} == {artifact.path.name for artifact in artifacts}
    stages = ("exporting", "checking", "done")
    assert [words for words in said if words[0] == "ptl"] == [
        ("ptl", name, stage) for name in networks[0] for stage in stages
    ]


def test_formats_that_finished_are_handed_on_before_another_fails(tmp_path, networks, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], effort=-1))  # the last to start
    made = []
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(b"no zip")
    (path,) = (networks[0]["original"],)
    start = processes._start

    def spoil(name, *given):
        if name == "onnx":
            path_of_job = given[0]
            path_of_job.write_text(path_of_job.read_text().replace(str(path.resolve()), str(broken)))
        return start(name, *given)

    monkeypatch.setattr(processes, "_start", spoil)
    with pytest.raises(ExportError, match=r"^onnx: "):
        export_all(
            {"original": path}, ("ptl", "onnx"), tmp_path, IMAGES, networks[1], finished=made.append, processes=1
        )
    ((artifact,),) = made
    assert (artifact.format, artifact.verdict) == ("ptl", "passed")
    assert artifact.path.exists()


@pytest.mark.slow
def test_all_formats(tmp_path, networks):
    artifacts = export_all(networks[0], tuple(FORMATS), tmp_path, IMAGES, networks[1])
    assert [artifact.verdict for artifact in artifacts] == 2 * ["passed", "passed", "passed", "not executed"]


def test_a_childs_error_arrives_as_its_sentence_and_nothing_half_written_stays(tmp_path, networks):
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(b"no zip")
    target = tmp_path / "out"
    with pytest.raises(ExportError, match=r"^ptl: .*broken.pt2 is not a captured program .* version of torch$"):
        export_all({"original": broken}, ("ptl",), target, IMAGES, networks[1])
    assert list(target.iterdir()) == []


@pytest.mark.timeout(120)
def test_lines_that_others_print_before_the_worker_runs_are_passed_over(tmp_path, networks, monkeypatch):
    print_all = r"import sys; print('hello'); print(3, flush=True); sys.stdout.buffer.write(b'\xff\n')"
    (tmp_path / "sitecustomize.py").write_text(print_all)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    original = {"original": networks[0]["original"]}
    (artifact,) = export_all(original, ("ptl",), tmp_path / "out", IMAGES, networks[1])
    assert artifact.verdict == "passed"


def started(monkeypatch):
    """The children that export_all starts, as they come."""
    children, start = [], processes._start
    monkeypatch.setattr(processes, "_start", lambda *given: children.append(start(*given)) or children[-1])
    return children


def test_a_killed_child_is_told_from_a_failed_one_and_the_other_is_ended(tmp_path, networks, monkeypatch):
    children = started(monkeypatch)

    def kill() -> None:
        while len(children) < 2:
            time.sleep(0.01)
        children[1].process.send_signal(signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    with pytest.raises(ExportError, match=r"^ptl: its process was killed by signal 9 \(SIGKILL\), .* memory ran out"):
        export_all(networks[0], ("pte", "ptl"), tmp_path, IMAGES, networks[1], processes=2)
    thread.join()
    assert [child.process.poll() is not None for child in children] == [True, True]
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_the_children_and_leaves_nothing_half_written(tmp_path, networks, monkeypatch):
    children = started(monkeypatch)

    def interrupt() -> None:
        while not children:
            time.sleep(0.01)
        time.sleep(0.3)
        os.kill(os.getpid(), signal.SIGINT)

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        export_all(networks[0], ("pte", "onnx"), tmp_path, IMAGES, networks[1])
    thread.join()
    assert all(child.process.poll() is not None for child in children)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_work_is_refused_before_a_child_starts(tmp_path, networks, monkeypatch):
    monkeypatch.setattr(processes, "_start", None)
    paths, reference = networks
    with pytest.raises(ExportError, match=r"there is no format 'onx'; did you mean onnx\?"):
        export_all(paths, ("onx",), tmp_path, IMAGES, reference)
    with pytest.raises(ExportError, match=r"there is no program at none.pt2; `exporters.capture.save` writes one"):
        export_all({"original": Path("none.pt2")}, ("onnx",), tmp_path, IMAGES, reference)
    with pytest.raises(ExportError, match=r"'a/b' cannot; use letters, digits, - and _"):
        export_all({"a/b": paths["original"]}, ("onnx",), tmp_path, IMAGES, reference)
    with pytest.raises(ExportError, match=r"original has none; pass reference\['original'\]"):
        export_all(paths, ("onnx",), tmp_path, IMAGES, {})


def test_a_child_that_ends_without_a_word_is_reported_with_its_last_line(tmp_path):
    log = tmp_path / "onnx.log"
    log.write_text("starting\nModuleNotFoundError: No module named 'x'\n")

    class Ended:
        def wait(self):
            return 3

    with pytest.raises(ExportError, match=r"onnx: its process ended with status 3: ModuleNotFoundError: No module"):
        processes._check_end(processes._Child("onnx", Ended(), log))
