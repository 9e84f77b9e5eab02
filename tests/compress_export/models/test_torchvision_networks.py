"""Four networks of every kind of layer through the real command, into all four formats."""

import json
import subprocess
import sys

import pytest


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x1_0", "squeezenet1_1"])
def test_a_network_is_compressed_and_exported_to_all_formats(name, tmp_path):
    words = [name, "--weights", "none", "--max-params", "0.5x", "--set", "plan.costs=counted", "--target", "all"]
    words += ["--set", "bench.cap=0.2", "--name", "run"]
    if name != "mobilenet_v2":  # one at its own size is enough: what is tested are the layers, and the rest is waiting
        words += ["--input", "3x64x64"]
    done = subprocess.run(
        [sys.executable, "-m", "compress_export", *words], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    run = tmp_path / "runs" / "run"
    before, after = (json.loads((run / f"{part}.json").read_text())["parameters"] for part in ("survey", "compressed"))
    assert 0.45 * before < after <= 0.5 * before
    files = {(row["network"], row["format"]): row for row in json.loads((run / "artifacts.json").read_text())}
    assert len(files) == 8
    for (network, form), row in files.items():
        if form == "mlpackage":
            assert not row["parity"]["executed"]
            assert "stored weights match" in row["parity"]["note"]
        else:
            assert row["parity"]["relative_error"] <= 1e-4
            assert row["parity"]["top1_agreement"] == 1
        if network == "compressed":
            assert row["bytes"] < 0.6 * files["original", form]["bytes"]
