import numpy as np
import pytest
from exporter_networks import images, small_network

from exporters.artifact import Artifact, ExportError
from exporters.capture import capture, save
from exporters.parity import logits_of
from exporters.worker import Job, _sentence, work


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
        directory=str(tmp_path / "out"),
        scratch=str(tmp_path / "scratch"),
        programs={"original": str(tmp_path / "a.pt2")},
        images=str(tmp_path / "images.npy"),
        reference={"original": str(tmp_path / "reference.npy")},
    )


def test_a_job_comes_back_from_its_file(tmp_path, job):
    job.write(tmp_path / "job.json")
    assert Job.read(tmp_path / "job.json") == job


def test_the_file_is_in_place_when_done_is_said(tmp_path, job):
    said = []

    def say(message):
        said.append((message["stage"], (tmp_path / "out" / "original.ptl").exists()))
        if "artifact" in message:
            assert Artifact.from_row(message["artifact"], tmp_path / "out").verdict == "passed"

    work(job, say)
    assert said == [("exporting", False), ("checking", False), ("done", True)]
    assert list((tmp_path / "scratch").iterdir()) == []


def test_reference_logits_of_another_shape_stop_the_job_before_the_file_is_in_place(tmp_path, job):
    np.save(tmp_path / "reference.npy", np.zeros((5, 9), np.float32))
    with pytest.raises(ExportError, match=r"the file gave \(5, 10\), the module \(5, 9\)"):
        work(job, lambda message: message)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_bug_is_one_sentence_with_its_place():
    with pytest.raises(KeyError) as caught:
        {}["key"]
    assert _sentence(caught.value).startswith("KeyError: 'key' (at test_worker.py:")
    assert _sentence(caught.value).endswith("report this as a bug")
