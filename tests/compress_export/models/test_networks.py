import pytest
import torch
from torch import nn

from compress_export.errors import InputError
from compress_export.models.networks import LocalResponseNorm, NetworkRequest, load_network, settle
from compressor.survey import survey


def test_alexnet_caffe_is_the_network_that_the_papers_count():
    network = load_network(NetworkRequest("alexnet-caffe", "none"))
    found = survey(network.module, torch.zeros(1, *network.input))
    assert network.input == (3, 227, 227)
    assert found.parameters == 60_965_224
    assert found.macs == 724_406_816
    assert [layer.name for layer in found.layers][::4] == ["conv1", "conv5"]


def test_local_response_norm_equals_torchs():
    images = 30 * torch.randn(2, 7, 5, 6, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(LocalResponseNorm()(images), nn.LocalResponseNorm(5)(images))


@pytest.mark.parametrize(
    ("name", "size"),
    [("squeezenet1_1", (3, 224, 224)), ("inception_v3", (3, 299, 299)), ("timm:resnet10t", (3, 176, 176))],
)
def test_a_name_gives_a_module_and_its_image(name, size):
    network = load_network(NetworkRequest(name, "none"))
    assert (network.input, network.outputs, network.origin) == (size, 1000, "untrained")
    assert not network.module.training


def test_googlenet_comes_without_its_side_heads():
    names = [name for name, _ in load_network(NetworkRequest("googlenet", "none")).module.named_modules()]
    assert not [name for name in names if name.startswith("aux")]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alexnt", "did you mean alexnet"),
        ("timm:resnet81", "timm has no network 'resnet81': did you mean resnet18"),
        ("missing.py:build", "there is no file missing.py"),
    ],
)
def test_an_unknown_network_is_answered_with_the_nearest(name, message):
    with pytest.raises(InputError, match=message):
        load_network(NetworkRequest(name, "none"))


def test_weights_that_nobody_publishes_are_answered_with_the_ways_on():
    with pytest.raises(InputError, match=r"--weights FILE.*--data digits.*--weights none"):
        load_network(NetworkRequest("alexnet-caffe"))


def test_weights_that_cannot_be_downloaded_are_answered_with_the_ways_on(monkeypatch, tmp_path):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")  # nothing listens there: a machine without a network
    with pytest.raises(InputError, match=r"cannot be downloaded .*--weights FILE.*--data digits.*--weights none"):
        load_network(NetworkRequest("squeezenet1_1"))


NET = """
import torch
class Wide(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(48, 7)
    def forward(self, x):
        return self.layer(x.flatten(1))
def build():
    return Wide()
def broken():
    return 1 / 0
def wrong():
    return "a network"
"""


@pytest.fixture
def file(tmp_path):
    (tmp_path / "net.py").write_text(NET)
    return tmp_path / "net.py"


def test_a_file_of_the_users_is_run_and_said_to_be(file, capsys):
    network = load_network(NetworkRequest(f"{file}:build", input=(3, 4, 4)))
    assert (network.outputs, network.origin) == (7, "module file")
    assert "running build() of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("function", "message"),
    [
        ("build", "does not tell the size of its images; pass --input"),
        ("bild", "has no function bild: did you mean build"),
        ("broken", r"raised ZeroDivisionError: division by zero \(.*net.py:12\)"),
        ("wrong", "returned str; it must return a torch.nn.Module"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(file, function, message):
    with pytest.raises(InputError, match=message):
        load_network(NetworkRequest(f"{file}:{function}"))


def test_weights_from_a_file_decide_the_number_of_outputs(tmp_path):
    trained = load_network(NetworkRequest("squeezenet1_1", "none", outputs=6))
    torch.save(trained.module.state_dict(), tmp_path / "w.pt")
    network = load_network(NetworkRequest("squeezenet1_1", str(tmp_path / "w.pt")))
    assert (network.outputs, network.origin) == (6, "file")
    assert torch.equal(network.module.classifier[1].weight, trained.module.classifier[1].weight)


def test_an_untrained_network_is_made_to_answer_differently():
    torch.manual_seed(0)
    network = load_network(NetworkRequest("resnet18", "none", input=(3, 64, 64))).module
    images = torch.rand(24, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    settle(network, images)
    with torch.no_grad():
        logits = network(images)
    assert float(logits.std()) == pytest.approx(1, rel=0.02)
    assert len(set(logits.argmax(dim=1).tolist())) > 4
    assert all(norm.momentum == 0.1 for norm in network.modules() if isinstance(norm, nn.BatchNorm2d))


def test_a_task_that_the_outputs_do_not_fit_is_refused(tmp_path):
    (tmp_path / "maps.py").write_text("import torch\ndef build():\n    return torch.nn.Conv2d(3, 4, 3)\n")
    with pytest.raises(InputError, match="answers an image with one row of logits, and this network gives 4x6x6"):
        load_network(NetworkRequest(f"{tmp_path / 'maps.py'}:build", input=(3, 8, 8), task="classify"))


def test_a_grey_network_gets_grey_images(tmp_path):
    text = "import torch\ndef build():\n    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))\n"
    (tmp_path / "grey.py").write_text(text)
    network = load_network(NetworkRequest(f"{tmp_path / 'grey.py'}:build", input=(1, 8, 8)))
    assert (network.mean, network.std) == ((0.449,), (0.226,))


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (NetworkRequest("googlenet", "none"), False),
        (NetworkRequest("googlenet", "none", origin="pretrained"), True),
        (NetworkRequest("googlenet", train=True), False),
    ],
)
def test_published_weights_get_the_images_that_they_were_trained_on(order, expected):
    assert load_network(order).module.transform_input is expected


def test_an_image_that_the_networks_own_code_refuses():
    with pytest.raises(InputError, match=r"vit_b_32 does not take a 3x64x64 image: .*; pass another --input"):
        load_network(NetworkRequest("vit_b_32", "none", input=(3, 64, 64)))
