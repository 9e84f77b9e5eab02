"""A user's mistake ends in one clear message, status 1, and leaves nothing half-written."""

import json
import os
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from PIL import Image

NONE = ("--weights", "none")
FAST = ("--set", "plan.costs=counted")
HALF = ("--max-params", "0.5x", *FAST)
COUNTED = (*NONE, "--input", "3x16x16", *FAST)
SMALL = "the small network"
"""Stands for the file of net_file in the words of a command."""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["alexnt"], "there is no network 'alexnt': did you mean alexnet"),
        (["net.py"], "net.py: name the function that builds the network as well, net.py:FUNCTION"),
        (["alexnet", "--name", "../elsewhere"], "--name '../elsewhere' is not the name of one folder"),
        (["alexnet", "--target", "androd"], "android"),
        (["alexnet", "--format", "onx"], "onnx"),
        (["alexnet", "--target", "ios", "--format", "onnx"], "--target and --format name the same thing"),
        (["alexnet", "--data", "digts"], "there is no data 'digts': did you mean digits"),
        (["alexnet", "--data", "fotos/"], "--data fotos/: there is no such folder"),
        (["alexnet", "--weights", "fotos.pt"], "--weights fotos.pt: there is no such file"),
        (["comapre", "a", "b"], "there is no command 'comapre': did you mean compare"),
        (["alexnet", "--train", "3"], "--train needs --data"),
        (["alexnet", "--max-params", "0.5"], "--max-params takes a limit with its unit, such as 0.15x or 8.7M"),
        (["alexnet", "--max-params", "1.5x"], "a fraction lies above 0x and is at most 1x"),
        (["alexnet", "--input", "224"], "--input takes channels x height x width"),
        (["alexnet", "--set", "source.mean=a,b,c"], "source.mean takes a number for each channel"),
        (["squeezenet1_1", "--set", "source.mean=0.5", *NONE], "takes 3 channel(s), but is normalized by 1 mean(s)"),
        (["squeezenet1_1", "--set", "source.std=0.5,0,0.5", *NONE], "source.std 0.0: a deviation is above 0"),
        (
            ["squeezenet1_1", "--data", "digits", "--set", "source.crop_pct=0.9", *NONE],
            "source.crop_pct is for folders of pictures, and each image of digits is resized to 224x224 (bilinear), u",
        ),
        (["alexnet", "--ranks", "a"], "--ranks takes layer=rank,... or a paper's, not 'a'"),
        (["alexnet", "--ranks", "a=0"], "--ranks takes layer=rank"),
        (["alexnet", "--plan", "p.json", "--max-params", "0.5x"], "--plan replays ranks that are chosen already"),
        (["alexnet", "--ranks", "a=1", "--max-params", "0.5x"], "--ranks chooses them; leave out --max-params"),
        (["alexnet", "--max-latency", "5M"], "'M' is no unit of it (units: x, us, ms, s)"),
        (["alexnet", "--methods", "cp,tuker"], "there is no method 'tuker': did you mean tucker"),
        (
            ["alexnet", "--max-size", "0.5x", "--set", "plan.rank_rule=vbmf"],
            "the rank rule vbmf cannot answer to --max-size",
        ),
        (["squeezenet1_1", "--max-drop", "1%", *NONE], "--max-drop measures accuracy, and there is none to measure"),
        (
            [SMALL, "--max-latency", "5ms", *COUNTED],
            "--max-latency 5ms needs times, and plan.costs=counted",
        ),
        (
            ["alexnet", "--max-drop", "1%"],
            "--max-drop measures accuracy, and there is none to measure: it needs --data",
        ),
        (["alexnet", "--data", "digits", "--max-drop", "1%", *NONE], "--max-drop measures accuracy, and there is none"),
        (
            ["plan", "alexnet", "--set", "plan.rank_rule=sensitivity"],
            "--set plan.rank_rule=sensitivity measures accuracy, and there is n",
        ),
        (
            ["alexnet", "--max-latency", "5ms", "--set", "plan.costs=counted"],
            "plan.costs=counted measures none; leave it out",
        ),
        (
            ["alexnet", "--max-latency", "5ms", "--threads", "2", *NONE],
            "with 2 threads, where they take other times; pas",
        ),
        ([SMALL, "--methods", "channel", "--max-macs", "0.01x", *COUNTED], "max-macs 0.01x cannot be met"),
        (["alexnet", "--plan", "p.json", "--ranks", "a=1"], "ranks that are chosen already; leave out --ranks"),
        (["alexnet", "--plan", "missing.json"], "--plan missing.json: there is no such file"),
        (
            ["alexnet", "--set", "plan.rank_rule=sensitivty"],
            "there is no rank rule 'sensitivty': did you mean sensitivity",
        ),
        (["alexnet", "--set", "fine_tune.schedule=oneshot"], "there is no schedule 'oneshot': did you mean one-shot"),
        (["squeezenet1_1", "--set", "plan.rank_rule=sensitivity", *NONE], "there is none to measure"),
        ([SMALL, "--keep-layers", "features.99", *COUNTED], "features.99"),
        ([SMALL, "--ranks", "8=999", *COUNTED], "SVD ranks go up to 48"),
        ([SMALL, "--max-params", "0.1k", *COUNTED], "max-params 0.1k cannot be met: max-params "),
        (["squeezenet1_1", "--input", "3x9x9", *NONE], "does not take a 3x9x9 image"),
        (["squeezenet1_1", "--weights", "missing.pt"], "there is no such file"),
        (["report", "runs/nothing"], "is no run directory; make one with `compress-export plan NETWORK`"),
        (["compress", "runs/nothing"], "is no run directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_message_says_what_is_wrong(tmp_path, call, net_file, words, message):
    status, out, err = call(tmp_path, *(f"{net_file}:build" if word == SMALL else word for word in words))
    assert (status, out) == (1, "")
    last = err.strip().splitlines()[-1]
    assert last.startswith("compress-export: ")
    assert message in last
    assert "Traceback" not in err
    assert not list(tmp_path.rglob("*.partial"))


def test_options_that_do_not_exist_are_answered_by_the_nearest(tmp_path, call):
    status, _, err = call(tmp_path, "alexnet", "--max-param", "0.5x")
    assert status == 2
    assert "--max-params" in err


def test_weights_of_another_network_are_named(tmp_path, call):
    from torchvision import models

    torch.save(models.squeezenet1_0(weights=None).state_dict(), tmp_path / "w.pt")
    status, _, err = call(tmp_path, "squeezenet1_1", "--weights", "w.pt")
    assert status == 1
    assert "is of another network: features.0.weight is 96x3x7x7 there and 64x3x3x3 here" in err


def test_a_pickle_with_code_is_refused(tmp_path, call):
    torch.save(Path("here"), tmp_path / "w.pt")
    status, _, err = call(tmp_path, "squeezenet1_1", "--weights", "w.pt")
    assert status == 1
    assert "cannot be read as weights alone" in err


@pytest.fixture
def photos(tmp_path):
    """A folder of images as users have it: three classes, train/ and val/."""
    generator = torch.Generator().manual_seed(0)
    for part, count in (("train", 8), ("val", 4)):
        for name in ("ant", "bee", "cat"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 255, (40, 48, 3), generator=generator, dtype=torch.uint8).numpy()
                Image.fromarray(pixels).save(tmp_path / "photos" / part / name / f"{number}.png")
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def compressed_once(tmp_path_factory, net_file, status_once):
    """runs/one, a small network planned and compressed."""
    folder = tmp_path_factory.mktemp("compressed")
    good = ("plan", f"{net_file}:build", "--input", "3x16x16", *NONE, *HALF, "--name", "one")
    assert [status_once(folder, *words) for words in (good, ("compress", "runs/one"))] == [0, 0]
    return folder


@pytest.fixture
def compressed(compressed_once, tmp_path):
    """A folder of the test's own with that run in it."""
    return shutil.copytree(compressed_once, tmp_path / "compressed")


def trained(net_file, *more):
    return (f"{net_file}:build", "--input", "3x16x16", "--data", "photos", *more, *FAST, "--format", "onnx")


def test_labels_that_do_not_fit_the_outputs(photos, net_file, call):
    status, _, err = call(photos.parent, *trained(net_file))
    assert status == 1
    assert "photos has 3 classes and the network 10 outputs; pass --train EPOCHS" in err


BY_COLOUR = '''
"""Tells images apart by their colour: output 0 is green, 1 is red, 2 is blue."""
import torch
from torch import nn

def build():
    network = nn.Sequential(nn.Conv2d(3, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.zeros_(network[0].weight), nn.init.zeros_(network[0].bias)
    network[0].weight.data[:, :, 1, 1] = torch.eye(3)[[1, 0, 2]]
    return network
'''


def test_outputs_in_another_order_than_the_folders_are_named(tmp_path, call):
    for part in ("train", "val"):
        for name, colour in (("ant", "red"), ("bee", "lime"), ("cat", "blue")):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for number in range(60):
                Image.new("RGB", (20, 20), colour).save(tmp_path / "photos" / part / name / f"{number}.png")
    (tmp_path / "net.py").write_text(BY_COLOUR)
    status, _, err = call(tmp_path, *trained(tmp_path / "net.py"))
    assert status == 1
    assert re.search(
        r"photos: .*images of (ant \(output 0\) mostly get output 1|bee \(output 1\) mostly get output 0)", err
    )
    assert not (tmp_path / "runs").exists() or not list(tmp_path.rglob("network.json"))


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: shutil.rmtree(folder / "val"), "photos has no val/ folder"),
        (lambda folder: shutil.rmtree(folder / "val" / "bee"), "must hold the same classes; val/ lacks bee"),
        (lambda folder: [shutil.rmtree(f) for f in (folder / "train").iterdir()], "train is empty"),
        (lambda folder: [f.unlink() for f in (folder / "val" / "ant").iterdir()], "photos/val/ant holds no pictures"),
    ],
    ids=["no val", "a class in one only", "no classes", "a class without images"],
)
def test_an_image_folder_that_is_not_whole(photos, call, spoil, message):
    spoil(photos)
    words = ("squeezenet1_1", "--input", "3x32x32", "--data", "photos", "--train", "1", "--format", "onnx", *FAST)
    status, _, err = call(photos.parent, *words)
    assert status == 1
    assert message in err


@pytest.mark.parametrize("part", ["train", "val"])
def test_a_truncated_image_is_named(photos, call, part):
    victim = photos / part / "bee" / "0.png"
    victim.write_bytes(victim.read_bytes()[:200])
    words = ("squeezenet1_1", "--input", "3x32x32", "--data", "photos", "--train", "1", "--format", "onnx", *FAST)
    words += ("--epochs", "0")
    status, _, err = call(photos.parent, *words)
    assert status == 1
    assert f"photos/{part}/bee/0.png is not a whole image" in err.strip().splitlines()[-1]
    assert part == "train" or "Planning" not in err  # validation images are read before anything is planned


def test_data_that_cannot_be_downloaded(tmp_path, call, monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there: a machine without a network
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    words = ("squeezenet1_1", "--input", "3x32x32", "--data", "mnist", "--train", "1", *FAST)
    status, _, err = call(tmp_path, *words)
    assert status == 1
    assert "mnist is not in data and cannot be downloaded" in err
    assert "--data digits, which needs no network" in err


def test_another_process_in_the_same_run_is_refused(tmp_path, call):
    from compress_export.run_directory import open_run

    with open_run(tmp_path / "runs" / "busy"):
        status, _, err = call(tmp_path, "squeezenet1_1", *NONE, "--name", "busy")
    assert status == 1
    assert "another process works in runs/busy; wait for it, or pass --name" in err
    (tmp_path / "runs/busy").mkdir(parents=True)
    (tmp_path / "runs/busy/settings.json").write_text("{}")
    with open_run(tmp_path / "runs" / "busy"):
        status, _, err = call(tmp_path, "report", "runs/busy")
    assert (status, err.endswith("another process works in runs/busy; wait for it\n")) == (1, True)


def test_a_place_that_cannot_be_written(tmp_path, call):
    (tmp_path / "runs").write_text("a file where a folder should be")
    status, _, err = call(tmp_path, "squeezenet1_1", *NONE)
    assert status == 1
    assert "cannot be written" in err
    assert "--runs DIR" in err


def test_a_run_that_cannot_be_written_names_what_helps(tmp_path, call):
    (tmp_path / "one" / ".lock").mkdir(parents=True)  # root may write anywhere, but not into a folder as into a file
    (tmp_path / "one" / "settings.json").write_text("{}")
    status, _, err = call(tmp_path, "report", "one")
    assert status == 1
    assert err.strip().endswith("one cannot be written (Is a directory); make it writable, or work on a copy of it")


@pytest.mark.slow
def test_a_handful_of_images_is_said_and_stands_in_the_report(photos, call):
    words = ("squeezenet1_1", "--input", "3x32x32", "--data", "photos", "--train", "1", "--epochs", "0", *FAST)
    status, _, err = call(photos.parent, *words, "--format", "onnx", "--set", "bench.cap=0.1", "--name", "few")
    assert status == 0
    said = "3 validation images (15 % of the training images) decide on ranks, and each is 33.3 points of top-1"
    assert f"note: {said}" in err
    assert said in (photos.parent / "runs/few/report.md").read_text()


@pytest.mark.slow
def test_a_full_disk_leaves_earlier_results_and_nothing_half_written(tmp_path, net_file):
    """A limit on the size of a file stands in for the full disk: the write fails in the same place."""
    command = [sys.executable, "-m", "compress_export", "plan", f"{net_file}:build", "--input", "3x16x16", *NONE, *FAST]
    small = 60_000  # the network's 120 kB of weights do not fit

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (small, small))

    words = [*command, "--name", "full"]
    done = subprocess.run(words, cwd=tmp_path, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs/full/original.safetensors").exists()
    assert not [
        path for path in (tmp_path / "runs/full").iterdir() if "partial" in path.name or path.stat().st_size > small - 1
    ]
    again = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (again.returncode, (tmp_path / "runs/full/plan.json").exists()) == (0, True)


def test_ctrl_c_is_one_message_and_the_run_goes_on_later(tmp_path, net_file):
    words = (f"{net_file}:build", "--input", "3x16x16", "--data", "digits", "--train", "500", "--name", "long")
    process = subprocess.Popen(
        [sys.executable, "-m", "compress_export", *words], cwd=tmp_path, stderr=subprocess.PIPE, text=True
    )
    rows = tmp_path / "runs/long/training.jsonl"
    deadline = time.monotonic() + 120
    while not rows.exists() or len(rows.read_text().splitlines()) < 3:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err.strip().splitlines()[-1] == "compress-export: interrupted; the same command goes on from here"
    assert "Traceback" not in err
    done = len([json.loads(line) for line in rows.read_text().splitlines()])
    assert done >= 3
    assert (tmp_path / "runs/long/training.pt").exists()


def test_a_slip_costs_nothing(tmp_path, call, compressed):
    """Bad input claims no run, and even --force removes results only once the new network is loaded."""
    missing = ("plan", "squeezenet1_1", "--weights", "missing.pt", "--name", "one")
    assert call(tmp_path, *missing)[0] == 1
    assert not (tmp_path / "runs" / "one").exists()
    shutil.copytree(compressed / "runs" / "one", tmp_path / "runs" / "one")
    status, _, err = call(tmp_path, *missing, "--force")
    assert (status, "there is no such file" in err) == (1, True)
    assert (tmp_path / "runs/one/plan.json").exists()


def test_files_that_lost_their_content_are_named(compressed, call):
    kept = (compressed / "runs/one/survey.json").read_text()
    (compressed / "runs/one/survey.json").write_text("{}")
    status, _, err = call(compressed, "report", "runs/one")
    assert (status, "a file of runs/one has lost its content" in err) == (1, True)
    (compressed / "runs/one/survey.json").write_text(kept)
    (compressed / "runs/one/original.safetensors").write_text("rubbish")
    status, _, err = call(compressed, "export", "runs/one", "--format", "onnx")
    assert (status, "original.safetensors is not a safetensors file" in err) == (1, True)


@pytest.mark.slow
def test_an_export_that_is_gone_is_made_again(compressed, call):
    assert call(compressed, "export", "runs/one", "--format", "onnx")[0] == 0
    (compressed / "runs/one/artifacts/compressed.onnx").write_text("rubbish")
    status, _, err = call(compressed, "export", "runs/one", "--format", "onnx")
    assert (status, "are gone or have changed: exporting them again" in err) == (0, True)
    assert (compressed / "runs/one/artifacts/compressed.onnx").stat().st_size > 10_000
    (compressed / "runs/one/artifacts/compressed.onnx").write_text("rubbish")
    status, _, err = call(compressed, "export", "runs/one", "--format", "ptl")
    assert (status, "have changed: `compress-export export runs/one --format onnx`" in err) == (0, True)
    status, _, err = call(compressed, "report", "runs/one")
    assert (status, "do not ship this: compressed.onnx" in err) == (1, True)


def test_a_network_file_that_changed_is_another_network(tmp_path, call, net_file):
    own = tmp_path / "net.py"
    own.write_text(net_file.read_text())
    good = ("plan", "net.py:build", "--input", "3x16x16", *NONE, *HALF, "--name", "one")
    assert call(tmp_path, *good)[0] == 0
    own.write_text(own.read_text().replace("nn.ReLU()", "nn.Tanh()"))
    status, _, err = call(tmp_path, *good)
    assert (status, "the file of the network has changed" in err) == (1, True)


def test_a_plan_that_is_rubbish_is_refused(tmp_path, call):
    (tmp_path / "plan.json").write_bytes(b"\xff\xfe rubbish")
    status, _, err = call(tmp_path, "squeezenet1_1", *NONE, "--plan", "plan.json")
    assert (status, "plan.json is not a plan" in err, "Traceback" in err) == (1, True, False)


def test_more_threads_than_cores_are_refused_before_any_work(tmp_path, call):
    status, _, err = call(tmp_path, "squeezenet1_1", *NONE, "--threads", "640")
    assert status == 1
    assert "640" in err
    assert not (tmp_path / "runs").exists()


def test_limits_are_checked_before_layers_are_probed(tmp_path, net_file, call):
    words = (
        f"{net_file}:build",
        "--input",
        "3x16x16",
        "--data",
        "digits",
        "--train",
        "1",
        *FAST,
        "--keep-layers",
        "nowhere",
    )
    status, _, err = call(tmp_path, "plan", *words)
    assert (status, "nowhere" in err, "Probing" in err) == (1, True, False)


def test_an_edited_plan_is_cut_anew(compressed, call):
    path = compressed / "runs/one/plan.json"
    plan = json.loads(path.read_text())
    plan["layers"][1] |= {"method": "keep", "rank": [], "reason": "by hand"}
    path.write_text(json.dumps(plan))
    status, _, err = call(compressed, "compress", "runs/one")
    assert (status, "has been edited: compressing again" in err) == (0, True)
    assert json.loads((compressed / "runs/one/compressed.json").read_text())["plan"]["layers"][1]["method"] == "keep"


TIED = """
from torch import nn
def build():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.Linear(64, 10))
    net[3].weight = net[1].weight
    return net
"""


def test_tied_weights_survive_a_run_of_their_own_files(tmp_path, call):
    (tmp_path / "tied.py").write_text(TIED)
    words = ("plan", "tied.py:build", "--input", "1x8x8", *NONE, "--ranks", "4=3", "--name", "tied")
    assert call(tmp_path, *words)[0] == 0
    assert call(tmp_path, "compress", "runs/tied")[0] == 0
    assert "tied to" in json.loads((tmp_path / "runs/tied/survey.json").read_text())["layers"][0]["must_keep"]


@pytest.mark.slow
def test_a_full_disk_during_export_is_one_message(compressed):
    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, 60_000))

    words = [sys.executable, "-m", "compress_export", "export", "runs/one", "--format", "onnx"]
    done = subprocess.run(words, cwd=compressed, preexec_fn=limit, capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (1, False)
    assert not list((compressed / "runs/one/artifacts").rglob("*.onnx"))
