import os
import signal
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from exporter_networks import images, small_network

from exporters import export_all as export_all_module
from exporters.artifact import ExportError
from exporters.capture import capture, save
from exporters.export_all import Job, export_all, export_networks, failure_text
from exporters.formats import FORMATS
from exporters.parity import logits_of

IMAGES = images(4).numpy()


def one(*formats):
    """The original network alone in these formats."""
    return dict.fromkeys(formats, ("original",))


def two(*formats):
    """Both networks in these formats."""
    return dict.fromkeys(formats, ("original", "compressed"))


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
    np.save(tmp_path / "test.npy", images(6).numpy())
    wanted = {"onnx": list(networks[0]), "ptl": ["compressed"]}
    exported = export_all(
        networks[0],
        wanted,
        tmp_path / "out",
        IMAGES,
        networks[1],
        test=tmp_path / "test.npy",
        progress=lambda *words: said.append(words),
    )
    made = [(each.artifact.network, each.artifact.format, each.artifact.verdict) for each in exported]
    assert made == [("original", "onnx", "passed"), ("compressed", "onnx", "passed"), ("compressed", "ptl", "passed")]
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {each.artifact.path.name for each in exported}
    stages = ("exporting", "checking", "running the test images", "done")
    assert [words for words in said if words[0] == "ptl"] == [("ptl", "compressed", stage) for stage in stages]
    for each in exported:
        module = small_network(seed=int(each.artifact.network == "compressed"))
        assert np.allclose(each.logits, logits_of(module, images(6).numpy()), atol=1e-4)


def test_formats_that_finished_are_handed_on_before_another_fails(tmp_path, networks, monkeypatch):
    monkeypatch.setitem(FORMATS, "onnx", replace(FORMATS["onnx"], effort=-1))  # the last to start
    made = []
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(b"no zip")
    (path,) = (networks[0]["original"],)
    start = export_all_module.start_export

    def spoil(job, threads):
        programs = {"original": broken} if job.format == "onnx" else job.programs
        return start(replace(job, programs=programs), threads)

    monkeypatch.setattr(export_all_module, "start_export", spoil)
    with pytest.raises(ExportError, match=r"^onnx: "):
        export_all(
            {"original": path}, one("ptl", "onnx"), tmp_path, IMAGES, networks[1], finished=made.append, processes=1
        )
    (((exported),),) = made
    artifact = exported.artifact
    assert (artifact.format, artifact.verdict) == ("ptl", "passed")
    assert artifact.path.exists()


def test_a_format_that_fails_is_told_of_and_the_others_go_on(tmp_path, networks, monkeypatch):
    broken, failed, start = tmp_path / "broken.pt2", [], export_all_module.start_export
    broken.write_bytes(b"no zip")

    def spoil(job, threads):
        programs = job.programs | ({"compressed": broken} if job.format == "onnx" else {})
        return start(replace(job, programs=programs), threads)

    monkeypatch.setattr(export_all_module, "start_export", spoil)
    exported = export_all(
        networks[0], two("onnx", "ptl"), tmp_path, IMAGES, networks[1], failed=failed.append, processes=1
    )
    assert [each.artifact.path.name for each in exported] == ["original.ptl", "compressed.ptl"]
    ((format, reason, whole),) = ((each.format, each.reason, each.exported) for each in failed)
    assert format == "onnx"
    assert "broken.pt2 is not a captured program" in reason
    assert [each.artifact.path for each in whole] == [tmp_path / "original.onnx"]


@pytest.mark.slow
def test_all_formats(tmp_path, networks):
    exported = export_all(networks[0], two(*FORMATS), tmp_path, IMAGES, networks[1])
    verdicts = [each.artifact.verdict for each in exported]
    assert verdicts == ["passed"] * 10


def test_a_childs_error_arrives_as_itsfailure_text_and_nothing_half_written_stays(tmp_path, networks):
    broken = tmp_path / "broken.pt2"
    broken.write_bytes(b"no zip")
    target = tmp_path / "out"
    with pytest.raises(ExportError, match=r"^ptl: .*broken.pt2 is not a captured program .* version of torch$"):
        export_all({"original": broken}, one("ptl"), target, IMAGES, networks[1])
    assert list(target.iterdir()) == []


@pytest.mark.timeout(120)
def test_lines_that_others_print_before_the_worker_runs_are_passed_over(tmp_path, networks, monkeypatch):
    print_all = r"import sys; print('hello'); print(3, flush=True); sys.stdout.buffer.write(b'\xff\n')"
    (tmp_path / "sitecustomize.py").write_text(print_all)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    original = {"original": networks[0]["original"]}
    (exported,) = export_all(original, one("ptl"), tmp_path / "out", IMAGES, networks[1])
    assert (exported.artifact.verdict, exported.logits) == ("passed", None)


def started(monkeypatch):
    """The workers that export_all starts, as they come."""
    workers, start = [], export_all_module.start_export

    @contextmanager
    def keep(job, threads):
        with start(job, threads) as worker:
            workers.append(worker)
            yield worker

    monkeypatch.setattr(export_all_module, "start_export", keep)
    return workers


def test_a_killed_child_is_told_from_a_failed_one_and_the_other_is_ended(tmp_path, networks, monkeypatch):
    children = started(monkeypatch)

    def kill() -> None:
        while len(children) < 2:
            time.sleep(0.01)
        children[1].process.send_signal(signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    text = r"^ptl: its process was killed by SIGKILL .* memory runs out: .*; close other programs or export one format"
    with pytest.raises(ExportError, match=text):
        export_all(networks[0], two("pte", "ptl"), tmp_path, IMAGES, networks[1], processes=2)
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
        export_all(networks[0], two("pte", "onnx"), tmp_path, IMAGES, networks[1])
    thread.join()
    assert all(child.process.poll() is not None for child in children)
    assert list(tmp_path.iterdir()) == []


def test_what_cannot_work_is_refused_before_a_child_starts(tmp_path, networks, monkeypatch):
    monkeypatch.setattr(export_all_module, "start_export", None)
    paths, reference = networks
    with pytest.raises(ExportError, match=r"there is no format 'onx'; did you mean onnx\?"):
        export_all(paths, one("onx"), tmp_path, IMAGES, reference)
    with pytest.raises(ExportError, match=r"there is no program at none.pt2; `exporters.capture.save` writes one"):
        export_all({"original": Path("none.pt2")}, one("onnx"), tmp_path, IMAGES, reference)
    with pytest.raises(ExportError, match=r"'a/b' cannot; use letters, digits, - and _"):
        export_all({"a/b": paths["original"]}, {"onnx": ("a/b",)}, tmp_path, IMAGES, reference)
    with pytest.raises(ExportError, match=r"onnx: there is no program of original; pass programs\['original'\]"):
        export_all({}, one("onnx"), tmp_path, IMAGES, reference)
    with pytest.raises(ExportError, match=r"original has none; pass reference\['original'\]"):
        export_all(paths, one("onnx"), tmp_path, IMAGES, {})


@pytest.fixture
def job(tmp_path):
    module = small_network()
    (tmp_path / "out").mkdir()
    (tmp_path / "scratch").mkdir()
    save(capture(module, images()), tmp_path / "a.pt2")
    np.save(tmp_path / "images.npy", images().numpy())
    np.save(tmp_path / "reference.npy", logits_of(module, images().numpy()))
    return Job(
        format="ptl",
        directory=tmp_path / "out",
        scratch=tmp_path / "scratch",
        programs={"original": tmp_path / "a.pt2"},
        images=tmp_path / "images.npy",
        reference={"original": tmp_path / "reference.npy"},
    )


def test_the_file_is_in_place_when_done_is_said(tmp_path, job):
    said = []

    def answer(step):
        said.append((step.stage, (tmp_path / "out" / "original.ptl").exists()))
        if step.artifact is not None:
            assert (step.artifact.path, step.artifact.verdict) == (tmp_path / "out" / "original.ptl", "passed")

    export_networks(job, answer)
    assert said == [("exporting", False), ("checking", False), ("done", True)]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_reference_logits_of_another_shape_stop_the_job_before_the_file_is_in_place(tmp_path, job):
    np.save(tmp_path / "reference.npy", np.zeros((5, 9), np.float32))
    with pytest.raises(ExportError, match=r"the file gave \(5, 10\), the module \(5, 9\)"):
        export_networks(job, lambda step: step)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bug_is_onefailure_text_with_its_place():
    with pytest.raises(KeyError) as caught:
        {}["key"]
    assert failure_text(caught.value).startswith("KeyError: 'key' (at test_export_all.py:")
    assert failure_text(caught.value).endswith("report this as a bug")
