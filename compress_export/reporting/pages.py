"""The pages of a run: report.html, report.md and report.json, which say the same."""

from __future__ import annotations

from compress_export.progress import Reporter
from compress_export.reporting.html import html
from compress_export.reporting.json_page import as_json
from compress_export.reporting.markdown import markdown, surroundings
from compress_export.reporting.record import gather
from compress_export.reporting.values import Summary
from compress_export.run_directory import RunDirectory


def renew_pages(run: RunDirectory) -> None:
    """Writes the pages again, and says so, where the run has them: they lack what was measured or exported since."""
    if run.has("report.html"):
        write_pages(run)
        Reporter().say(f"{run / 'report.html'}, report.md and report.json are written anew")


def write_pages(run: RunDirectory) -> Summary:
    """Writes all three, each whole or not at all; the summary that they say. InputError as `summarize_run` gives it."""
    record = gather(run)
    run.write_text("report.md", markdown(record.summary) + surroundings(record))
    run.write_text("report.json", as_json(record))
    run.write_text("report.html", html(record))
    return record.summary
