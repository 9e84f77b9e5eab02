from pathlib import Path

import pytest

from bench.measurement import BenchError
from bench.runner.build import Log


def test_a_step_that_fails_shows_its_last_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log(tmp_path / "build.log")
    log.do(["sh", "-c", "echo well; echo ill >&2"], "beginning")
    assert capsys.readouterr().out.startswith("beginning ...\n  ")
    words = r"^trying failed with exit status 3; the last lines of .*build\.log:\nwell\nill\nthe reason$"
    with pytest.raises(BenchError, match=words):
        log.do(["sh", "-c", "echo the reason; exit 3"], "trying")
    assert capsys.readouterr().out == "trying ...\n"
