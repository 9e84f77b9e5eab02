"""Verbs that measure or export anew renew the pages of a run that has them, and leave a run without them alone."""

import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from report_runs import counted, report_run

from bench.measurement import BenchError
from compress_export.pipeline import files as profile_stage
from compress_export.pipeline import run as pipeline
from compress_export.reporting.pages import renew_pages, write_pages
from compress_export.run_directory import RunDirectory
from compress_export.settings import BenchSettings, ExportSettings
from exporters.artifact import read_artifacts


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with its pages, on which verbs work without its network."""
    path = report_run(tmp_path / "net")
    write_pages(RunDirectory(path))

    @contextmanager
    def existing(*_):
        yield SimpleNamespace(run=RunDirectory(path))

    monkeypatch.setattr(pipeline, "_existing", existing)
    monkeypatch.setattr(pipeline, "choose_device", lambda *_: None)
    return path


def said(path):
    """Instructions that each page of the run tells of the compressed file."""
    pages = [(path / f"report.{suffix}").read_text() for suffix in ("html", "md")]
    found = json.loads((path / "report.json").read_text())["instructions"]
    return ["1,000" in page and "4.00x fewer" in page for page in pages], [row["run"]["instructions"] for row in found]


def test_bench_renews_the_pages(run, monkeypatch, capsys):
    monkeypatch.setattr(pipeline, "measure_stage", lambda *_, **__: counted(run))
    assert said(run) == ([False, False], [])
    pipeline.bench_only(run, BenchSettings())
    assert said(run) == ([True, True], [4000, 1000])
    assert "report.html, report.md and report.json are written anew" in " ".join(capsys.readouterr().err.split())


def test_what_was_measured_before_a_fault_is_on_the_pages(run, monkeypatch):
    def unplugged(*_, **__):
        counted(run)
        raise BenchError("the phone is gone")

    monkeypatch.setattr(pipeline, "measure_stage", unplugged)
    with pytest.raises(BenchError, match="the phone is gone"):
        pipeline.bench_only(run, BenchSettings())
    assert said(run) == ([True, True], [4000, 1000])


def test_export_renews_the_pages(run, monkeypatch):
    monkeypatch.setattr(pipeline, "_newest", lambda *_: (None, None))
    artifacts = read_artifacts(counted(run) / "artifacts.json")
    monkeypatch.setattr(pipeline, "export_stage", lambda *_: artifacts)
    pipeline.export_only(run, ("onnx",), ExportSettings())
    assert said(run) == ([True, True], [4000, 1000])


def test_a_profile_renews_the_pages(run, monkeypatch):
    monkeypatch.setattr(profile_stage, "load", lambda *_: SimpleNamespace(images=torch.zeros(1)))
    monkeypatch.setattr(profile_stage, "stored_source", lambda _: None)
    monkeypatch.setattr(profile_stage, "profile_files", lambda *_: counted(run))
    profile_stage.profile_run(run, BenchSettings())
    assert said(run) == ([True, True], [4000, 1000])


def test_a_run_without_pages_gets_none(run):
    for suffix in ("html", "md", "json"):
        (run / f"report.{suffix}").unlink()
    renew_pages(RunDirectory(run))
    assert not list(run.glob("report.*"))
