"""Networks of every kind of layer in all four formats, original and compressed: one through the real command, the
others in this process, which imports each toolkit once."""

import json

import pytest

import compress_export as ce
from compress_export.data.images import View, photograph_crops
from compress_export.models.networks import NetworkRequest, load_network, settle
from exporters.formats import FORMATS

SIDE = 64  # the networks' own size would only take longer: what is tested are the layers


def judged(parity, form):
    """Asserts that a file matches its module; where the format's runtime is missing, its interpreter says so.

    In float16, random weights on images this small let torch itself be 3 % off in a logit.
    """
    assert parity["interpreter"] == FORMATS[form].interpreted
    if FORMATS[form].computes == "float32":
        assert parity["relative_error"] <= 1e-4
    assert parity["cosine"] >= 0.9999
    assert parity["top1_agreement"] == 1


@pytest.mark.slow
def test_the_command_compresses_a_network_and_exports_it_to_all_formats(call, tmp_path):
    words = ["mobilenet_v3_small", "--weights", "none", "--max-params", "0.5x", "--set", "plan.costs=counted"]
    words += ["--input", f"3x{SIDE}x{SIDE}", "--target", "all", "--set", "bench.cap=0.2", "--name", "run"]
    status, _, err = call(tmp_path, *words)
    assert status == 0, err
    run = tmp_path / "runs" / "run"
    before, after = (json.loads((run / f"{part}.json").read_text())["parameters"] for part in ("survey", "compressed"))
    assert 0.45 * before < after <= 0.5 * before
    files = {(row["network"], row["format"]): row for row in json.loads((run / "artifacts.json").read_text())}
    assert len(files) == 10
    for (network, form), row in files.items():
        judged(row["parity"], form)
        if network == "compressed":
            assert row["bytes"] < 0.6 * files["original", form]["bytes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenet_v2", "shufflenet_v2_x1_0", "squeezenet1_1"])
def test_another_network_is_compressed_and_exported_to_all_formats(name, tmp_path):
    network = load_network(NetworkRequest(name, "none", input=(3, SIDE, SIDE)))
    images = photograph_crops(View.of(network), 24)
    settle(network.module, images)
    plan = ce.make_plan(network.module, ce.survey(network.module, images[:1]), ce.Goal(max_params="0.5x"))
    smaller = ce.compress(network.module, plan)
    assert 0.45 * smaller.before.parameters < smaller.after.parameters <= 0.5 * smaller.before.parameters
    for form in FORMATS:  # the original is in it: the layers that are kept, and all between them
        artifact = ce.export(smaller.module, images[:1], form, tmp_path / f"x.{form}", images=images[:8].numpy())
        judged(vars(artifact.parity), form)
        assert artifact.bytes < 0.6 * 4 * smaller.before.parameters
